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

#include "attribute.h"
#include "fd_table.h"
#include "fds.h"
#include "own.h"
#include "process.h"
#include "session.h"
#include "sys.h"
#include "token.h"

void vfe_fds_forget(void)
{
	/* In a child of vfork() that is the child's business. */
	if (!vfe_process_is_ours())
		return;
	atomic_store(&vfe.shares_no_fds, true);
	for (size_t i = 0; i < VFE_FDS; i++)
		if (atomic_load_explicit(&vfe_fds[i], memory_order_relaxed) &
		    VFE_NOT)
			atomic_fetch_and(&vfe_fds[i], ~VFE_NOT);
}

/* What the kernel says that `file->fd` is. */
static bool ask(struct vfe_file *file, bool *forbidden)
{
	uint8_t id[16];

	if (!vfe_token(file, id, forbidden))
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
	if (known && !vfe.shares_no_fds && vfe_process_is_ours()) {
		vfe_debug(VFE_DEBUG_FD, "fd %d is not emulated", fd);
		atomic_compare_exchange_strong(&vfe_fds[fd], &word,
					       word | VFE_NOT);
		/* vfe_fds_forget() may have passed here in between. */
		if (VFE_RARE(vfe.shares_no_fds))
			atomic_fetch_and(&vfe_fds[fd], ~VFE_NOT);
	}
	return false;
}
