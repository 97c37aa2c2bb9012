/* SPDX-License-Identifier: MIT */
/**
 * @file wire_client.h
 * A blocking client of the daemon, small enough to measure the daemon and not
 * itself. One struct is one connection, and so one calling thread.
 *
 * Every function returns a result >= 0, or a negative errno as the daemon sent
 * it; -EPIPE when the daemon hung up.
 */
#ifndef WIRE_CLIENT_H
#define WIRE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../protocol/vfioemu_wire.h"

/** A connection. */
struct wire_client {
	int sock;
	uint32_t seq;
	uint64_t session;
	/* Called before each packet is sent and after each is received. */
	void (*hook)(void *data);
	void *hook_data;
	struct vfioemu_hello hello;
};

/** An emulated fd of this process. */
struct wire_file {
	int fd;
	uint64_t serial;
};

/** Connect and greet; session 0 makes a new one, flags as in HELLO. */
int wire_connect(struct wire_client *client, const char *path, uint64_t session,
		 uint16_t flags);
void wire_disconnect(struct wire_client *client);

/** Answer one ask on a connection of its own (VFIOEMU_F_SERVICE). */
int wire_serve(struct wire_client *service);

/** open(2). */
int wire_open(struct wire_client *client, const char *path,
	      struct wire_file *file);
/** close(2). */
void wire_close(struct wire_file *file);
/** What fd this process was given by a call. */
int wire_adopt(int fd, struct wire_file *file);

/** ioctl(2) that has no memory at its argument, or whose memory is asked for.
 */
int64_t wire_ioctl(struct wire_client *client, const struct wire_file *file,
		   uint32_t cmd, uint64_t arg);
/** ioctl(2) whose argument is offered with the call and may be changed by it.
 */
int64_t wire_ioctl_offer(struct wire_client *client,
			 const struct wire_file *file, uint32_t cmd, void *arg,
			 size_t size);
/** read(2), into memory that the daemon has to ask for. */
int64_t wire_read(struct wire_client *client, const struct wire_file *file,
		  void *buffer, size_t size);
/** pread(2) and pwrite(2). */
int64_t wire_pread(struct wire_client *client, const struct wire_file *file,
		   void *buffer, size_t size, uint64_t offset);
int64_t wire_pwrite(struct wire_client *client, const struct wire_file *file,
		    const void *buffer, size_t size, uint64_t offset);

/** MEM_SHARE: [address, address + size) is `fd`, from its offset 0. */
int64_t wire_share(struct wire_client *client, void *address, size_t size,
		   int fd);
/** A sealed memfd of that size, mapped; NULL on failure. */
void *wire_memory(size_t size, int *fd);

#endif
