/* SPDX-License-Identifier: MIT */
/**
 * @file init.c
 * What happens once: libc's functions are found, the environment is read.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "dma.h"
#include "holds.h"
#include "place.h"
#include "preload.h"
#include "process.h"
#include "session.h"
#include "share.h"
#include "sys.h"
#include "text.h"
#include "trust.h"

static void find_next(void)
{
	static const char names[] =
#define VFP_NAME(name) #name "\0"
		VFP_NEXT_CALLS(VFP_NAME) VFP_NEXT_PATHS(VFP_NAME);
#undef VFP_NAME
	void **slot = (void **)&vfp.next;

	for (const char *name = names; *name; name += strlen(name) + 1)
		*slot++ = dlsym(RTLD_NEXT, name);
}

static const struct {
	const char *name;
	unsigned int bit;
} categories[] = {
	{ "shim", VFP_DEBUG_SHIM },
	{ "path", VFP_DEBUG_PATH },
	{ "fd", VFP_DEBUG_FD },
	{ "rpc", VFP_DEBUG_RPC },
};

/* The bits of one word of VFIOEMU_DEBUG; 0 for an unknown one. */
static unsigned int category(const char *word, size_t size)
{
	for (size_t i = 0; i < sizeof(categories) / sizeof(*categories); i++)
		if (strlen(categories[i].name) == size &&
		    !memcmp(categories[i].name, word, size))
			return categories[i].bit;
	return 0;
}

static void read_debug(const char *text)
{
	unsigned int debug = 0;

	while (text && *text) {
		size_t size = strcspn(text, ",");
		unsigned int bits = category(text, size);

		if (size && !bits) {
			vfp_say("VFIOEMU_DEBUG=%s: there are shim, path, fd "
				"and rpc, separated by commas",
				text);
			vfp_sys1(SYS_exit_group, 2);
		}
		debug |= bits;
		text += size + (text[size] == ',');
	}
	vfp.debug = debug;
}

/* Take off LD_PRELOAD what is before us for this program's sake: a sanitizer,
 * which would be in everything that it starts. */
static void forget_first(void)
{
	char *first = getenv("VFIOEMU_FIRST"), *all = getenv("LD_PRELOAD");
	size_t size = first ? strlen(first) : 0;

	if (!size || !all || strncmp(all, first, size) || all[size] != ':')
		return;
	memmove(all, all + size + 1, strlen(all + size + 1) + 1);
	*first = 0;
}

static void read_environment(void)
{
	static struct vfp_daemon_place place;
	const char *path = getenv("VFIOEMU_SOCKET");
	const char *root = getenv("VFIOEMU_ROOT");

	vfp_place_init();
	if (!path && vfp_place_find(&place)) {
		path = place.socket;
		root = place.root;
	}
	if (!path || !*path)
		return;
	if (strlen(path) >= sizeof(vfp.socket)) {
		vfp_say("VFIOEMU_SOCKET has %u bytes, a socket's name has at "
			"most %u: no device is emulated",
			(unsigned int)strlen(path),
			(unsigned int)sizeof(vfp.socket) - 1);
		return;
	}
	memcpy(vfp.socket, path, strlen(path) + 1);
	vfp.active = true;
	vfp_trust_init(getenv("VFIOEMU_UID"),
		       path == place.socket ? place.uid
					    : (uid_t)vfp_sys0(SYS_geteuid));
	read_debug(getenv("VFIOEMU_DEBUG"));
	if (!root)
		return;
	size_t size = strlen(root);
	while (size && root[size - 1] == '/')
		size--;
	if (*root != '/' || size >= PATH_MAX / 2) {
		vfp_say("VFIOEMU_ROOT=%s is no absolute path", root);
		return;
	}
	memcpy(vfp.root, root, size);
	vfp.root_size = size;
}

/* In the child of fork(). */
static void forked(void)
{
	vfp_session_forked();
	vfp_process_forked();
	vfp_holds_forked();
}

/* Have room for what is about this process. */
static void begin(void)
{
	if (!vfp_process_init() || !vfp_session_init() || !vfp_share_init() ||
	    !vfp_holds_init() || !vfp_dma_init()) {
		vfp_say("no memory: no device is emulated");
		vfp.active = false;
		return;
	}
	pthread_atfork(NULL, NULL, forked);
}

bool vfp_init_slow(void)
{
	int none = 0;
	int saved = errno;

	if (!atomic_compare_exchange_strong(&vfp.state, &none, 1))
		return none == 2;
	find_next();
	vfp_real_syscall = vfp.next.syscall;
	forget_first();
	read_environment();
	if (vfp.active) {
		vfp_text_init();
		begin();
	}
	atomic_store_explicit(&vfp.state, 2, memory_order_release);
	vfp_debug(VFP_DEBUG_SHIM, "loaded, socket %s, root %s", vfp.socket,
		  vfp.root);
	errno = saved;
	return true;
}

__attribute__((constructor)) static void loaded(void)
{
	vfp_init();
}
