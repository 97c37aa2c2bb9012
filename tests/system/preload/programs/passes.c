/* SPDX-License-Identifier: MIT */
/* Hands a device's files to what works on files of any kind: streams, POSIX
 * AIO, splice() and its like, epoll, io_uring. What VFIO's files do not have is
 * refused as the kernel refuses it; nothing hangs, and nobody gets a byte that
 * is not the device's. */
#include "client.h"

#include <aio.h>
#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/un.h>

static volatile sig_atomic_t notes;
static _Atomic int thread_notes;

static void noted(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	CHECK(info->si_code == SI_ASYNCIO && info->si_value.sival_int == 7);
	notes++;
}

static void thread_noted(union sigval value)
{
	CHECK(value.sival_int == 8);
	thread_notes++;
}

static void streams(int device, int container)
{
	FILE *file = fdopen(dup(device), "r+");
	char byte;
	int fd;

	CHECK(file);
	fd = fileno(file);
	CHECK(fd >= 0 && fd != device && fileno_unlocked(file) == fd);
	REFUSED(fseeko(file, (off_t)CONFIG, SEEK_SET), ESPIPE);
	/* As read() of all that fits a buffer, at offset 0. */
	errno = 0;
	ssize_t plain = read(device, &byte, 1);
	int error = errno;

	errno = 0;
	CHECK((ssize_t)fread(&byte, 1, 1, file) == (plain > 0 ? 1 : 0));
	CHECK(plain >= 0 || (ferror(file) && errno == error));
	CHECK(!fclose(file));
	REFUSED(fcntl(fd, F_GETFD), EBADF);

	file = fopen("/dev/vfio/vfio", "r+");
	CHECK(file && ioctl(fileno(file), VFIO_GET_API_VERSION) == 0);
	errno = 0;
	CHECK(fread(&byte, 1, 1, file) == 0 && ferror(file) && errno == EINVAL);
	CHECK(!fclose(file));
	errno = 0;
	CHECK(!fdopen(dup(container), "?") && errno == EINVAL);

	file = fopen("/dev/null", "r");
	fd = fileno(file);
	errno = 0;
	CHECK(!freopen("/dev/vfio/vfio", "r+", file) && errno == EINVAL);
	REFUSED(fcntl(fd, F_GETFD), EBADF);

	/* libc's own streams know nothing of us. */
	CHECK(dup2(device, 0) == 0 && dup2(container, 9) == 9);
	for (int i = 0; i < 3; i++) {
		clearerr(stdin);
		CHECK(getchar() == EOF);
	}
	CHECK(dprintf(9, "x") < 0);
}

static struct aiocb request(int fd, void *data, size_t size, off_t offset)
{
	struct aiocb one = { .aio_fildes = fd,
			     .aio_buf = data,
			     .aio_nbytes = size,
			     .aio_offset = offset };

	one.aio_sigevent.sigev_notify = SIGEV_NONE;
	return one;
}

