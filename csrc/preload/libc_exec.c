/* SPDX-License-Identifier: MIT */
/**
 * @file libc_exec.c
 * Overridden libc functions: those that execute programs. A program that cleans
 * the environment of another (env -i, launchers, sudo as root) loses LD_PRELOAD
 * with it; it is put back, unless there is one: an empty one stays empty. And a
 * link beside the daemon that is gone, or that another user may not use, is
 * replaced by what it led to, as the dynamic linker would complain.
 */
#include <alloca.h>
#include <errno.h>
#include <spawn.h>
#include <stdarg.h>

#include "path.h"
#include "place.h"
#include "sys.h"
#include "text.h"
#include "trust.h"

#define MOST_ENTRIES 8192 /* of an environment that we copy to the stack */
#define ADDED	     4
#define MOST_TEXT    (2 * PATH_MAX) /* of an LD_PRELOAD that we change */

#define PRELOAD "LD_PRELOAD="

/* An environment, and what it lacks. */
struct lacking {
	long count;		/* its entries; -1: it is to stay as it is */
	long preload;		/* which of them is LD_PRELOAD; -1: none */
	const char *library;	/* what that has to name */
	const char *instead_of; /* where it names this now */
	bool socket, root, uid;
	size_t size; /* of the text of what is added */
};

/* Whether a string, which may not be there, begins with `name`. */
static bool begins(struct vfp_text text, const char *name)
{
	for (; *name; text.at++, name++)
		if (vfp_peek(&text) != *name)
			return false;
	return true;
}

/* Whether an entry names another daemon's socket than ours. */
static bool is_other_socket(struct vfp_text text)
{
	const char *name = "VFIOEMU_SOCKET=";

	if (!begins(text, name))
		return false;
	text.at += strlen(name);
	if (!begins(text, vfp.socket))
		return true;
	text.at += strlen(vfp.socket);
	return vfp_peek(&text) != 0;
}

/* The pointer at `from`, which may not be there. */
static bool read_pointer(struct vfp_text *text, const char *const *from,
			 const char **pointer)
{
	for (size_t i = 0; i < sizeof(*from); i += sizeof(*from) - 1) {
		vfp_text_go(text, (const char *)from + i);
		if (vfp_peek(text) < 0)
			return false;
	}
	*pointer = *from;
	return true;
}

/* Whether the daemon is found by the library's place. */
static bool is_beside_us(void)
{
	struct vfp_daemon_place *place = vfp_scratch_take();
	bool found = place && vfp_place_find(place) &&
		     !strcmp(place->socket, vfp.socket);

	vfp_scratch_drop(place);
	return found;
}
_Static_assert(sizeof(struct vfp_daemon_place) <= VFP_SCRATCH_SIZE,
	       "one piece");

/* What is added for a variable. */
static size_t added(const char *name, const char *value)
{
	return strlen(name) + strlen(value) + 1;
}

/* Look at an environment, any of which may not be there. */
static void look_at(struct lacking *lacking, char *const *environment)
{
	bool has_socket = false, has_root = false, has_uid = false;
	bool is_others = false;
	const char *library = vfp_place_library();
	struct vfp_text entries = vfp_text(NULL), text = vfp_text(NULL);
	long count = 0;

	*lacking = (struct lacking){ .count = -1, .preload = -1 };
	if (!vfp.active || !library)
		return;
	for (; environment; count++) {
		const char *entry;

		if (count == MOST_ENTRIES ||
		    !read_pointer(&entries,
				  (const char *const *)environment + count,
				  &entry))
			return;
		if (!entry)
			break;
		vfp_text_go(&text, entry);
		vfp_peek(&text); /* asks once for all of them */
		if (begins(text, PRELOAD))
			lacking->preload = count;
		has_socket |= begins(text, "VFIOEMU_SOCKET=");
		is_others |= is_other_socket(text);
		has_root |= begins(text, "VFIOEMU_ROOT=");
		has_uid |= begins(text, "VFIOEMU_UID=");
	}
	const char *instead = vfp_place_instead();

	lacking->library = instead ? instead : library;
	lacking->size = added(PRELOAD, lacking->library);
	if (lacking->preload >= 0) {
		const char *entry = environment[lacking->preload];

		if (!instead) /* it finds its daemon, or is not ours */
			return;
		lacking->instead_of = strstr(entry, library);
		lacking->size += strlen(entry);
		if (!lacking->instead_of || lacking->size >= MOST_TEXT)
			return;
	}
	lacking->count = count;
	if (!instead && is_beside_us())
		return;
	lacking->socket = !has_socket;
	/* Our tree, and whom we trust, say nothing of another daemon. */
	lacking->root = vfp.root_size && !has_root && !is_others;
	lacking->uid = vfp_trust_named() && !has_uid && !is_others;
	if (lacking->socket)
		lacking->size += added("VFIOEMU_SOCKET=", vfp.socket);
	if (lacking->root)
		lacking->size += added("VFIOEMU_ROOT=", vfp.root);
	if (lacking->uid)
		lacking->size += added("VFIOEMU_UID=", vfp_trust_named());
}

/* One more entry, whose text comes to where the last one's ended. */
static char **add(char **out, char **text, const char *name, const char *value)
{
	*out = *text;
	*text = stpcpy(stpcpy(*text, name), value) + 1;
	return out + 1;
}

