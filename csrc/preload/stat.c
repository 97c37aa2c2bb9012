/* SPDX-License-Identifier: MIT */
/**
 * @file stat.c
 * What stat() and fstat() say of emulated files.
 */
#include <errno.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "path.h"
#include "sys.h"

#define MISC_MAJOR  10	/* /dev/vfio/vfio is a misc device, ... */
#define VFIO_MINOR  196 /* ... include/linux/miscdevice.h */
#define GROUP_MAJOR 511 /* groups get a dynamic one, from the top */

void vfe_node_stat(enum vfe_kind kind, unsigned int number, struct stat *status)
{
	*status = (struct stat){
		.st_dev = makedev(0, 6), /* devtmpfs */
		.st_ino = kind == VFE_CONTAINER ? 2 : 1024 + number,
		.st_mode = S_IFCHR | (kind == VFE_CONTAINER ? 0666 : 0600),
		.st_nlink = 1,
		.st_uid = (uid_t)vfe_sys0(SYS_getuid),
		.st_gid = (gid_t)vfe_sys0(SYS_getgid),
		.st_rdev = kind == VFE_CONTAINER
				   ? makedev(MISC_MAJOR, VFIO_MINOR)
				   : makedev(GROUP_MAJOR, number),
		.st_blksize = 4096,
	};
}

int vfe_fstat(const struct vfe_file *file, void *status)
{
	unsigned int number = file->kind == VFE_GROUP ? vfe_number(file) : 0;
	struct stat filled;

	if (file->kind == VFE_OTHER)
		return (int)vfe_result(-EBADF);
	if (file->kind == VFE_ATTRIBUTE) {
		long error = vfe_sys2(SYS_fstat, file->fd, &filled);

		if (error)
			return (int)vfe_result(error);
		vfe_path_dress_fd(file->fd, &filled);
		return (int)vfe_result(
			vfe_copy_out(status, &filled, sizeof(filled)));
	}
	vfe_node_stat(file->kind, number, &filled);
	if (file->kind != VFE_CONTAINER && file->kind != VFE_GROUP) {
		/* anon_inode_getfile(): an inode without a type, one for all.
		 */
		filled.st_dev = makedev(0, 15);
		filled.st_mode = 0600;
		filled.st_ino = 1033;
		filled.st_rdev = 0;
	}
	return (int)vfe_result(vfe_copy_out(status, &filled, sizeof(filled)));
}
