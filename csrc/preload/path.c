/* SPDX-License-Identifier: MIT */
/**
 * @file path.c
 * What a path is in the daemon's tree. Whether it may be there is asked first,
 * in path_concern.c.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"
#include "text.h"
#include "trust.h"

static const char *skip_slashes(const char *path)
{
	while (*path == '/')
		path++;
	return path;
}

static const char *cwd_name(char *out)
{
	return vfp_sys2(SYS_getcwd, out, VFP_PATH_MAX) > 0 ? out : NULL;
}

/* --- a path without "..", from the root --- */

/* In scratch.h's room, as much of it as there is. */
struct walk {
	char path[VFP_PATH_MAX];  /* "" is the root */
	char name[VFP_PATH_MAX];  /* what was asked for */
	char other[VFP_PATH_MAX]; /* for a moment */
	size_t size;
	bool fits;
	bool moved; /* the real system would not come to the same place */
};
_Static_assert(sizeof(struct walk) <= VFP_SCRATCH_SIZE, "one piece");

static void append(struct walk *walk, const char *name, size_t size)
{
	if (walk->size + 1 + size >= sizeof(walk->path)) {
		walk->fits = false;
		return;
	}
	walk->path[walk->size++] = '/';
	memcpy(walk->path + walk->size, name, size);
	walk->size += size;
	walk->path[walk->size] = 0;
}

/* Whether the tree may have it. */
static bool may_be_ours(const char *path)
{
	return vfp_path_is_below(path, "/sys") ||
	       vfp_path_is_below(path, "/dev/vfio");
}

