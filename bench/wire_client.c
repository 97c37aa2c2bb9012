/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "wire_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/** What a call takes and gives besides its header. */
struct exchange {
	struct vfioemu_msg msg;
	const void *out;
	size_t out_size;
	void *in; /* where the data of the reply goes, at offset arg[1] */
	size_t in_size;
	int out_fd; /* -1: none */
	int in_fd;
};

static int send_packet(struct wire_client *client, struct vfioemu_msg *msg,
		       const void *data, size_t size, int fd)
{
	struct iovec iov[2] = {
		{ .iov_base = msg, .iov_len = sizeof(*msg) },
		{ .iov_base = (void *)(uintptr_t)data, .iov_len = size },
	};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr packet = { .msg_iov = iov, .msg_iovlen = size ? 2 : 1 };

	if (client->hook)
		client->hook(client->hook_data);
	if (fd >= 0) {
		msg->flags |= VFIOEMU_F_FD;
		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	if (sendmsg(client->sock, &packet, MSG_NOSIGNAL) < 0)
		return -EPIPE;
	return 0;
}

static ssize_t receive_packet(struct wire_client *client,
			      struct vfioemu_msg *msg, void *data, size_t size,
			      int *fd)
{
	struct iovec iov[2] = {
		{ .iov_base = msg, .iov_len = sizeof(*msg) },
		{ .iov_base = data, .iov_len = size },
	};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr packet = {
		.msg_iov = iov,
		.msg_iovlen = size ? 2 : 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got;

	do {
		got = recvmsg(client->sock, &packet, MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (client->hook)
		client->hook(client->hook_data);
	if (got < (ssize_t)sizeof(*msg))
		return -EPIPE;
	*fd = -1;
	struct cmsghdr *found = CMSG_FIRSTHDR(&packet);
	if (found && found->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(found), sizeof(*fd));
	return got - (ssize_t)sizeof(*msg);
}

/* Memory of our own that may not be there: process_vm_readv() does not crash.
 */
static bool copy_own(void *data, uint64_t address, size_t size, bool write)
{
	struct iovec local = { .iov_base = data, .iov_len = size };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)address,
				.iov_len = size };
	ssize_t done =
		write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
		      : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
	return done == (ssize_t)size;
}

static int send_memory(struct wire_client *client, struct vfioemu_msg *answer,
		       uint64_t address, size_t size)
{
	char *bytes = malloc(size ? size : 1);
	size_t part = size < VFIOEMU_MAX_DATA ? size : VFIOEMU_MAX_DATA;
	int result;

	if (!bytes || !copy_own(bytes, address, size, false)) {
		answer->arg[0] = (uint64_t)-EFAULT;
		result = send_packet(client, answer, NULL, 0, -1);
		goto out;
	}
	answer->arg[1] = size;
	result = send_packet(client, answer, bytes, part, -1);
	for (size_t at = part; !result && at < size; at += part) {
		struct vfioemu_msg data = { .type = VFIOEMU_DATA,
					    .seq = answer->seq };
		part = size - at < VFIOEMU_MAX_DATA ? size - at
						    : VFIOEMU_MAX_DATA;
		result = send_packet(client, &data, bytes + at, part, -1);
	}
out:
	free(bytes);
	return result;
}

static int receive_memory(struct wire_client *client,
			  const struct vfioemu_msg *ask, char *first,
			  struct vfioemu_msg *answer, size_t got)
{
	uint64_t address = ask->arg[0];
	size_t size = ask->arg[1];
	bool good = copy_own(first, address, got, true);

	for (size_t at = got; at < size; at += got) {
		struct vfioemu_msg data;
		int fd;
		ssize_t part = receive_packet(client, &data, first,
					      VFIOEMU_MAX_DATA, &fd);

		if (part <= 0)
			return -EPIPE;
		got = (size_t)part;
		good = good && copy_own(first, address + at, got, true);
	}
	answer->arg[0] = good ? 0 : (uint64_t)-EFAULT;
	return send_packet(client, answer, NULL, 0, -1);
}

static uint64_t populate(const struct vfioemu_msg *ask)
{
	uint64_t start = ask->arg[0] & ~UINT64_C(4095);
	int advice = ask->flags & VFIOEMU_F_WRITE ? 23 : 22;
	uint64_t done = 0;

	while (done < ask->arg[1] &&
	       !madvise((void *)(uintptr_t)(start + done * 4096), 4096, advice))
		done++;
	return done;
}

/* Serve what the daemon asks while a call lasts. */
static int answer_ask(struct wire_client *client, struct vfioemu_msg *ask,
		      char *data, size_t got, int fd)
{
	struct vfioemu_msg answer = { .type = VFIOEMU_ANSWER, .seq = ask->seq };
	int given = -1;

	switch (ask->type) {
	case VFIOEMU_READ_USER:
		return send_memory(client, &answer, ask->arg[0], ask->arg[1]);
	case VFIOEMU_WRITE_USER:
		return receive_memory(client, ask, data, &answer, got);
	case VFIOEMU_PIN:
		answer.arg[0] = populate(ask);
		break;
	case VFIOEMU_TAKE_FD:
		given = (int)ask->arg[0];
		if (fcntl(given, F_GETFD) < 0) {
			given = -1;
			answer.arg[0] = (uint64_t)-EBADF;
		}
		break;
	case VFIOEMU_GIVE_FD:
		answer.arg[0] = (uint64_t)fd;
		break;
	case VFIOEMU_REVOKE_FD:
		close((int)ask->arg[0]);
		break;
	default:
		return -EPROTO;
	}
	return send_packet(client, &answer, NULL, 0, given);
}

static int64_t call(struct wire_client *client, struct exchange *x)
{
	static char data[VFIOEMU_MAX_DATA];
	struct vfioemu_msg *msg = &x->msg;

	msg->seq = ++client->seq;
	if (send_packet(client, msg, x->out, x->out_size, x->out_fd))
		return -EPIPE;
	for (;;) {
		struct vfioemu_msg got;
		ssize_t size = receive_packet(client, &got, data, sizeof(data),
					      &x->in_fd);

		if (size < 0)
			return size;
		if (got.type != VFIOEMU_REPLY) {
			int error = answer_ask(client, &got, data, (size_t)size,
					       x->in_fd);
			if (error)
				return error;
			continue;
		}
		if (size && got.arg[1] + (size_t)size <= x->in_size)
			memcpy((char *)x->in + got.arg[1], data, (size_t)size);
		x->msg = got;
		return (int64_t)got.arg[0];
	}
}

int wire_connect(struct wire_client *client, const char *path, uint64_t session,
		 uint16_t flags)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct exchange x = {
		.msg = { .type = VFIOEMU_HELLO,
			 .flags = flags,
			 .arg = { VFIOEMU_WIRE_MAGIC,
				  VFIOEMU_WIRE_VERSION |
					  (uint64_t)VFIOEMU_WIRE_VERSION << 32,
				  session, UINT64_MAX } },
		.in = &client->hello,
		.in_size = sizeof(client->hello),
		.out_fd = -1,
	};

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	client->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (client->sock < 0)
		return -errno;
	if (connect(client->sock, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	/* The layout of HELLO's reply is its own. */
	x.msg.seq = ++client->seq;
	if (send_packet(client, &x.msg, NULL, 0, -1))
		return -EPIPE;
	int fd;
	if (receive_packet(client, &x.msg, &client->hello,
			   sizeof(client->hello), &fd) < 0)
		return -EPIPE;
	client->session = x.msg.arg[2];
	return (int)(int64_t)x.msg.arg[0];
}

void wire_disconnect(struct wire_client *client)
{
	close(client->sock);
	client->sock = -1;
}

int wire_adopt(int fd, struct wire_file *file)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(name) - 1;
	char *digits;

	if (fd < 0 || getpeername(fd, (struct sockaddr *)&name, &size))
		return -EBADF;
	((char *)&name)[size] = 0;
	digits = strrchr(name.sun_path + 1, '/');
	if (!digits)
		return -EBADF;
	file->fd = fd;
	file->serial = strtoull(digits + 1, NULL, 10);
	return 0;
}

int wire_serve(struct wire_client *service)
{
	static char data[VFIOEMU_MAX_DATA];
	struct vfioemu_msg ask;
	int fd;
	ssize_t size = receive_packet(service, &ask, data, sizeof(data), &fd);

	if (size < 0)
		return (int)size;
	return answer_ask(service, &ask, data, (size_t)size, fd);
}

int wire_open(struct wire_client *client, const char *path,
	      struct wire_file *file)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_OPEN, .arg = { O_RDWR } },
		.out = path,
		.out_size = strlen(path),
		.out_fd = -1,
	};
	int64_t result = call(client, &x);

	return result < 0 ? (int)result : wire_adopt(x.in_fd, file);
}