static void asynchronous(int device, const char *file)
{
	unsigned char id[4] = { 0 }, want[4], text[4] = { 0 };
	struct aiocb one = request(device, id, 4, (off_t)CONFIG);
	const struct aiocb *waiting[] = { &one };
	struct sigaction action = { .sa_sigaction = noted,
				    .sa_flags = SA_SIGINFO };
	ssize_t size = pread(device, want, 4, (off_t)CONFIG);

	CHECK(size == 4);
	CHECK(!sigaction(SIGUSR2, &action, NULL));
	CHECK(!aio_read(&one) && !aio_suspend(waiting, 1, NULL));
	CHECK(!aio_error(&one) && aio_return(&one) == 4);
	CHECK(!memcmp(id, want, 4));

	one = request(device, id, 4, (off_t)CONFIG);
	one.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
	one.aio_sigevent.sigev_signo = SIGUSR2;
	one.aio_sigevent.sigev_value.sival_int = 7;
	CHECK(!aio_write64((struct aiocb64 *)&one));
	CHECK(!aio_error(&one) && aio_return(&one) == 4 && notes == 1);

	one = request(device, (void *)8, 4, (off_t)CONFIG);
	one.aio_sigevent.sigev_notify = SIGEV_THREAD;
	one.aio_sigevent.sigev_notify_function = thread_noted;
	one.aio_sigevent.sigev_value.sival_int = 8;
	CHECK(!aio_read64((struct aiocb64 *)&one));
	CHECK(aio_error(&one) == EFAULT && aio_return(&one) == -1);
	while (!thread_notes)
		sched_yield();

	one = request(device, id, 4, 0);
	CHECK(!aio_fsync(O_SYNC, &one) && aio_error(&one) == EINVAL);
	CHECK(!aio_fsync64(O_DSYNC, (struct aiocb64 *)&one));
	CHECK(aio_cancel(device, NULL) == AIO_ALLDONE);

	/* With a request of another file, and one that fails. */
	struct aiocb other = request(open(file, O_RDONLY), text, 4, 1);
	struct aiocb bad = request(device, (void *)8, 4, (off_t)CONFIG);
	struct aiocb *list[] = { &one, &other, NULL, &bad };

	one = request(device, id, 4, (off_t)CONFIG);
	memset(id, 0, 4);
	one.aio_lio_opcode = other.aio_lio_opcode = LIO_READ;
	bad.aio_lio_opcode = LIO_READ;
	CHECK(!lio_listio(LIO_WAIT, list, 3, NULL));
	CHECK(aio_return(&one) == 4 && !memcmp(id, want, 4));
	CHECK(aio_return(&other) == 4 && !memcmp(text, "ext", 4));
	REFUSED(lio_listio64(LIO_WAIT, (struct aiocb64 **)list, 4, NULL), EIO);
	CHECK(aio_error(&bad) == EFAULT && !aio_error(&other));
	CHECK(!close(other.aio_fildes));
}

/* It is none, and stays what it is for all that have it. */
static void no_socket(int fd)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "x" };
	struct sockaddr *at = (struct sockaddr *)&name;
	struct msghdr message = { 0 };
	struct mmsghdr messages = { 0 };
	socklen_t size = sizeof(name);
	int value = 1;
	socklen_t room = sizeof(value);

	REFUSED(shutdown(fd, SHUT_RDWR), ENOTSOCK);
	REFUSED(shutdown(fd, 77), ENOTSOCK);
	REFUSED(syscall(SYS_shutdown, fd, SHUT_RDWR), ENOTSOCK);
	REFUSED(send(fd, "x", 1, 0), ENOTSOCK);
	REFUSED(sendto(fd, "x", 1, MSG_DONTWAIT, NULL, 0), ENOTSOCK);
	REFUSED(syscall(SYS_sendto, fd, "x", 1, 0, NULL, 0), ENOTSOCK);
	REFUSED(sendmsg(fd, &message, 0), ENOTSOCK);
	REFUSED(sendmmsg(fd, &messages, 1, 0), ENOTSOCK);
	REFUSED(recv(fd, &value, sizeof(value), MSG_DONTWAIT), ENOTSOCK);
	REFUSED(recvfrom(fd, &value, 1, MSG_DONTWAIT, at, &size), ENOTSOCK);
	REFUSED(recvmsg(fd, &message, 0), ENOTSOCK);
	REFUSED(recvmmsg(fd, &messages, 1, 0, NULL), ENOTSOCK);
	REFUSED(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &room), ENOTSOCK);
	REFUSED(syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &value, &room),
		ENOTSOCK);
	REFUSED(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, room), ENOTSOCK);
	REFUSED(getsockname(fd, at, &size), ENOTSOCK);
	REFUSED(getpeername(fd, at, &size), ENOTSOCK);
	REFUSED(listen(fd, 1), ENOTSOCK);
	REFUSED(accept(fd, NULL, NULL), ENOTSOCK);
	REFUSED(accept4(fd, NULL, NULL, SOCK_CLOEXEC), ENOTSOCK);
	REFUSED(bind(fd, at, size), ENOTSOCK);
	REFUSED(connect(fd, at, size), ENOTSOCK);
	REFUSED(shutdown(-1, SHUT_RDWR), EBADF);
}

