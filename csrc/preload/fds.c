/* SPDX-License-Identifier: MIT */
/**
 * @file fds.c
 * Which fds are emulated.
 *
 * What an fd is, the kernel says: an emulated one is a socket whose peer is
 * bound to vfioemu/DAEMON/KIND/SERIAL (protocol/wire.md section 1). It is asked
 * before each call that is treated as ours, so nothing that is remembered here
 * can send a call to the wrong file, and fds work that came by fork, exec or
 * SCM_RIGHTS.
 *
 * What is remembered is the opposite: VFE_NOT says that the file at this
 * number is not emulated, so that unrelated calls need not ask. Closing never
 * makes that wrong; only a file that newly comes to be at the number can.
 * Emulated files come by calls of ours, dup and its kin, recvmsg() and
 * pidfd_getfd(): each of these calls vfe_fd_appears(). It steps the word's
 * counter, so that who is just about to write VFE_NOT after having asked about
 * an older file fails.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "attribute.h"
#include "fds.h"
#include "preload.h"
#include "session.h"
#include "sys.h"
#include "vfioemu_wire.h"

_Atomic uint32_t vfe_fds[VFE_FDS];

/* VFE_INTERNAL stays: there may be a connection in another fd table. */
void vfe_fd_appears(int fd)
{
	if ((unsigned int)fd >= VFE_FDS)
		return;
	uint32_t word = atomic_load(&vfe_fds[fd]);
	while (!atomic_compare_exchange_weak(
		&vfe_fds[fd], &word, (word & ~(VFE_NOT | VFE_SEEN)) + VFE_STEP))
		;
}

void vfe_fd_is_ours(int fd)
{
	vfe_fd_appears(fd);
	if ((unsigned int)fd < VFE_FDS)
		atomic_fetch_or(&vfe_fds[fd], VFE_SEEN);
}

void vfe_fd_internal(int fd)
{
	if ((unsigned int)fd >= VFE_FDS)
		return;
	atomic_fetch_or(&vfe_fds[fd], VFE_INTERNAL);
	vfe_fd_appears(fd);
}

void vfe_fds_unshared(void)
{
	/* In a child of vfork() that is the child's business. */
	if (!vfe_init() || !vfe.active || !vfe_session_is_ours())
		return;
	atomic_store(&vfe.shares_no_fds, true);
	for (size_t i = 0; i < VFE_FDS; i++)
		if (atomic_load_explicit(&vfe_fds[i], memory_order_relaxed) &
		    VFE_NOT)
			atomic_fetch_and(&vfe_fds[i], ~VFE_NOT);
}

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

static enum vfe_kind take_kind(const char **text)
{
	static const char *const names[] = { "/container/", "/group/",
					     "/device/", "/data/", "/dmabuf/" };

	for (unsigned int kind = 0; kind < VFE_OTHER; kind++)
		if (skip(text, names[kind]))
			return (enum vfe_kind)kind;
	return VFE_OTHER;
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

bool vfe_parse_name(const char *name, struct vfe_file *file, uint8_t id[16])
{
	if (!skip(&name, VFIOEMU_TOKEN_PREFIX) || !take_id(&name, id))
		return false;
	file->kind = take_kind(&name);
	return file->kind != VFE_OTHER && take_serial(name, &file->serial);
}

/* A token has none of its own. A socket that was accepted has: anybody may have
 * connected to it, and have bound his end to such a name. */
static bool has_name(int fd)
{
	struct sockaddr_un name;
	int size = sizeof(name);

	return vfe_sys3(SYS_getsockname, fd, &name, &size) < 0 ||
	       size > (int)offsetof(struct sockaddr_un, sun_path);
}

/* What the kernel says that `file->fd` is. */
static bool ask(struct vfe_file *file, bool *forbidden)
{
	struct sockaddr_un name;
	int size = sizeof(name) - 1;
	uint8_t id[16];
	long error = vfe_sys3(SYS_getpeername, file->fd, &name, &size);

	*forbidden = VFE_RARE(error < 0) && vfe_forbidden("getpeername", error);
	if (error < 0 || name.sun_family != AF_UNIX ||
	    size > (int)sizeof(name) - 1 ||
	    size < (int)offsetof(struct sockaddr_un, sun_path) + 2 ||
	    name.sun_path[0])
		return false;
	((char *)&name)[size] = 0;
	if (!vfe_parse_name(name.sun_path + 1, file, id) || has_name(file->fd))
		return false;
	if (!vfe_session_is(id))
		file->serial = 0; /* another daemon's */
	return true;
}

static bool is_socket(int fd)
{
	struct stat status;
	long error = vfe_sys2(SYS_fstat, fd, &status);

	return error == 0 ? S_ISSOCK(status.st_mode) : error != -EBADF;
}

/* Nobody says what it is. If it was emulated once, and is a socket still, it is
 * a file that nothing can be done with, rather than a socket. */
static bool find_blindly(uint32_t word, struct vfe_file *file)
{
	if (!(word & VFE_SEEN) || !is_socket(file->fd))
		return false;
	file->kind = VFE_DEVICE;
	file->serial = 0;
	return true;
}

bool vfe_find(int fd, struct vfe_file *file)
{
	bool forbidden;
	uint32_t word = 0;
	bool known = (unsigned int)fd < VFE_FDS;

	if (!vfe_init() || !vfe.active)
		return false;
	file->fd = fd;
	if (known) {
		word = atomic_load(&vfe_fds[fd]);
		if (word & VFE_NOT)
			return false;
		if (vfe_is_internal(fd)) {
			file->kind = VFE_OTHER;
			file->serial = 0;
			return true;
		}
	}
	if (ask(file, &forbidden)) {
		if (known && VFE_RARE(!(word & VFE_SEEN)))
			atomic_compare_exchange_strong(&vfe_fds[fd], &word,
						       word | VFE_SEEN);
		return true;
	}
	if (VFE_RARE(forbidden))
		return find_blindly(word, file);
	if (VFE_RARE(vfe_is_attribute(fd))) {
		file->kind = VFE_ATTRIBUTE;
		file->serial = 0;
		return true;
	}
	/* A child of vfork() has our memory, but fds of its own. */
	if (known && !vfe.shares_no_fds && vfe_session_is_ours()) {
		vfe_debug(VFE_DEBUG_FD, "fd %d is not emulated", fd);
		atomic_compare_exchange_strong(&vfe_fds[fd], &word,
					       word | VFE_NOT);
		/* vfe_fds_unshared() may have passed here in between. */
		if (VFE_RARE(vfe.shares_no_fds))
			atomic_fetch_and(&vfe_fds[fd], ~VFE_NOT);
	}
	return false;
}
