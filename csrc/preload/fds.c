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
 * What is remembered is the opposite: VFP_NOT says that the file at this
 * number is not emulated, so that unrelated calls need not ask. Closing never
 * makes that wrong; only a file that newly comes to be at the number can.
 * Emulated files come by calls of ours, dup and its kin, recvmsg() and
 * pidfd_getfd(): each of these calls vfp_fd_appears(). It steps the word's
 * counter, so that who is just about to write VFP_NOT after having asked about
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

void vfp_fds_forget(void)
{
	/* In a child of vfork() that is the child's business. */
	if (!vfp_process_is_ours())
		return;
	atomic_store(&vfp.shares_no_fds, true);
	for (size_t i = 0; i < VFP_FDS; i++)
		if (atomic_load_explicit(&vfp_fds[i], memory_order_relaxed) &
		    VFP_NOT)
			atomic_fetch_and(&vfp_fds[i], ~VFP_NOT);
}

/* What the kernel says that `file->fd` is. */
static bool ask(struct vfp_file *file, bool *forbidden)
{
	uint8_t id[16];

	if (!vfp_token(file, id, forbidden))
		return false;
	if (!vfp_session_is(id))
		file->serial = 0; /* another daemon's */
	return true;
}

static bool is_socket(int fd)
{
	struct stat status;
	long error = vfp_sys2(SYS_fstat, fd, &status);

	return error == 0 ? S_ISSOCK(status.st_mode) : error != -EBADF;
}

/* Nobody says what it is. If it was emulated once, and is a socket still, it is
 * a file that nothing can be done with, rather than a socket. */
static bool find_blindly(uint32_t word, struct vfp_file *file)
{
	if (!(word & VFP_SEEN) || !is_socket(file->fd))
		return false;
	file->kind = VFP_DEVICE;
	file->serial = 0;
	return true;
}

bool vfp_find(int fd, struct vfp_file *file)
{
	bool forbidden;
	uint32_t word = 0;
	bool known = (unsigned int)fd < VFP_FDS;

	file->fd = fd;
	if (known) {
		word = atomic_load(&vfp_fds[fd]);
		if (word & VFP_NOT)
			return false;
		if (vfp_is_internal(fd)) {
			file->kind = VFP_OTHER;
			file->serial = 0;
			return true;
		}
	}
	if (ask(file, &forbidden)) {
		if (known && VFP_RARE(!(word & VFP_SEEN)))
			atomic_compare_exchange_strong(&vfp_fds[fd], &word,
						       word | VFP_SEEN);
		return true;
	}
	if (VFP_RARE(forbidden))
		return find_blindly(word, file);
	if (VFP_RARE(vfp_is_attribute(fd))) {
		file->kind = VFP_ATTRIBUTE;
		file->serial = 0;
		return true;
	}
	/* A child of vfork() has our memory, but fds of its own. */
	if (known && !vfp.shares_no_fds && vfp_process_is_ours()) {
		vfp_debug(VFP_DEBUG_FD, "fd %d is not emulated", fd);
		atomic_compare_exchange_strong(&vfp_fds[fd], &word,
					       word | VFP_NOT);
		/* vfp_fds_forget() may have passed here in between. */
		if (VFP_RARE(vfp.shares_no_fds))
			atomic_fetch_and(&vfp_fds[fd], ~VFP_NOT);
	}
	return false;
}