/* What is one works as it does. */
static void socket_is_one(const char *folder)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct sockaddr *at = (struct sockaddr *)&name;
	socklen_t size = sizeof(name);
	int server = socket(AF_UNIX, SOCK_STREAM, 0), ends[2], type;
	int client = socket(AF_UNIX, SOCK_STREAM, 0);
	char text[4];

	snprintf(name.sun_path, sizeof(name.sun_path), "%s.socket", folder);
	CHECK(!bind(server, at, size) && !listen(server, 1));
	CHECK(!connect(client, at, size));
	ends[0] = accept(server, NULL, NULL);
	CHECK(ends[0] >= 0 && send(client, "abc", 4, 0) == 4);
	CHECK(recv(ends[0], text, 4, 0) == 4 && !strcmp(text, "abc"));
	CHECK(!getpeername(client, at, &size) && *name.sun_path == *folder);
	size = sizeof(type);
	CHECK(!getsockopt(client, SOL_SOCKET, SO_TYPE, &type, &size));
	CHECK(type == SOCK_STREAM && !shutdown(client, SHUT_WR));
	CHECK(syscall(SYS_recvfrom, ends[0], text, 4, 0, NULL, NULL) == 0);
	CHECK(!unlink(name.sun_path));
	close(server);
	close(client);
	close(ends[0]);
}

static void kernel_side(int fd, int file)
{
	off_t at = 0;
	int ends[2];

	CHECK(!pipe(ends) && write(ends[1], "0123", 4) == 4);
	REFUSED(splice(fd, NULL, ends[1], NULL, 4, 0), EINVAL);
	REFUSED(splice(ends[0], NULL, fd, NULL, 4, 0), EINVAL);
	REFUSED(splice(fd, &at, ends[1], NULL, 4, 0), EINVAL);
	REFUSED(splice(fd, NULL, ends[1], &at, 4, 0), ESPIPE);
	REFUSED(splice(fd, NULL, 999, NULL, 4, 0), EBADF);
	REFUSED(splice(fd, NULL, ends[1], NULL, 4, 1u << 20), EINVAL);
	CHECK(splice(fd, NULL, ends[1], NULL, 0, 0) == 0);
	REFUSED(syscall(SYS_splice, fd, NULL, ends[1], NULL, 4, 0), EINVAL);
	REFUSED(tee(fd, ends[1], 4, 0), EINVAL);
	REFUSED(tee(ends[0], fd, 4, 0), EINVAL);
	REFUSED(vmsplice(fd, &(struct iovec){ &at, 1 }, 1, 0), EBADF);
	REFUSED(sendfile(ends[1], fd, NULL, 4), EINVAL);
	REFUSED(sendfile(ends[1], fd, &at, 4), EINVAL);
	REFUSED(sendfile64(fd, file, &at, 4), EINVAL);
	REFUSED(sendfile(fd, ends[0], &at, 4), ESPIPE);
	REFUSED(sendfile(fd, 999, &at, 4), EBADF);
	REFUSED(sendfile(999, fd, &at, 4), EBADF);
	REFUSED(syscall(SYS_sendfile, fd, file, NULL, 4), EINVAL);
	REFUSED(copy_file_range(fd, NULL, file, NULL, 4, 0), EINVAL);
	REFUSED(lseek(fd, 0, SEEK_SET), ESPIPE);
	REFUSED(lseek(fd, 0, SEEK_END), ESPIPE);
	no_socket(fd);
	char bytes[4];

	CHECK(read(ends[0], bytes, 4) == 4 && !memcmp(bytes, "0123", 4));
	close(ends[0]);
	close(ends[1]);
}

