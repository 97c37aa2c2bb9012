/* SPDX-License-Identifier: MIT */
/**
 * @file path_concern.c
 * Whether a path may be the daemon's: what is asked of every path.
 *
 * A path that is none of ours costs a few comparisons of bytes. A relative one
 * costs one look at a variable, unless the program has gone into the tree, or
 * to where "dev/vfio" or "sys/..." would lead there. One that cannot be read is
 * none of ours either: whoever it is handed on to says so.
 */
#include "path.h"
#include "process.h"
#include "sys.h"
#include "text.h"

/** What the working directory means for relative paths. */
enum { CWD_UNKNOWN, CWD_ELSEWHERE, CWD_MATTERS };
static atomic_int cwd_state;

/** Directories of the tree, or above it, have been looked at: a dirfd may be
 * one of them. */
static atomic_bool has_tree_dirs, has_upper_dirs;

void vfp_path_seen(bool in_tree)
{
	atomic_store_explicit(in_tree ? &has_tree_dirs : &has_upper_dirs, true,
			      memory_order_relaxed);
}

static void skip_slashes(struct vfp_text *path)
{
	while (vfp_peek(path) == '/')
		path->at++;
}

/* Whether a name is at its end. */
static bool is_end(struct vfp_text *path)
{
	int byte = vfp_peek(path);

	return !byte || byte == '/';
}

/* Whether `name` comes next, as a whole; then it is taken. */
static bool take(struct vfp_text *path, const char *name)
{
	struct vfp_text rest = *path;

	for (; *name; name++, rest.at++)
		if (vfp_peek(&rest) != *name)
			return false;
	if (!is_end(&rest))
		return false;
	*path = rest;
	return true;
}

/* A directory's fd may lead on to what is below it. */
static bool stays(struct vfp_text *path)
{
	int byte = vfp_peek(path);

	return !byte || byte == '.';
}

/* What the tree may have in /dev, and the fds. */
static bool is_device(struct vfp_text *path)
{
	return take(path, "vfio") || take(path, "iommu") || take(path, "fd");
}

/* Digits, as a whole name. */
static bool take_number(struct vfp_text *path)
{
	struct vfp_text rest = *path;

	while (vfp_peek(&rest) >= '0' && vfp_peek(&rest) <= '9')
		rest.at++;
	if (rest.at == path->at || !is_end(&rest))
		return false;
	*path = rest;
	return true;
}

/* Of /proc: links that lead where an fd, or the process, is (path_fd.c). */
static bool is_link_of_process(struct vfp_text path)
{
	if (!take(&path, "proc"))
		return false;
	skip_slashes(&path);
	if (!take(&path, "self") && !take(&path, "thread-self") &&
	    !take_number(&path))
		return false;
	skip_slashes(&path);
	return take(&path, "fd") || take(&path, "cwd") || take(&path, "root");
}

/* An absolute path that may lead into the tree. */
static bool absolute_concerns(struct vfp_text path)
{
	skip_slashes(&path);
	switch (vfp_peek(&path)) {
	case 's':
		return take(&path, "sys");
	case 'd':
		if (!take(&path, "dev"))
			return false;
		skip_slashes(&path);
		return stays(&path) || is_device(&path);
	case 'p':
		return is_link_of_process(path);
	default:
		return stays(&path);
	}
}

/* "../../dev/vfio/vfio", from wherever: it may be meant so. */
static __attribute__((noinline)) bool upwards_concerns(struct vfp_text path)
{
	bool up = false;

	while (take(&path, "..")) {
		up = true;
		skip_slashes(&path);
	}
	return up && absolute_concerns(path);
}

bool vfp_dirfd_concerns(int dirfd)
{
	return dirfd != AT_FDCWD &&
	       (atomic_load_explicit(&has_tree_dirs, memory_order_relaxed) ||
		atomic_load_explicit(&has_upper_dirs, memory_order_relaxed));
}

/* Below a directory that may be of the tree, or "/", or "/dev". */
static bool downwards_concerns(struct vfp_text path)
{
	return atomic_load_explicit(&has_tree_dirs, memory_order_relaxed) ||
	       (atomic_load_explicit(&has_upper_dirs, memory_order_relaxed) &&
		(absolute_concerns(path) || is_device(&path)));
}

static bool cwd_matters(void)
{
	char *name = vfp_scratch_take();
	bool matters = !name || vfp_sys2(SYS_getcwd, name, VFP_PATH_MAX) <= 0 ||
		       vfp_path_virtual(name) || !name[1] ||
		       vfp_path_is_below(name, "/dev") ||
		       vfp_path_is_below(name, "/sys");

	vfp_scratch_drop(name);
	return matters;
}

static __attribute__((noinline)) int look_at_cwd(void)
{
	int state = cwd_matters() ? CWD_MATTERS : CWD_ELSEWHERE;

	/* A child of vfork() has our memory, but may have gone elsewhere. */
	if (vfp_process_is_ours())
		atomic_store_explicit(&cwd_state, state, memory_order_relaxed);
	return state;
}

void vfp_path_moved(void)
{
	atomic_store_explicit(&cwd_state, CWD_UNKNOWN, memory_order_relaxed);
}

bool vfp_path_concerns(int dirfd, const char *name)
{
	struct vfp_text path = vfp_text(name);
	int first = vfp_peek(&path);

	if (first == '/')
		return absolute_concerns(path);
	if (first <= 0)
		return false;
	if (VFP_RARE(first == '.') && upwards_concerns(path))
		return true;
	if (dirfd != AT_FDCWD)
		return downwards_concerns(path);
	int state = atomic_load_explicit(&cwd_state, memory_order_relaxed);

	if (VFP_RARE(state == CWD_UNKNOWN))
		state = look_at_cwd();
	return state == CWD_MATTERS;
}

bool vfp_path_is_empty(const char *path)
{
	struct vfp_text text = vfp_text(path);

	return !path || !vfp_peek(&text);
}