/* LD_PRELOAD with another name in the place of one that it has. */
static char **replace(char **out, char **text, const char *entry,
		      const struct lacking *lacking)
{
	size_t before = (size_t)(lacking->instead_of - entry);

	*out = memcpy(*text, entry, before);
	*text = stpcpy(*text + before, lacking->library);
	*text = stpcpy(*text,
		       lacking->instead_of + strlen(vfp_place_library())) +
		1;
	return out + 1;
}

/* `out` and `text` have room for all. */
static void complete(char **out, char *text, char *const *environment,
		     const struct lacking *lacking)
{
	if (lacking->preload >= 0)
		out = replace(out, &text, environment[lacking->preload],
			      lacking);
	else
		out = add(out, &text, PRELOAD, lacking->library);
	if (lacking->socket)
		out = add(out, &text, "VFIOEMU_SOCKET=", vfp.socket);
	if (lacking->root)
		out = add(out, &text, "VFIOEMU_ROOT=", vfp.root);
	if (lacking->uid)
		out = add(out, &text, "VFIOEMU_UID=", vfp_trust_named());
	for (long i = 0; i < lacking->count; i++)
		if (i != lacking->preload)
			*out++ = environment[i];
	*out = NULL;
}

/* The environment that the program gets: on the stack, as a child of vfork()
 * has its parent's heap, and no larger than it has to be. */
#define COMPLETED(environment)                                                 \
	struct lacking lacking;                                                \
	vfp_init();                                                            \
	look_at(&lacking, environment);                                        \
	if (VFP_RARE(lacking.count >= 0)) {                                    \
		char **longer = alloca(((size_t)lacking.count + ADDED + 1) *   \
				       sizeof(*longer));                       \
		complete(longer, alloca(lacking.size), environment, &lacking); \
		environment = longer;                                          \
	}

static int not_there(void)
{
	return (int)vfp_result(-ENOSYS);
}

VFP_EXPORT int execve(const char *path, char *const arguments[],
		      char *const environment[])
{
	COMPLETED(environment)
	return VFP_NEXT(execve, SYS_execve, path, arguments, environment);
}

VFP_EXPORT int execv(const char *path, char *const arguments[])
{
	char *const *environment = environ;

	COMPLETED(environment)
	return VFP_NEXT(execve, SYS_execve, path, arguments, environment);
}

VFP_EXPORT int execvpe(const char *file, char *const arguments[],
		       char *const environment[])
{
	COMPLETED(environment)
	return vfp.next.execvpe ? vfp.next.execvpe(file, arguments, environment)
				: not_there();
}

VFP_EXPORT int execvp(const char *file, char *const arguments[])
{
	char *const *environment = environ;

	COMPLETED(environment)
	return vfp.next.execvpe ? vfp.next.execvpe(file, arguments, environment)
				: not_there();
}

VFP_EXPORT int fexecve(int fd, char *const arguments[],
		       char *const environment[])
{
	COMPLETED(environment)
	return vfp.next.fexecve ? vfp.next.fexecve(fd, arguments, environment)
				: not_there();
}

VFP_EXPORT int execveat(int dirfd, const char *path, char *const arguments[],
			char *const environment[], int flags)
{
	COMPLETED(environment)
	return (int)vfp_result(vfp_sys5(SYS_execveat, dirfd, path, arguments,
					environment, flags));
}

/* Take the arguments of execl() and its kin, `first` among them; what follows
 * their NULL is left. */
#define COLLECT(first)                                                \
	va_list args, again;                                          \
	size_t number = 1;                                            \
	va_start(args, first);                                        \
	va_copy(again, args);                                         \
	while (va_arg(again, char *))                                 \
		number++;                                             \
	va_end(again);                                                \
	char **arguments = alloca((number + 1) * sizeof(*arguments)); \
	arguments[0] = (char *)(uintptr_t)first;                      \
	for (size_t i = 1; i <= number; i++)                          \
		arguments[i] = va_arg(args, char *);

VFP_EXPORT int execl(const char *path, const char *first, ...)
{
	char *const *environment = environ;

	COLLECT(first)
	va_end(args);
	COMPLETED(environment)
	return VFP_NEXT(execve, SYS_execve, path, arguments, environment);
}

VFP_EXPORT int execle(const char *path, const char *first, ...)
{
	COLLECT(first)
	char *const *environment = va_arg(args, char *const *);

	va_end(args);
	COMPLETED(environment)
	return VFP_NEXT(execve, SYS_execve, path, arguments, environment);
}

VFP_EXPORT int execlp(const char *file, const char *first, ...)
{
	char *const *environment = environ;

	COLLECT(first)
	va_end(args);
	COMPLETED(environment)
	return vfp.next.execvpe ? vfp.next.execvpe(file, arguments, environment)
				: not_there();
}

#define SPAWN(name)                                                            \
	VFP_EXPORT int name(pid_t *restrict pid, const char *restrict path,    \
			    const posix_spawn_file_actions_t *actions,         \
			    const posix_spawnattr_t *restrict attributes,      \
			    char *const arguments[restrict],                   \
			    char *const environment[restrict])                 \
	{                                                                      \
		COMPLETED(environment)                                         \
		return vfp.next.name                                           \
			       ? vfp.next.name(pid, path, actions, attributes, \
					       arguments, environment)         \
			       : ENOSYS;                                       \
	}

SPAWN(posix_spawn)
SPAWN(posix_spawnp)
