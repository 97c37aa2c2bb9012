/* SPDX-License-Identifier: MIT */
/**
 * @file path.h
 * What the path functions share. preload.h has what others see of them.
 *
 * The daemon keeps a tree of real files (vfioemu/daemon/tree.py); a path that
 * is emulated is looked up below `vfp.root`. A directory of the tree with the
 * sticky bit is merged: what it lacks is looked for in the real system. What
 * any other directory lacks is not there.
 */
#ifndef VFP_PRELOAD_PATH_H
#define VFP_PRELOAD_PATH_H

#include <fcntl.h>
#include <string.h>

#include "preload.h"
#include "scratch.h"

/** What a path turned out to be, and what to use in its place. */
struct vfp_place {
	enum vfp_path what;
	char real[VFP_PATH_MAX];
};

/* --- names (path_tree.c) --- */

/** Whether a path of our own is `name`, or begins with it and a slash. */
VFP_HIDDEN bool vfp_path_is_below(const char *path, const char *name);
/** Whether a path, as a program knows it, is a device node's. */
VFP_HIDDEN bool vfp_path_is_node(const char *path);
/** Whether `real` is in the tree: then the rest, as a program knows it. */
VFP_HIDDEN const char *vfp_path_virtual(const char *real);
/** Take the tree's root off the front of a result of libc's. */
VFP_HIDDEN void vfp_path_strip(char *result);
/** Put the tree's root before a path: false if that is too long. */
VFP_HIDDEN bool vfp_path_in_tree(const char *path, char *out);
/** From a node to what stands for it in the tree: false if that is too long. */
VFP_HIDDEN bool vfp_path_stand_in(char *node);

/** Write a number at `at`: where it ends; the NUL is the caller's. */
VFP_HIDDEN char *vfp_path_put_number(char *at, uint64_t number);

/* --- whether a path is ours (path_concern.c), and what it is (path.c) --- */

/** Whether a path may be ours. No, if it cannot be read. */
VFP_HIDDEN bool vfp_path_concerns(int dirfd, const char *path);
/** Whether the directory that `dirfd` is of may be. */
VFP_HIDDEN bool vfp_dirfd_concerns(int dirfd);
/** Whether a path is "" or NULL, which mean the dirfd to some calls. */
VFP_HIDDEN bool vfp_path_is_empty(const char *path);
/** A directory of the tree was come to, or one above it. */
VFP_HIDDEN void vfp_path_seen(bool in_tree);

/** vfp_path_find() after vfp_path_concerns(): may make system calls. */
VFP_HIDDEN enum vfp_path vfp_path_resolve(int dirfd, const char *path,
					  char *out);

/**
 * Whether a path may be ours: what every function that takes one asks first.
 * Those that signal handlers may call have no room for a path before they know,
 * as such a handler's stack can be small.
 */
static inline bool vfp_concerns(int dirfd, const char *path)
{
	return vfp_init() && vfp.active && vfp_path_concerns(dirfd, path);
}

/** A place, in room of scratch.h's once there is one. */
#define VFP_PLACE(name) \
	__attribute__((cleanup(vfp_place_forget))) struct vfp_place *name = NULL

static inline void vfp_place_forget(struct vfp_place **place)
{
	if (*place)
		vfp_scratch_drop(*place);
}

/** Its room: NULL if there is none. */
static inline struct vfp_place *vfp_place_room(struct vfp_place **place)
{
	if (!*place)
		*place = vfp_scratch_take();
	return *place;
}

/** vfp_moved() after vfp_concerns(). */
VFP_HIDDEN bool vfp_moved_to(int dirfd, const char *path,
			     struct vfp_place **place);

/**
 * Whether the call goes on elsewhere: then `place` says where. A node counts
 * as what stands for it in the tree.
 */
static inline bool vfp_moved(int dirfd, const char *path,
			     struct vfp_place **place)
{
	return vfp_concerns(dirfd, path) && vfp_moved_to(dirfd, path, place);
}

/* --- fds (path_fd.c, and path_behind.c of emulated ones) --- */

/** The name of an open directory: false if it has none that fits. */
VFP_HIDDEN bool vfp_path_of_fd(int fd, char *out);
/** Where a path goes on behind a link of this process's in /proc that it begins
 * with: "/proc/self/fd/N/rest" to "rest" and N; else all of it. */
VFP_HIDDEN const char *vfp_path_through(const char *path, int *dirfd);
/** Which fd a path is such a link of; -1: of none. */
VFP_HIDDEN int vfp_path_link_fd(const char *name);
/** Whether to open a path is to open the node again that an fd is of. */
VFP_HIDDEN bool vfp_path_reopens(const char *name, char *out);
/** The real name of what an fd of ours or of the tree stands for. */
VFP_HIDDEN bool vfp_path_behind_fd(int fd, struct vfp_place **place);
/** What /proc says of a socket: "socket:[INODE]". */
VFP_HIDDEN bool vfp_socket_name(int fd, char *out, size_t room);

/** The working directory has changed. */
VFP_HIDDEN void vfp_path_moved(void);

/* --- what exported functions need of each other --- */

/** A stream on an emulated fd, which it closes. */
VFP_HIDDEN FILE *vfp_stream(int fd, const char *mode);
VFP_HIDDEN DIR *vfp_open_directory(const char *path);
VFP_HIDDEN struct dirent *vfp_read_directory(DIR *directory);
VFP_HIDDEN int vfp_close_directory(DIR *directory);
VFP_HIDDEN int vfp_stat(const char *path, struct stat *status, int flags);

/**
 * What open() of `real` takes in place of `flags`; or a negative errno, which
 * sysfs has for it though a directory of the tree would not.
 */
VFP_HIDDEN int vfp_path_flags(const char *real, int flags);

/* --- what it looks like (path_look.c) --- */

/** Whether a node's mode, as chmod() left it, lets the caller open it: 0 or
 * -EACCES. What is not there is the daemon's to refuse. */
VFP_HIDDEN int vfp_path_may_open(const char *node, int flags);

/** Whether a live file (attribute.h) has nothing to be read: though the tree's
 * file can be, by us. */
static inline bool vfp_path_is_write_only(const struct stat *status)
{
	mode_t marks = S_ISVTX | S_ISGID;

	return S_ISREG(status->st_mode) && (status->st_mode & marks) == marks;
}

/** Make the status of a file of the tree that of the file it stands for. */
VFP_HIDDEN void vfp_path_dress(const char *real, struct stat *status);
/** An attribute with bytes of its own; all others are said to have a page. */
VFP_HIDDEN bool vfp_path_is_binary(const char *path);
/** The same for what fstat() has said of an fd: true if it is in the tree. */
VFP_HIDDEN bool vfp_path_dress_fd(int fd, struct stat *status);
/** Whether the caller is to the emulated machine what root is to a real one:
 * root, and whose daemon it is. */
VFP_HIDDEN bool vfp_path_is_master(void);
/** Note who owns a file of the tree from now on: 0 or a negative errno. */
VFP_HIDDEN int vfp_path_give(const char *real, int flags, uid_t uid, gid_t gid);

#endif
