/* SPDX-License-Identifier: MIT */
/**
 * @file token.h
 * The name of an emulated file: a socket whose peer is bound to
 * vfioemu/DAEMON/KIND/SERIAL.
 */
#ifndef VFP_TOKEN_H
#define VFP_TOKEN_H

#include "preload.h"

/**
 * Ask the kernel what `file->fd` is.
 *
 * @param file gets its kind and serial.
 * @param id gets which daemon's it is.
 * @param forbidden whether the kernel would not say.
 * @return whether it is a token, of whatever daemon.
 */
VFP_HIDDEN bool vfp_token(struct vfp_file *file, uint8_t id[16],
			  bool *forbidden);

#endif
