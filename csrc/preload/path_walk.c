/* SPDX-License-Identifier: MIT */
/**
 * @file path_walk.c
 * Overridden libc functions: nftw() and ftw(), whose own way through a tree
 * of files is inside libc. Only for paths that are ours.
 */
#include <errno.h>
#include <ftw.h>
#include <limits.h>

#include "path.h"

typedef int visit_fn(const char *path, const struct stat *status, int type,
		     struct FTW *where);
typedef int simple_fn(const char *path, const struct stat *status, int type);

struct seen {
	dev_t dev;
	ino_t ino;
};

struct tour {
	visit_fn *visit;
	simple_fn *simple; /* ftw()'s, in place of visit */
	int flags;
	dev_t dev;
	char path[PATH_MAX];
	size_t size;
	struct seen *seen; /* directories: sysfs has circles of links */
	size_t nseen;
	size_t room;
};

static int tell(struct tour *tour, const struct stat *status, int type,
		int base, int level)
{
	struct FTW where = { .base = base, .level = level };

	return tour->simple ? tour->simple(tour->path, status, type)
			    : tour->visit(tour->path, status, type, &where);
}

/* Note a directory: 1 if it is new, 0 if not, -1 without memory. */
static int note(struct tour *tour, const struct stat *status)
{
	for (size_t i = 0; i < tour->nseen; i++)
		if (tour->seen[i].dev == status->st_dev &&
		    tour->seen[i].ino == status->st_ino)
			return 0;
	if (tour->nseen == tour->room) {
		size_t room = tour->room ? 2 * tour->room : 64;
		struct seen *seen = realloc(tour->seen, room * sizeof(*seen));

		if (!seen)
			return -1;
		tour->seen = seen;
		tour->room = room;
	}
	tour->seen[tour->nseen++] =
		(struct seen){ status->st_dev, status->st_ino };
	return 1;
}

static int type_of(const struct tour *tour, struct stat *status)
{
	if (tour->flags & FTW_PHYS) {
		if (vfp_stat(tour->path, status, AT_SYMLINK_NOFOLLOW))
			return FTW_NS;
		if (S_ISLNK(status->st_mode))
			return FTW_SL;
	} else if (vfp_stat(tour->path, status, 0)) {
		if (vfp_stat(tour->path, status, AT_SYMLINK_NOFOLLOW) ||
		    !S_ISLNK(status->st_mode))
			return FTW_NS;
		return tour->simple ? FTW_NS : FTW_SLN;
	}
	return S_ISDIR(status->st_mode) ? FTW_D : FTW_F;
}

static int go(struct tour *tour, int base, int level);

/* All that is in the directory `tour->path`. */
static int go_in(struct tour *tour, DIR *directory, int level)
{
	size_t size = tour->size;
	struct dirent *entry;
	int result = 0;

	while (!result && (entry = vfp_read_directory(directory))) {
		size_t length = strlen(entry->d_name);
		bool slash = tour->path[size - 1] != '/';

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (size + slash + length >= sizeof(tour->path)) {
			errno = ENAMETOOLONG;
			return -1;
		}
		tour->path[size] = '/';
		memcpy(tour->path + size + slash, entry->d_name, length + 1);
		tour->size = size + slash + length;
		result = go(tour, (int)(size + slash), level + 1);
	}
	tour->path[size] = 0;
	tour->size = size;
	return result;
}

static int go_down(struct tour *tour, const struct stat *status, int base,
		   int level)
{
	bool after = tour->flags & FTW_DEPTH;
	bool obeys = tour->flags & FTW_ACTIONRETVAL;
	int known = note(tour, status);

	if (known <= 0)
		return known;
	DIR *directory = vfp_open_directory(tour->path);

	if (!directory)
		return errno == EACCES
			       ? tell(tour, status, FTW_DNR, base, level)
			       : -1;
	int result = after ? 0 : tell(tour, status, FTW_D, base, level);
	bool told = result;

	if (!told)
		result = go_in(tour, directory, level);
	vfp_close_directory(directory);
	/* Of what the program may answer, this is about what is in here. */
	if (obeys && !told && result == FTW_SKIP_SIBLINGS)
		result = 0;
	if (!result && after)
		result = tell(tour, status, FTW_DP, base, level);
	return result;
}

static int go(struct tour *tour, int base, int level)
{
	struct stat status;
	int type = type_of(tour, &status);

	if (tour->flags & FTW_MOUNT && level && type != FTW_NS &&
	    status.st_dev != tour->dev)
		return 0;
	if (!level)
		tour->dev = status.st_dev;
	int result = type == FTW_D ? go_down(tour, &status, base, level)
				   : tell(tour, &status, type, base, level);

	/* Said of this entry, and done. */
	return tour->flags & FTW_ACTIONRETVAL && result == FTW_SKIP_SUBTREE
		       ? 0
		       : result;
}

static int travel(const char *path, struct tour *tour)
{
	struct stat status;
	const char *slash;

	tour->size = strlen(path);
	while (tour->size > 1 && path[tour->size - 1] == '/')
		tour->size--;
	if (tour->size >= sizeof(tour->path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(tour->path, path, tour->size);
	tour->path[tour->size] = 0;
	if (vfp_stat(tour->path, &status, AT_SYMLINK_NOFOLLOW))
		return -1;
	slash = strrchr(tour->path, '/');
	int result = go(tour, slash ? (int)(slash + 1 - tour->path) : 0, 0);

	free(tour->seen);
	return tour->flags & FTW_ACTIONRETVAL && result == FTW_SKIP_SIBLINGS
		       ? 0
		       : result;
}

static bool is_ours(const char *path, int flags)
{
	VFP_PLACE(place);

	return !(flags & FTW_CHDIR) && vfp_moved(AT_FDCWD, path, &place);
}

static int not_there(void)
{
	errno = ENOSYS;
	return -1;
}

#define NFTW(name, fn_type)                                                    \
	VFP_EXPORT int name(const char *path, fn_type visit, int nfds,         \
			    int flags)                                         \
	{                                                                      \
		if (is_ours(path, flags)) {                                    \
			struct tour tour = {                                   \
				.visit = (visit_fn *)(void (*)(void))visit,    \
				.flags = flags,                                \
			};                                                     \
                                                                               \
			return travel(path, &tour);                            \
		}                                                              \
		return vfp.next.name ? vfp.next.name(path, visit, nfds, flags) \
				     : not_there();                            \
	}

NFTW(nftw, __nftw_func_t)
NFTW(nftw64, __nftw64_func_t)

#define FTW(name, fn_type)                                                    \
	VFP_EXPORT int name(const char *path, fn_type visit, int nfds)        \
	{                                                                     \
		if (is_ours(path, 0)) {                                       \
			struct tour tour = {                                  \
				.simple = (simple_fn *)(void (*)(void))visit, \
			};                                                    \
                                                                              \
			return travel(path, &tour);                           \
		}                                                             \
		return vfp.next.name ? vfp.next.name(path, visit, nfds)       \
				     : not_there();                           \
	}

FTW(ftw, __ftw_func_t)
FTW(ftw64, __ftw64_func_t)