void wire_close(struct wire_file *file)
{
	close(file->fd);
	file->fd = -1;
}

int64_t wire_ioctl(struct wire_client *client, const struct wire_file *file,
		   uint32_t cmd, uint64_t arg)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_IOCTL,
			 .token = file->serial,
			 .arg = { cmd, arg } },
		.out_fd = -1,
	};

	return call(client, &x);
}

int64_t wire_ioctl_offer(struct wire_client *client,
			 const struct wire_file *file, uint32_t cmd, void *arg,
			 size_t size)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_IOCTL,
			 .flags = VFIOEMU_F_WRITABLE,
			 .token = file->serial,
			 .arg = { cmd, (uint64_t)(uintptr_t)arg } },
		.out = arg,
		.out_size = size,
		.in = arg,
		.in_size = size,
		.out_fd = -1,
	};

	return call(client, &x);
}

int64_t wire_read(struct wire_client *client, const struct wire_file *file,
		  void *buffer, size_t size)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_READ,
			 .token = file->serial,
			 .arg = { (uint64_t)(uintptr_t)buffer, size } },
		.out_fd = -1,
	};

	return call(client, &x);
}

int64_t wire_pread(struct wire_client *client, const struct wire_file *file,
		   void *buffer, size_t size, uint64_t offset)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_PREAD,
			 .flags = VFIOEMU_F_WRITABLE,
			 .token = file->serial,
			 .arg = { (uint64_t)(uintptr_t)buffer, size, offset } },
		.in = buffer,
		.in_size = size,
		.out_fd = -1,
	};

	return call(client, &x);
}

int64_t wire_pwrite(struct wire_client *client, const struct wire_file *file,
		    const void *buffer, size_t size, uint64_t offset)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_PWRITE,
			 .token = file->serial,
			 .arg = { (uint64_t)(uintptr_t)buffer, size, offset } },
		.out = buffer,
		.out_size = size,
		.out_fd = -1,
	};

	return call(client, &x);
}

int64_t wire_share(struct wire_client *client, void *address, size_t size,
		   int fd)
{
	struct exchange x = {
		.msg = { .type = VFIOEMU_MEM_SHARE,
			 .arg = { (uint64_t)(uintptr_t)address, size, 0 } },
		.out_fd = fd,
	};

	return call(client, &x);
}

void *wire_memory(size_t size, int *fd)
{
	*fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0 || ftruncate(*fd, (off_t)size) ||
	    fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return NULL;
	void *address =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	return address == MAP_FAILED ? NULL : address;
}
