/* SPDX-License-Identifier: MIT */
/**
 * @file vfioemu_wire.h
 * The messages between a client and the vfioemu daemon; wire.md explains them.
 *
 * One message is one packet of a SOCK_SEQPACKET UNIX socket: a header of 48
 * bytes, in the byte order of the machine, and up to VFIOEMU_MAX_DATA bytes.
 */
#ifndef VFIOEMU_WIRE_H
#define VFIOEMU_WIRE_H

#include <stdint.h>

#define VFIOEMU_WIRE_MAGIC   0x31756d656f696676ull /* "vfioemu1" */
#define VFIOEMU_WIRE_VERSION 1
#define VFIOEMU_MAX_DATA     65536
#define VFIOEMU_MAX_PATH     4096
#define VFIOEMU_TOKEN_PREFIX "vfioemu/"

/** From the client: a greeting, calls, and housekeeping; each gets a REPLY. */
enum vfioemu_request {
	VFIOEMU_HELLO = 1,
	VFIOEMU_OPEN = 2,
	VFIOEMU_IOCTL = 3,
	VFIOEMU_READ = 4,
	VFIOEMU_WRITE = 5,
	VFIOEMU_PREAD = 6,
	VFIOEMU_PWRITE = 7,
	VFIOEMU_MMAP = 8,
	VFIOEMU_STAT = 9,
	VFIOEMU_MEM_SHARE = 16,
	VFIOEMU_LIMITS = 17,
	VFIOEMU_FORGET = 18,
	VFIOEMU_MEM_UNSHARE = 19,
	VFIOEMU_ATTR_READ = 20,
	VFIOEMU_ATTR_WRITE = 21,
	VFIOEMU_ATTR_MMAP = 22,
	VFIOEMU_MEM_LEAVES = 23,
	VFIOEMU_MEM_RETURNS = 24,
	VFIOEMU_MEM_HOLE = 25,
	VFIOEMU_MEM_REGION = 26,
	VFIOEMU_REPLY = 32,
};

/** From the daemon while a call lasts; each gets an ANSWER. */
enum vfioemu_ask {
	VFIOEMU_READ_USER = 64,
	VFIOEMU_WRITE_USER = 65,
	VFIOEMU_PIN = 66,
	VFIOEMU_TAKE_FD = 67,
	VFIOEMU_GIVE_FD = 68,
	VFIOEMU_REVOKE_FD = 69,
	VFIOEMU_ANSWER = 96,
	VFIOEMU_DATA = 97,
};

enum vfioemu_flags {
	VFIOEMU_F_SERVICE = 1,	 /* HELLO: this connection serves DMA memory */
	VFIOEMU_F_IPC_LOCK = 2,	 /* HELLO, LIMITS: has CAP_IPC_LOCK */
	VFIOEMU_F_WRITABLE = 4,	 /* calls: the offered bytes may be changed */
	VFIOEMU_F_FD = 8,	 /* one fd is attached */
	VFIOEMU_F_UNPROVED = 16, /* REPLY: repeat the call with the fd */
	VFIOEMU_F_DRAIN = 32,	 /* REPLY: take the unread packet away */
	VFIOEMU_F_WRITE = 64,	 /* PIN: pages are to be writable */
	VFIOEMU_F_PINNED = 128,	 /* READ_USER, WRITE_USER: for hardware */
	VFIOEMU_F_ELSEWHERE = 256, /* REPLY: a write is about another machine */
};

/** MEM_LEAVES: how memory leaves its address. */
enum vfioemu_leaving {
	VFIOEMU_UNMAPPED = 0,
	VFIOEMU_DISCARDED = 1,
	VFIOEMU_MOVED = 2,
};

enum vfioemu_memory_mode {
	VFIOEMU_MEMORY_ASK = 0,
	VFIOEMU_MEMORY_PROCESS_VM = 1,
};

enum vfioemu_hello_flags {
	VFIOEMU_HELLO_ACCOUNTS = 1, /* locked memory counts: send LIMITS */
};

struct vfioemu_msg {
	uint16_t type;
	uint16_t flags;
	uint32_t seq;
	uint64_t token;
	uint64_t arg[4];
};

/** The data of HELLO's reply. */
struct vfioemu_hello {
	uint32_t version;
	uint32_t memory_mode;
	uint8_t daemon_id[16];
	uint32_t max_data;
	uint32_t max_channels;
	uint32_t max_tokens;
	uint32_t max_windows;
	uint64_t max_shared;
	uint32_t ask_timeout_ms;
	uint32_t flags; /* enum vfioemu_hello_flags */
};

_Static_assert(sizeof(struct vfioemu_msg) == 48, "header layout");
_Static_assert(sizeof(struct vfioemu_hello) == 56, "greeting layout");

#endif
