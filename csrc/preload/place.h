/* SPDX-License-Identifier: MIT */
/**
 * @file place.h
 * Where the library itself is: `vfioemu run` preloads a link that lies beside
 * the daemon's socket, so that a program finds its daemon whose environment
 * has been cleaned.
 */
#ifndef VFP_PLACE_H
#define VFP_PLACE_H

#include <limits.h>

#include "preload.h"

/** A daemon's places. */
struct vfp_daemon_place {
	char socket[PATH_MAX];
	char root[PATH_MAX];
	uid_t uid; /* whose it is: the code that we run is from there, too */
};

/** Once, before anything else here. */
VFP_HIDDEN void vfp_place_init(void);

/** The daemon beside the library: false if there is none, or if others than
 * we and root could have put it there. */
VFP_HIDDEN bool vfp_place_find(struct vfp_daemon_place *place);

/** The name by which the library was loaded; NULL if that is not known. */
VFP_HIDDEN const char *vfp_place_library(void);

/** What to name it in place of that from now on: NULL, unless it was loaded by
 * a link that is gone, or that we may not use any more. */
VFP_HIDDEN const char *vfp_place_instead(void);

#endif
