/* SPDX-License-Identifier: MIT */
/**
 * @file place.c
 * Where the library itself is, and which daemon is there.
 */
#include "place.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>

#include "scratch.h"
#include "sys.h"

static char library[PATH_MAX]; /* as it was loaded */
static char target[PATH_MAX];  /* if that is a link: what it leads to */

/* Nobody else could have put it there, or can replace it. */
static bool is_trusted(const char *path, mode_t type, uid_t *owner)
{
	struct stat status;
	uid_t uid = (uid_t)vfp_sys0(SYS_geteuid);

	if (vfp_sys4(SYS_newfstatat, AT_FDCWD, path, &status,
		     AT_SYMLINK_NOFOLLOW))
		return false;
	*owner = status.st_uid;
	return (status.st_mode & S_IFMT) == type &&
	       (status.st_uid == uid || !status.st_uid) &&
	       (type != S_IFDIR || !(status.st_mode & (S_IWGRP | S_IWOTH)));
}

static void join(char *out, const char *directory, size_t size,
		 const char *name)
{
	memcpy(out, directory, size);
	strcpy(out + size, name);
}

const char *vfp_place_library(void)
{
	return library[0] ? library : NULL;
}

/* Whether our user may use the link: with no capability, as an exec() takes
 * them from who is not root. */
static bool is_usable(void)
{
	char *directory = vfp_scratch_take();
	struct stat status;
	uid_t uid = (uid_t)vfp_sys0(SYS_geteuid);

	if (!directory)
		return true;
	join(directory, library, (size_t)(strrchr(library, '/') - library), "");
	bool usable =
		!vfp_sys4(SYS_newfstatat, AT_FDCWD, library, &status, 0) &&
		!vfp_sys4(SYS_newfstatat, AT_FDCWD, directory, &status, 0) &&
		(!uid || status.st_uid == uid || status.st_mode & S_IXOTH);

	vfp_scratch_drop(directory);
	return usable;
}

const char *vfp_place_instead(void)
{
	return target[0] && !is_usable() ? target : NULL;
}

void vfp_place_init(void)
{
	Dl_info info;

	if (!dladdr((void *)&vfp, &info) || !info.dli_fname ||
	    *info.dli_fname != '/' || strlen(info.dli_fname) >= PATH_MAX)
		return;
	strcpy(library, info.dli_fname);
	if (vfp_sys4(SYS_readlinkat, AT_FDCWD, library, target,
		     sizeof(target) - 1) <= 0 ||
	    *target != '/')
		target[0] = 0;
}

bool vfp_place_find(struct vfp_daemon_place *place)
{
	const char *name = vfp_place_library();
	const char *end = name ? strrchr(name, '/') : NULL;
	size_t size = end ? (size_t)(end - name) : 0;

	if (!size || size + sizeof("/vfio.sock") > PATH_MAX)
		return false;
	join(place->root, name, size, "");
	if (!is_trusted(place->root, S_IFDIR, &place->uid))
		return false;
	join(place->socket, name, size, "/vfio.sock");
	join(place->root, name, size, "/root");
	return is_trusted(place->socket, S_IFSOCK, &place->uid);
}
