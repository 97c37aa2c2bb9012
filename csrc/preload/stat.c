/* SPDX-License-Identifier: MIT */
/**
 * @file stat.c
 * What stat() says of nodes.
 */
#include <sys/sysmacros.h>
#include <time.h>

#include "preload.h"
#include "sys.h"

#define MISC_MAJOR  10	/* /dev/vfio/vfio is a misc device, ... */
#define VFIO_MINOR  196 /* ... include/linux/miscdevice.h */
#define GROUP_MAJOR 511 /* groups get a dynamic one, from the top */

void vfp_node_stat(enum vfp_kind kind, unsigned int number, struct stat *status)
{
	*status = (struct stat){
		.st_dev = makedev(0, 6), /* devtmpfs */
		.st_ino = kind == VFP_CONTAINER ? 2 : 1024 + number,
		.st_mode = S_IFCHR | (kind == VFP_CONTAINER ? 0666 : 0600),
		.st_nlink = 1,
		.st_uid = (uid_t)vfp_sys0(SYS_getuid),
		.st_gid = (gid_t)vfp_sys0(SYS_getgid),
		.st_rdev = kind == VFP_CONTAINER
				   ? makedev(MISC_MAJOR, VFIO_MINOR)
				   : makedev(GROUP_MAJOR, number),
		.st_blksize = 4096,
	};
}
