/* SPDX-License-Identifier: MIT */
/**
 * @file libc_aio.c
 * Overridden libc functions: POSIX AIO. libc's own threads would read from the
 * socket that an emulated fd is. A request on one is done at once, before the
 * function returns; what libc keeps in the request says that it is done, so
 * aio_error(), aio_return(), aio_suspend() and aio_cancel() are libc's.
 */
#include <aio.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "preload.h"
#include "sys.h"

_Static_assert(sizeof(struct aiocb) == sizeof(struct aiocb64) &&
		       offsetof(struct aiocb, aio_offset) ==
			       offsetof(struct aiocb64, aio_offset),
	       "LP64");

/* --- being told that it is done --- */

struct note {
	void (*call)(union sigval);
	union sigval value;
};

static void *tell(void *argument)
{
	struct note note = *(struct note *)argument;

	free(argument);
	note.call(note.value);
	return NULL;
}

static void start_thread(const struct sigevent *event)
{
	struct note *note = malloc(sizeof(*note));
	pthread_attr_t attributes, *wanted = event->sigev_notify_attributes;
	pthread_t thread;

	if (!note)
		return;
	*note = (struct note){ event->sigev_notify_function,
			       event->sigev_value };
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, wanted ? wanted : &attributes, tell, note))
		free(note);
	pthread_attr_destroy(&attributes);
}

static void notify(const struct sigevent *event)
{
	siginfo_t info = { .si_signo = event->sigev_signo,
			   .si_code = SI_ASYNCIO };

	if (event->sigev_notify == SIGEV_THREAD) {
		start_thread(event);
	} else if (event->sigev_notify == SIGEV_SIGNAL) {
		info.si_pid = (pid_t)vfp_sys0(SYS_getpid);
		info.si_uid = (uid_t)vfp_sys0(SYS_getuid);
		info.si_value = event->sigev_value;
		vfp_sys3(SYS_rt_sigqueueinfo, info.si_pid, event->sigev_signo,
			 &info);
	}
}

/* --- doing it --- */

/* Whether a request is for an emulated file. Those that are not there, libc
 * looks at, and ends the program. */
static bool is_ours(const struct aiocb *request, struct vfp_file *file)
{
	struct aiocb copy;

	return vfp_init() && vfp.active &&
	       !vfp_copy_in(&copy, request, sizeof(copy)) &&
	       vfp_emulated(copy.aio_fildes, file);
}

static void finish(struct aiocb *request, ssize_t result)
{
	request->__return_value = result;
	request->__error_code = result < 0 ? errno : 0;
}

static void transfer(const struct vfp_file *file, struct aiocb *request,
		     bool writes)
{
	void *data = (void *)(uintptr_t)request->aio_buf;
	int saved = errno;

	finish(request, writes ? vfp_pwrite(file, data, request->aio_nbytes,
					    request->aio_offset)
			       : vfp_pread(file, data, request->aio_nbytes,
					   request->aio_offset));
	errno = saved;
}

static int not_there(void)
{
	errno = ENOSYS;
	return -1;
}

#define AIO(name, type, writes)                                       \
	VFP_EXPORT int name(struct type *request)                     \
	{                                                             \
		struct aiocb *ours = (struct aiocb *)request;         \
		struct vfp_file file;                                 \
                                                                      \
		if (!is_ours(ours, &file))                            \
			return vfp.next.name ? vfp.next.name(request) \
					     : not_there();           \
		transfer(&file, ours, writes);                        \
		notify(&ours->aio_sigevent);                          \
		return 0;                                             \
	}

AIO(aio_read, aiocb, false)
AIO(aio_read64, aiocb64, false)
AIO(aio_write, aiocb, true)
AIO(aio_write64, aiocb64, true)

/* fsync() of a file that has no such operation. */
#define AIO_FSYNC(name, type)                                                 \
	VFP_EXPORT int name(int op, struct type *request)                     \
	{                                                                     \
		struct aiocb *ours = (struct aiocb *)request;                 \
		struct vfp_file file;                                         \
                                                                              \
		if ((op != O_SYNC && op != O_DSYNC) || !is_ours(ours, &file)) \
			return vfp.next.name ? vfp.next.name(op, request)     \
					     : not_there();                   \
		ours->__return_value = -1;                                    \
		ours->__error_code = EINVAL;                                  \
		notify(&ours->aio_sigevent);                                  \
		return 0;                                                     \
	}

AIO_FSYNC(aio_fsync, aiocb)
AIO_FSYNC(aio_fsync64, aiocb64)

/* --- many requests --- */

static bool is_transfer(const struct aiocb *request)
{
	return request->aio_lio_opcode == LIO_READ ||
	       request->aio_lio_opcode == LIO_WRITE;
}

/* Do those that are ours: libc is to leave them out. How many failed. */
static int do_ours(struct aiocb **list, int count, struct aiocb **rest)
{
	int failed = 0;

	for (int i = 0; i < count; i++) {
		struct vfp_file file;

		rest[i] = list[i];
		if (!list[i] || !is_ours(list[i], &file) ||
		    !is_transfer(list[i]))
			continue;
		rest[i] = NULL;
		transfer(&file, list[i], list[i]->aio_lio_opcode == LIO_WRITE);
		notify(&list[i]->aio_sigevent);
		failed += list[i]->__error_code != 0;
	}
	return failed;
}

static bool has_ours(struct aiocb *const *list, int count)
{
	struct aiocb *request;
	struct vfp_file file;

	for (int i = 0; i < count; i++)
		if (!vfp_copy_in(&request, list + i, sizeof(request)) &&
		    request && is_ours(request, &file))
			return true;
	return false;
}

static int do_list(int mode, struct aiocb **list, int count,
		   struct sigevent *event)
{
	struct aiocb **rest = calloc((size_t)count, sizeof(*rest));
	int result, failed;

	if (!rest) {
		errno = EAGAIN;
		return -1;
	}
	failed = do_ours(list, count, rest);
	result = vfp.next.lio_listio(mode, rest, count, event);
	free(rest);
	if (!result && failed && mode == LIO_WAIT) {
		errno = EIO;
		return -1;
	}
	return result;
}

#define LIO_LISTIO(name, type)                                               \
	VFP_EXPORT int name(int mode, struct type *const list[], int count,  \
			    struct sigevent *event)                          \
	{                                                                    \
		struct aiocb **ours = (struct aiocb **)(uintptr_t)list;      \
                                                                             \
		if (!vfp_init() || !vfp.next.name || !vfp.next.lio_listio)   \
			return not_there();                                  \
		if ((mode == LIO_WAIT || mode == LIO_NOWAIT) && count > 0 && \
		    has_ours(ours, count))                                   \
			return do_list(mode, ours, count, event);            \
		return vfp.next.name(mode, list, count, event);              \
	}

LIO_LISTIO(lio_listio, aiocb)
LIO_LISTIO(lio_listio64, aiocb64)
