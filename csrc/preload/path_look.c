/* SPDX-License-Identifier: MIT */
/**
 * @file path_look.c
 * What files of the tree look like: as those that they stand for.
 *
 * Modes are the files' own. Nobody but root could give them another owner, so
 * that is kept beside them, in links of the tree's directory "owner" that are
 * named by inode: "UID:GID".
 */
#include <errno.h>
#include <sys/sysmacros.h>

#include "path.h"
#include "sys.h"

#define OWNERS	   "/owner/"
#define OWNER_TEXT 24
/* Inodes of the tree are told with this, so that they are none of sysfs's. */
#define OUR_INODES (1ull << 40)
#define SYSFS_FILE 4096 /* what stat() says of the size of an attribute */

static long look(const char *path, struct stat *status)
{
	return vfp_sys4(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

/* The device that `path` is on, looked up once; 1, which is none, if it is not
 * there. */
static dev_t device_of(const char *path, _Atomic uint64_t *known)
{
	dev_t device = atomic_load_explicit(known, memory_order_relaxed);
	struct stat status;

	if (!device) {
		device = look(path, &status) ? 1 : status.st_dev;
		atomic_store_explicit(known, device, memory_order_relaxed);
	}
	return device;
}

/* The device of the system's own sysfs, which all of /sys seems to be on. */
static dev_t sysfs_device(void)
{
	static _Atomic uint64_t known;
	dev_t device = device_of("/sys", &known);

	return device == 1 ? makedev(0, 22) : device;
}

/* Whether something with that status may be in the tree. */
static bool may_be_in_tree(const struct stat *status)
{
	static _Atomic uint64_t known;

	return vfp.root_size && status->st_dev == device_of(vfp.root, &known);
}

/* --- owners --- */

static const char *take_number(const char *at, unsigned int *number)
{
	for (*number = 0; *at >= '0' && *at <= '9'; at++)
		*number = *number * 10 + (unsigned int)(*at - '0');
	return at;
}

/* Where the owner of an inode is kept. */
static bool owner_name(ino_t inode, char *out)
{
	if (vfp.root_size + sizeof(OWNERS) + 20 > VFP_PATH_MAX)
		return false;
	memcpy(out, vfp.root, vfp.root_size);
	memcpy(out + vfp.root_size, OWNERS, sizeof(OWNERS));
	*vfp_path_put_number(out + vfp.root_size + sizeof(OWNERS) - 1, inode) =
		0;
	return true;
}

static void take_owner(struct stat *status)
{
	char *name = vfp_scratch_take();
	char text[OWNER_TEXT + 1];
	long size = -ENAMETOOLONG;

	if (name && owner_name(status->st_ino, name))
		size = vfp_sys4(SYS_readlinkat, AT_FDCWD, name, text,
				OWNER_TEXT);
	vfp_scratch_drop(name);
	if (size <= 0)
		return;
	text[size] = 0;
	const char *end = take_number(text, &status->st_uid);

	if (*end == ':')
		take_number(end + 1, &status->st_gid);
}

static long give(const char *real, int flags, uid_t uid, gid_t gid, char *name,
		 char *fresh)
{
	char text[OWNER_TEXT];
	struct stat status;
	long error;

	error = vfp_sys4(SYS_newfstatat, AT_FDCWD, real, &status, flags);
	if (error)
		return error;
	if (!vfp_path_is_master())
		return -EPERM;
	if (!owner_name(status.st_ino, name))
		return -ENAMETOOLONG;
	take_owner(&status);
	char *at = vfp_path_put_number(text,
				       uid == (uid_t)-1 ? status.st_uid : uid);

	*at++ = ':';
	*vfp_path_put_number(at, gid == (gid_t)-1 ? status.st_gid : gid) = 0;
	/* Replaced at once, for whoever looks meanwhile. */
	strcpy(fresh, name);
	at = fresh + strlen(fresh);
	*at++ = '.';
	*vfp_path_put_number(at, (uint64_t)vfp_sys0(SYS_gettid)) = 0;
	error = vfp_sys3(SYS_symlinkat, text, AT_FDCWD, fresh);
	return error ? error
		     : vfp_sys5(SYS_renameat2, AT_FDCWD, fresh, AT_FDCWD, name,
				0);
}

int vfp_path_give(const char *real, int flags, uid_t uid, gid_t gid)
{
	char *names = vfp_scratch_take();
	long error =
		names ? give(real, flags, uid, gid, names, names + VFP_PATH_MAX)
		      : -ENOMEM;

	vfp_scratch_drop(names);
	return (int)error;
}

/* A directory on the way to it may be closed to us instead. */
static bool has_node(const char *real)
{
	struct stat status;

	return !look(real, &status);
}

static bool is_closed(char *real, int flags)
{
	int access = flags & O_ACCMODE;
	int mode = access == O_RDONLY	? R_OK
		   : access == O_WRONLY ? W_OK
					: R_OK | W_OK;

	return vfp_path_stand_in(real) &&
	       vfp_sys4(SYS_faccessat2, AT_FDCWD, real, mode, AT_EACCESS) ==
		       -EACCES &&
	       has_node(real);
}

int vfp_path_may_open(const char *node, int flags)
{
	if (!vfp.root_size || strlen(node) >= VFP_PATH_MAX)
		return 0;
	char *real = vfp_scratch_take();

	if (!real)
		return -ENOMEM;
	strcpy(real, node);
	bool closed = is_closed(real, flags);

	vfp_scratch_drop(real);
	return closed ? -EACCES : 0;
}

bool vfp_path_is_master(void)
{
	struct stat status;
	uid_t uid = (uid_t)vfp_sys0(SYS_geteuid);

	return !uid || (!look(vfp.root, &status) && status.st_uid == uid);
}

/* --- stat() --- */

/* The number of a group's node; -1 for the container's. */
static long node_number(const char *name)
{
	long number = 0;

	if (*name < '0' || *name > '9')
		return -1;
	for (; *name >= '0' && *name <= '9'; name++)
		number = number * 10 + (*name - '0');
	return number;
}

static void dress_node(const char *path, struct stat *status)
{
	struct stat node;
	long number = node_number(path + 10);

	vfp_node_stat(number < 0 ? VFP_CONTAINER : VFP_GROUP,
		      number < 0 ? 0 : (unsigned int)number, &node);
	node.st_mode = S_IFCHR | (status->st_mode & 07777);
	node.st_uid = status->st_uid;
	node.st_gid = status->st_gid;
	node.st_atim = status->st_atim;
	node.st_mtim = status->st_mtim;
	node.st_ctim = status->st_ctim;
	*status = node;
}

/* An attribute with bytes of its own; all others are said to have a page. */
bool vfp_path_is_binary(const char *path)
{
	const char *name = strrchr(path, '/') + 1;

	return !strcmp(name, "config") || !strcmp(name, "rom") ||
	       (!strncmp(name, "resource", 8) && name[8]);
}

void vfp_path_dress(const char *real, struct stat *status)
{
	const char *path = vfp_path_virtual(real);

	if (!path)
		return;
	take_owner(status);
	if (vfp_path_is_node(path)) {
		dress_node(path, status);
		return;
	}
	/* Our own marks: a merged directory, a file that the daemon answers,
	 * and which cannot be read. */
	if (vfp_path_is_write_only(status))
		status->st_mode &= ~(mode_t)(S_ISGID | 0444);
	if (!S_ISLNK(status->st_mode))
		status->st_mode &= ~(mode_t)S_ISVTX;
	if (strncmp(path, "/sys", 4) || (path[4] && path[4] != '/'))
		return;
	if (!path[4] || !path[5])
		status->st_mode &= ~(mode_t)0222; /* sysfs_init() */
	status->st_dev = sysfs_device();
	status->st_ino |= OUR_INODES;
	status->st_blocks = 0;
	status->st_blksize = SYSFS_FILE;
	if (!S_ISREG(status->st_mode))
		status->st_size = 0;
	else if (!vfp_path_is_binary(path))
		status->st_size = SYSFS_FILE;
}

bool vfp_path_dress_fd(int fd, struct stat *status)
{
	if (!may_be_in_tree(status))
		return false;
	char *real = vfp_scratch_take();
	bool found = real && vfp_path_of_fd(fd, real) && vfp_path_virtual(real);

	if (found)
		vfp_path_dress(real, status);
	vfp_scratch_drop(real);
	return found;
}
