/* SPDX-License-Identifier: MIT */
/**
 * @file token.c
 * What the kernel says that a socket is (protocol/wire.md section 1).
 */
#include "token.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "sys.h"
#include "vfioemu_wire.h"

/* Take `prefix` off `text`. */
static bool skip(const char **text, const char *prefix)
{
	size_t size = strlen(prefix);

	if (strncmp(*text, prefix, size))
		return false;
	*text += size;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_id(const char **text, uint8_t id[16])
{
	for (size_t i = 0; i < 16; i++) {
		int high = hex_digit((*text)[0]);
		int low = high < 0 ? -1 : hex_digit((*text)[1]);

		if (low < 0)
			return false;
		id[i] = (uint8_t)(high << 4 | low);
		*text += 2;
	}
	return true;
}

static enum vfp_kind take_kind(const char **text)
{
	static const char *const names[] = { "/container/", "/group/",
					     "/device/", "/data/", "/dmabuf/" };

	for (unsigned int kind = 0; kind < VFP_OTHER; kind++)
		if (skip(text, names[kind]))
			return (enum vfp_kind)kind;
	return VFP_OTHER;
}

static bool take_serial(const char *text, uint64_t *serial)
{
	*serial = 0;
	for (; *text >= '0' && *text <= '9'; text++)
		if (__builtin_mul_overflow(*serial, 10u, serial) ||
		    __builtin_add_overflow(*serial, (unsigned int)(*text - '0'),
					   serial))
			return false;
	return !*text && *serial;
}

static bool parse(const char *name, struct vfp_file *file, uint8_t id[16])
{
	if (!skip(&name, VFIOEMU_TOKEN_PREFIX) || !take_id(&name, id))
		return false;
	file->kind = take_kind(&name);
	return file->kind != VFP_OTHER && take_serial(name, &file->serial);
}

/* A token has none of its own. A socket that was accepted has: anybody may have
 * connected to it, and have bound his end to such a name. */
static bool has_name(int fd)
{
	struct sockaddr_un name;
	int size = sizeof(name);

	return vfp_sys3(SYS_getsockname, fd, &name, &size) < 0 ||
	       size > (int)offsetof(struct sockaddr_un, sun_path);
}

bool vfp_token(struct vfp_file *file, uint8_t id[16], bool *forbidden)
{
	struct sockaddr_un name;
	int size = sizeof(name) - 1;
	long error = vfp_sys3(SYS_getpeername, file->fd, &name, &size);

	*forbidden = VFP_RARE(error < 0) && vfp_forbidden("getpeername", error);
	if (error < 0 || name.sun_family != AF_UNIX ||
	    size > (int)sizeof(name) - 1 ||
	    size < (int)offsetof(struct sockaddr_un, sun_path) + 2 ||
	    name.sun_path[0])
		return false;
	((char *)&name)[size] = 0;
	return parse(name.sun_path + 1, file, id) && !has_name(file->fd);
}
