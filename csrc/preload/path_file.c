/* SPDX-License-Identifier: MIT */
/**
 * @file path_file.c
 * Overridden libc functions: those that open streams, and glob().
 */
#include <errno.h>
#include <glob.h>

#include "attribute.h"
#include "fd_table.h"
#include "path.h"
#include "sys.h"

/* --- streams --- */

static int open_flags(const char *mode)
{
	bool both = strchr(mode, '+') != NULL;
	int make = O_CREAT | (strchr(mode, 'x') ? O_EXCL : 0);

	return (both	       ? O_RDWR
		: *mode == 'r' ? O_RDONLY
			       : O_WRONLY) |
	       (strchr(mode, 'e') ? O_CLOEXEC : 0) | (*mode == 'r' ? 0 : make);
}

/* A stream on a device node. */
static FILE *open_node(const char *node, const char *mode)
{
	int fd = vfp_open(node, open_flags(mode));
	FILE *file = fd < 0 ? NULL : vfp_stream(fd, mode);

	if (fd >= 0 && !file)
		vfp_sys1(SYS_close, fd);
	return file;
}

/* The mode in which libc opens a file of the tree; NULL: that is refused. */
static const char *tree_mode(const char *real, const char *mode)
{
	int flags = vfp_path_flags(real, open_flags(mode));

	if (flags < 0) {
		errno = -flags;
		return NULL;
	}
	if (*mode == 'r' || flags & O_EXCL || !vfp_path_virtual(real))
		return mode;
	return flags & O_CLOEXEC ? "r+e" : "r+";
}

static bool is_live(const char *real)
{
	struct stat status;

	return vfp_path_virtual(real) &&
	       !vfp_sys4(SYS_newfstatat, AT_FDCWD, real, &status, 0) &&
	       vfp_is_live(&status);
}

/* A stream that reads and writes by calls. */
static FILE *open_live(const char *real, const char *mode)
{
	int flags = vfp_path_flags(real, open_flags(mode));
	int fd = (int)vfp_result(
		flags < 0 ? flags
			  : vfp_sys4(SYS_openat, AT_FDCWD, real, flags, 0));
	FILE *stream = NULL;

	if (fd >= 0) {
		vfp_fd_appears(fd);
		stream = vfp_stream(fd, mode);
		if (!stream)
			vfp_sys1(SYS_close, fd);
	}
	return stream;
}

static FILE *no_stream(void)
{
	errno = ENOSYS;
	return NULL;
}

#define FOPEN(name)                                                \
	VFP_EXPORT FILE *name(const char *restrict path,           \
			      const char *restrict mode)           \
	{                                                          \
		char out[VFP_PATH_MAX];                            \
		enum vfp_path what = VFP_PATH_OTHER;               \
                                                                   \
		if (vfp_init() && vfp.active)                      \
			what = vfp_path_find(AT_FDCWD, path, out); \
		if (what == VFP_PATH_NODE)                         \
			return open_node(out, mode);               \
		if (what == VFP_PATH_TREE) {                       \
			path = out;                                \
			if (is_live(out))                          \
				return open_live(out, mode);       \
			mode = tree_mode(out, mode);               \
			if (!mode)                                 \
				return NULL;                       \
		}                                                  \
		return vfp.next.name ? vfp.next.name(path, mode)   \
				     : no_stream();                \
	}

FOPEN(fopen)
FOPEN(fopen64)

/* A stream that is there cannot become one on a device: vfp_stream() makes its
 * own. It is closed, as by any freopen() that fails. */
static FILE *refuse_node(FILE *file)
{
	vfp.next.freopen("", "r", file);
	errno = EINVAL;
	return NULL;
}

#define FREOPEN(name)                                                          \
	VFP_EXPORT FILE *name(const char *restrict path,                       \
			      const char *restrict mode, FILE *restrict file)  \
	{                                                                      \
		VFP_PLACE(place);                                              \
                                                                               \
		if (vfp_moved(AT_FDCWD, path, &place)) {                       \
			if (place->what == VFP_PATH_NODE && vfp.next.freopen)  \
				return refuse_node(file);                      \
			path = place->real;                                    \
			mode = tree_mode(path, mode);                          \
			if (!mode) /* the old stream is closed all the same */ \
				path = "", mode = "r";                         \
		}                                                              \
		file = vfp.next.name ? vfp.next.name(path, mode, file)         \
				     : no_stream();                            \
		if (file)                                                      \
			vfp_fd_appears(file->_fileno);                         \
		return file;                                                   \
	}

FREOPEN(freopen)
FREOPEN(freopen64)

/* --- glob(): libc's own, told to look at files with our functions --- */

static void *glob_opendir(const char *path)
{
	return vfp_open_directory(path);
}

static struct dirent *glob_readdir(void *directory)
{
	return vfp_read_directory(directory);
}

static void glob_closedir(void *directory)
{
	vfp_close_directory(directory);
}

static int glob_stat(const char *restrict path, struct stat *restrict status)
{
	return vfp_stat(path, status, 0);
}

static int glob_lstat(const char *restrict path, struct stat *restrict status)
{
	return vfp_stat(path, status, AT_SYMLINK_NOFOLLOW);
}

/* Whatever the pattern is, as a wildcard may lead to us. */
static bool may_be_ours(int flags)
{
	return vfp_init() && vfp.active && !(flags & GLOB_ALTDIRFUNC);
}

static int find_all(const char *pattern, int flags,
		    int (*failed)(const char *, int), glob_t *found)
{
	bool ours = found && may_be_ours(flags);

	if (!vfp.next.glob)
		return GLOB_ABORTED;
	if (!ours)
		return vfp.next.glob(pattern, flags, failed, found);
	found->gl_opendir = glob_opendir;
	found->gl_readdir = glob_readdir;
	found->gl_closedir = glob_closedir;
	found->gl_stat = glob_stat;
	found->gl_lstat = glob_lstat;
	int result =
		vfp.next.glob(pattern, flags | GLOB_ALTDIRFUNC, failed, found);

	found->gl_flags &= ~GLOB_ALTDIRFUNC;
	return result;
}

VFP_EXPORT int glob(const char *restrict pattern, int flags,
		    int (*failed)(const char *, int), glob_t *restrict found)
{
	return find_all(pattern, flags, failed, found);
}

_Static_assert(sizeof(glob_t) == sizeof(glob64_t), "LP64");

VFP_EXPORT int glob64(const char *restrict pattern, int flags,
		      int (*failed)(const char *, int),
		      glob64_t *restrict found)
{
	return find_all(pattern, flags, failed, (glob_t *)found);
}