static void polling(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd one = { fd, POLLIN | POLLOUT, 0 };
	int epoll = epoll_create1(0);

	REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EPERM);
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), EPERM);
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, NULL), EFAULT);
	REFUSED(syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &event),
		EPERM);
	REFUSED(epoll_ctl(-1, EPOLL_CTL_ADD, fd, &event), EBADF);
	CHECK(poll(&one, 1, 0) == 1 && one.revents == (POLLIN | POLLOUT));
	close(epoll);
}

static void opened(int container, int group, int device)
{
	int fd = open("/dev/vfio/vfio", O_RDONLY | O_NONBLOCK);
	char byte;

	CHECK((fcntl(container, F_GETFL) & O_ACCMODE) == O_RDWR);
	CHECK((fcntl(group, F_GETFL) & O_ACCMODE) == O_RDWR);
	CHECK(fcntl(device, F_GETFL) == O_RDWR);
	CHECK((fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_NONBLOCK);
	CHECK(!fcntl(fd, F_SETFL, 0));
	CHECK((fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDONLY);
	CHECK(ioctl(fd, VFIO_GET_API_VERSION) == 0);
	REFUSED(read(fd, &byte, 1), EINVAL);
	REFUSED(write(fd, &byte, 1), EBADF);
	close(fd);
	fd = open("/dev/vfio/vfio", O_WRONLY);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY);
	REFUSED(read(fd, &byte, 1), EBADF);
	close(fd);
}

/* A ring of one entry, without a library. */
static int by_ring(int fd, int op, void *data, unsigned int size, off_t offset)
{
	struct io_uring_params params = { 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0)
		return -ENOSYS; /* not allowed here */
	char *sq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
			IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
			IORING_OFF_CQ_RING);
	struct io_uring_sqe *entry = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					  MAP_SHARED, ring, IORING_OFF_SQES);

	CHECK(sq != MAP_FAILED && cq != MAP_FAILED && entry != MAP_FAILED);
	*entry = (struct io_uring_sqe){ .opcode = (uint8_t)op,
					.fd = fd,
					.off = (uint64_t)offset,
					.addr = (uintptr_t)data,
					.len = size };
	*(unsigned int *)(sq + params.sq_off.array) = 0;
	*(unsigned int *)(sq + params.sq_off.tail) += 1;
	CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS,
		      NULL, 0) == 1);
	int result = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))->res;

	munmap(sq, PAGE);
	munmap(cq, PAGE);
	munmap(entry, PAGE);
	close(ring);
	return result;
}

static void ring(int device)
{
	char data[4] = "old";

	CHECK(by_ring(device, IORING_OP_READ, data, 4, (off_t)CONFIG) < 0);
	for (int i = 0; i < 3; i++) {
		int result = by_ring(device, IORING_OP_READ, data, 4, 0);

		CHECK(result <= 0 && !memcmp(data, "old", 4));
		/* The daemon has seen it when it has answered a call. */
		CHECK(ioctl(device, VFIO_DEVICE_RESET) == 0 || errno);
	}
	CHECK(by_ring(device, IORING_OP_WRITE, data, 4, 0) < 0);
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);
	int file = open(argv[3], O_RDWR | O_CREAT, 0600);

	(void)argc;
	CHECK(write(file, "text", 5) == 5);
	kernel_side(client.device, file);
	kernel_side(client.group, file);
	kernel_side(client.container, file);
	socket_is_one(argv[3]);
	polling(client.device);
	polling(client.group);
	polling(client.container);
	opened(client.container, client.group, client.device);
	asynchronous(client.device, argv[3]);
	ring(client.device);
	polling(client.device);
	streams(client.device, client.container);
	tear_down(&client);
	puts("ok");
	return 0;
}
