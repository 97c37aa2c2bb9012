/* SPDX-License-Identifier: MIT */
/**
 * @file trust.c
 * Who may be our daemon.
 *
 * A uid is a number in a user namespace. A program may have gone into another
 * one than the daemon's since it was told the number; there, the daemon's user
 * is ours if he has our own number, and if that stands for one user only. The
 * number of those who have none (overflowuid, 65534) does not: then it is the
 * directory that proves whose daemon it is. Only its owner, who is not
 * privileged over it, can have opened one that nobody else may open.
 */
#include "trust.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "sys.h"

static struct {
	char name[48];
	uid_t uid;
	uint64_t namespace; /* in which that is the number; 0: in ours */
	bool exact; /* the number as we see it was named: ask no further */
} trusted;

/* The root that was found to be good: what lstat() says of it. */
static struct {
	_Atomic uint64_t device, inode, owner_and_mode;
} good;

/* More than 32 bits is too much, however much it is. */
static uint64_t number(const char **text)
{
	uint64_t value = 0;

	while (**text >= '0' && **text <= '9' && value <= UINT32_MAX)
		value = 10 * value + (uint64_t)(*(*text)++ - '0');
	return value;
}

/* The user namespace that we are in; 0 if nobody can tell. */
static uint64_t namespace_here(void)
{
	struct stat status;

	return vfp_sys4(SYS_newfstatat, AT_FDCWD, "/proc/self/ns/user", &status,
			0)
		       ? 0
		       : status.st_ino;
}

void vfp_trust_init(const char *named, uid_t own)
{
	trusted.uid = own;
	if (!named) {
		trusted.namespace = namespace_here();
		return;
	}
	const char *text = named;
	uint64_t uid = number(&text);

	trusted.uid = (uid_t)uid;
	trusted.exact = !*text;
	if (text != named && *text == ':') {
		text++;
		trusted.namespace = number(&text);
	}
	if (text == named || *text || uid >= UINT32_MAX ||
	    strlen(named) >= sizeof(trusted.name)) {
		vfp_say("VFIOEMU_UID=%s is not UID or UID:NAMESPACE: no daemon "
			"is trusted",
			named);
		trusted.exact = true;
		trusted.uid = (uid_t)-1;
		return;
	}
	strcpy(trusted.name, named);
}

const char *vfp_trust_named(void)
{
	return *trusted.name ? trusted.name : NULL;
}

uid_t vfp_trust_uid(void)
{
	uint64_t here;

	if (!trusted.namespace)
		return trusted.uid;
	here = namespace_here();
	return !here || here == trusted.namespace
		       ? trusted.uid
		       : (uid_t)vfp_sys0(SYS_geteuid);
}

/* Whether a number of our user namespace is one user's. */
static bool is_mapped(uid_t uid)
{
	char map[1024];
	long file = vfp_sys4(SYS_openat, AT_FDCWD, "/proc/self/uid_map",
			     O_RDONLY | O_CLOEXEC, 0);
	const char *text = map;
	long size;

	if (file < 0)
		return true;
	size = vfp_sys3(SYS_read, file, map, sizeof(map) - 1);
	vfp_sys1(SYS_close, file);
	map[size > 0 ? size : 0] = 0;
	while (*text) {
		uint64_t field[3];

		for (unsigned int i = 0; i < 3; i++) {
			text += strspn(text, " \n");
			field[i] = number(&text);
		}
		if (uid >= field[0] && uid - field[0] < field[2])
			return true;
		if (*text && *text != '\n')
			break;
		text += strspn(text, "\n");
	}
	return false;
}

/* Whether the directory that a file is in is ours alone. */
static bool is_in_our_directory(const char *file)
{
	char directory[VFP_PATH_MAX];
	const char *end = strrchr(file, '/');
	struct stat status;
	bool ours;
	long fd;

	if (!end)
		return false;
	memcpy(directory, file, (size_t)(end - file));
	directory[end - file] = 0;
	fd = vfp_sys4(SYS_openat, AT_FDCWD, directory,
		      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	ours = !vfp_sys4(SYS_newfstatat, fd, "", &status, AT_EMPTY_PATH) &&
	       !(status.st_mode & 077);
	vfp_sys1(SYS_close, fd);
	return ours;
}

/* Whether `uid`, of whose something at `path` is, is whom we trust. */
static bool is_trusted(uid_t uid, const char *path)
{
	return uid == vfp_trust_uid() &&
	       (trusted.exact || is_mapped(uid) || is_in_our_directory(path));
}

bool vfp_trust_peer(int fd)
{
	struct ucred peer = { 0, (uid_t)-1, 0 };
	int size = sizeof(peer);

	return !vfp_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &peer,
			 &size) &&
	       is_trusted(peer.uid, vfp.socket);
}

bool vfp_trust_root(void)
{
	static atomic_bool said;
	struct stat status;
	uint64_t owner_and_mode;

	if (!vfp.root_size || vfp_sys4(SYS_newfstatat, AT_FDCWD, vfp.root,
				       &status, AT_SYMLINK_NOFOLLOW))
		return false;
	owner_and_mode = (uint64_t)status.st_uid << 32 | status.st_mode;
	if (atomic_load(&good.inode) == status.st_ino &&
	    atomic_load(&good.device) == status.st_dev &&
	    atomic_load(&good.owner_and_mode) == owner_and_mode)
		return true;
	if (!S_ISDIR(status.st_mode) || status.st_mode & 022 ||
	    !is_trusted(status.st_uid, vfp.root)) {
		if (!atomic_exchange(&said, true))
			vfp_say("VFIOEMU_ROOT=%s is not used: it is of uid %u; a "
				"directory of uid %u is expected that nobody "
				"else can write",
				vfp.root, status.st_uid, vfp_trust_uid());
		return false;
	}
	atomic_store(&good.inode, status.st_ino);
	atomic_store(&good.device, status.st_dev);
	atomic_store(&good.owner_and_mode, owner_and_mode);
	return true;
}
