/* SPDX-License-Identifier: MIT */
/**
 * @file path.c
 * Which paths are the daemon's.
 */
#include <string.h>

#include "preload.h"

enum vfe_path vfe_path_find(int dirfd, const char *path, char *out)
{
	(void)dirfd;
	if (strncmp(path, "/dev/vfio/", 10) || !path[10])
		return VFE_PATH_OTHER;
	size_t size = strlen(path);
	if (size >= VFE_PATH_MAX)
		return VFE_PATH_OTHER;
	memcpy(out, path, size + 1);
	return VFE_PATH_NODE;
}