/* Where a directory is after all links, as the program knows it. */
static __attribute__((noinline)) bool canonical(const char *path, char *out)
{
	long fd = -1;

	if (vfp_trust_root() && vfp_path_in_tree(path, out))
		fd = vfp_sys4(SYS_openat, AT_FDCWD, out,
			      O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		fd = vfp_sys4(SYS_openat, AT_FDCWD, path,
			      O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	bool found = vfp_path_of_fd((int)fd, out);

	vfp_sys1(SYS_close, fd);
	vfp_path_strip(out);
	return found;
}

/* "..": the parent of where the path leads so far. */
static void go_up(struct walk *walk)
{
	char *target = walk->other;

	walk->moved |= may_be_ours(walk->path);
	if (walk->size) {
		if (!canonical(walk->path, target)) {
			walk->fits = false; /* the system says why */
			return;
		}
		walk->size = strlen(target);
		memcpy(walk->path, target, walk->size);
	}
	while (walk->size && walk->path[--walk->size] != '/')
		;
	walk->path[walk->size] = 0;
}

static void follow(struct walk *walk, const char *path)
{
	while (walk->fits && *(path = skip_slashes(path))) {
		size_t size = strcspn(path, "/");

		if (size == 2 && path[0] == '.' && path[1] == '.')
			go_up(walk);
		else if (size != 1 || *path != '.')
			append(walk, path, size);
		path += size;
	}
}

/* --- in the tree, or not --- */

static long look(const char *path, struct stat *status, int flags)
{
	return vfp_sys4(SYS_newfstatat, AT_FDCWD, path, status, flags);
}

/* The path is the real system's: how it is reached from where the program is.
 */
static enum vfp_path real_system(const struct walk *walk, char *out)
{
	memcpy(out, walk->path, walk->size + 1);
	if (!walk->size)
		strcpy(out, "/");
	return walk->moved ? VFP_PATH_TREE : VFP_PATH_OTHER;
}

/*
 * The tree does not have `walk`: does the directory that would hold it leave
 * what it lacks to the real system? `out` is scratch, and the real path.
 */
static enum vfp_path look_behind(struct walk *walk, char *out)
{
	struct stat status;
	size_t size = walk->size;

	do {
		while (size && walk->path[--size] != '/')
			;
		out[vfp.root_size + size] = 0;
	} while (size && look(out, &status, 0));
	if (!size && look(out, &status, 0))
		return real_system(walk, out); /* no tree (any more) */
	if (!S_ISDIR(status.st_mode) || !(status.st_mode & S_ISVTX)) {
		vfp_path_in_tree(walk->path, out);
		return VFP_PATH_TREE; /* ENOENT, from the system itself */
	}
	/* A link of ours may lead to a directory that others share. */
	if (look(walk->path, &status, AT_SYMLINK_NOFOLLOW) && size) {
		char *rest = walk->other;
		size_t left = walk->size - size;

		memcpy(rest, walk->path + size, left + 1);
		walk->path[size] = 0;
		if (canonical(walk->path, out) &&
		    strlen(out) + left < VFP_PATH_MAX) {
			strcat(out, rest);
			walk->moved = true;
			return VFP_PATH_TREE;
		}
		memcpy(walk->path + size, rest, left + 1);
	}
	return real_system(walk, out);
}

static enum vfp_path place(struct walk *walk, bool slash, char *out)
{
	struct stat status;

	if (vfp_path_is_node(walk->path) && !slash) {
		memcpy(out, walk->path, walk->size + 1);
		return VFP_PATH_NODE;
	}
	if (!walk->size || !strcmp(walk->path, "/dev"))
		vfp_path_seen(false);
	if (!may_be_ours(walk->path) || !vfp_trust_root() ||
	    !vfp_path_in_tree(walk->path, out))
		return real_system(walk, out);
	if (look(out, &status, AT_SYMLINK_NOFOLLOW))
		return look_behind(walk, out);
	if (S_ISDIR(status.st_mode) || S_ISLNK(status.st_mode))
		vfp_path_seen(true);
	return VFP_PATH_TREE;
}

static bool begin(struct walk *walk, int dirfd, const char *path,
		  const char **rest)
{
	*rest = path = vfp_path_through(path, &dirfd);
	walk->size = 0;
	walk->path[0] = 0;
	walk->fits = true;
	walk->moved = false;
	if (*path == '/')
		return true;
	if (dirfd == AT_FDCWD ? !cwd_name(walk->path)
			      : !vfp_path_of_fd(dirfd, walk->path))
		return false;
	walk->moved = vfp_path_virtual(walk->path) != NULL;
	vfp_path_strip(walk->path);
	walk->size = walk->path[1] ? strlen(walk->path) : 0;
	walk->path[walk->size] = 0;
	return true;
}

/* It ends so that it can only be a directory, and a link is followed. */
static bool is_directory_name(const char *path, size_t size)
{
	if (path[size - 1] == '/')
		return true;
	if (path[size - 1] != '.')
		return false;
	size -= size > 1 && path[size - 2] == '.' ? 2 : 1;
	return !size || path[size - 1] == '/';
}

static enum vfp_path resolve(struct walk *walk, int dirfd, const char *name,
			     char *out)
{
	char *path = walk->name;
	const char *rest;
	long size = vfp_text_copy(path, name);

	/* What is wrong with the name is said by whom it is handed on to. */
	if (size <= 0 || !begin(walk, dirfd, path, &rest))
		return VFP_PATH_OTHER;
	follow(walk, rest);
	if (!walk->fits)
		return VFP_PATH_OTHER;
	bool slash = is_directory_name(path, (size_t)size);
	enum vfp_path what = place(walk, slash, out);

	if (what == VFP_PATH_TREE && slash && strlen(out) + 1 < VFP_PATH_MAX)
		strcat(out, "/");
	vfp_debug(VFP_DEBUG_PATH, "%s: %s", path,
		  what == VFP_PATH_OTHER ? "not ours" : out);
	return what;
}

__attribute__((noinline)) enum vfp_path
vfp_path_resolve(int dirfd, const char *name, char *out)
{
	struct walk *walk = vfp_scratch_take();
	enum vfp_path what =
		walk ? resolve(walk, dirfd, name, out) : VFP_PATH_OTHER;

	vfp_scratch_drop(walk);
	return what;
}

bool vfp_moved_to(int dirfd, const char *path, struct vfp_place **out)
{
	struct vfp_place *place = vfp_place_room(out);

	if (!place)
		return false;
	place->what = vfp_path_resolve(dirfd, path, place->real);
	return place->what == VFP_PATH_TREE ||
	       (place->what == VFP_PATH_NODE && vfp_path_stand_in(place->real));
}

enum vfp_path vfp_path_find(int dirfd, const char *path, char *out)
{
	return vfp_path_concerns(dirfd, path)
		       ? vfp_path_resolve(dirfd, path, out)
		       : VFP_PATH_OTHER;
}
