/* SPDX-License-Identifier: MIT */
/**
 * @file path_dir.c
 * Overridden libc functions: directories.
 *
 * A merged directory is read as two, the tree's and the real one, whose names
 * are left out where the tree has them too. A DIR is libc's own; which ones
 * have a second half is in a small table, so that all others cost a look at
 * one variable.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"

#define HALVES 64

struct half {
	_Atomic(DIR *) first;
	DIR *second;
	bool in_second;
};
static struct half halves[HALVES];
static atomic_int used;

static struct half *half_of(DIR *first)
{
	if (!first || !atomic_load_explicit(&used, memory_order_acquire))
		return NULL;
	for (size_t i = 0; i < HALVES; i++)
		if (atomic_load_explicit(&halves[i].first,
					 memory_order_acquire) == first)
			return &halves[i];
	return NULL;
}

/* The directory that is merged with `first`; without one, or without room in
 * the table, the tree's names are all that is seen. */
static void merge(DIR *first)
{
	char name[VFP_PATH_MAX];
	struct stat status;
	int fd = vfp.next.dirfd ? vfp.next.dirfd(first) : -1;

	if (vfp_sys2(SYS_fstat, fd, &status) || !vfp_path_of_fd(fd, name))
		return;
	if (vfp_path_virtual(name) && status.st_mode & S_ISVTX)
		vfp_path_strip(name);
	else if (strcmp(name, "/dev") || !vfp_path_stand_in(name))
		return; /* /dev is the system's, and has what the tree has */
	int saved = errno;
	DIR *second = vfp.next.opendir(name);

	errno = saved;
	if (!second)
		return;
	for (size_t i = 0; i < HALVES; i++) {
		DIR *none = NULL;

		if (!atomic_compare_exchange_strong(&halves[i].first, &none,
						    first))
			continue;
		halves[i].second = second;
		halves[i].in_second = false;
		atomic_fetch_add(&used, 1);
		return;
	}
	vfp.next.closedir(second);
}

DIR *vfp_open_directory(const char *path)
{
	VFP_PLACE(place);
	bool moved = vfp_moved(AT_FDCWD, path, &place);

	if (!vfp.next.opendir) {
		errno = ENOSYS;
		return NULL;
	}
	DIR *first = vfp.next.opendir(moved ? place->real : path);

	if (first && (moved || vfp_concerns(AT_FDCWD, path)))
		merge(first);
	return first;
}

VFP_EXPORT DIR *opendir(const char *path)
{
	return vfp_open_directory(path);
}

VFP_EXPORT DIR *fdopendir(int fd)
{
	if (!vfp_init() || !vfp.next.fdopendir) {
		errno = ENOSYS;
		return NULL;
	}
	DIR *first = vfp.next.fdopendir(fd);

	if (first && vfp.active && vfp_dirfd_concerns(fd))
		merge(first);
	return first;
}

int vfp_close_directory(DIR *first)
{
	struct half *half = half_of(first);

	if (half) {
		DIR *second = half->second;

		atomic_store_explicit(&half->first, NULL, memory_order_release);
		atomic_fetch_sub(&used, 1);
		vfp.next.closedir(second);
	}
	return vfp.next.closedir(first);
}

VFP_EXPORT int closedir(DIR *first)
{
	vfp_init();
	return vfp_close_directory(first);
}

/* Whether the tree's half has that name too. */
static bool is_shadowed(DIR *first, const char *name)
{
	struct stat status;

	return !vfp_sys4(SYS_newfstatat, vfp.next.dirfd(first), name, &status,
			 AT_SYMLINK_NOFOLLOW);
}

struct dirent *vfp_read_directory(DIR *first)
{
	struct half *half = half_of(first);
	struct dirent *entry;

	if (!half || !half->in_second) {
		entry = vfp.next.readdir(first);
		if (entry || !half)
			return entry;
		half->in_second = true;
	}
	do
		entry = vfp.next.readdir(half->second);
	while (entry && is_shadowed(first, entry->d_name));
	return entry;
}

VFP_EXPORT struct dirent *readdir(DIR *first)
{
	vfp_init();
	return vfp_read_directory(first);
}

/* struct dirent and struct dirent64 are one and the same where off_t is. */
_Static_assert(sizeof(struct dirent) == sizeof(struct dirent64), "LP64");

VFP_EXPORT struct dirent64 *readdir64(DIR *first)
{
	vfp_init();
	return (struct dirent64 *)vfp_read_directory(first);
}

static int read_into(DIR *first, struct dirent *entry, struct dirent **result)
{
	int saved = errno;
	int failed;

	errno = 0;
	struct dirent *found = vfp_read_directory(first);

	failed = found ? 0 : errno;
	errno = saved;
	*result = NULL;
	if (found)
		*result = memcpy(entry, found, found->d_reclen);
	return failed;
}

VFP_EXPORT int readdir_r(DIR *restrict first, struct dirent *restrict entry,
			 struct dirent **restrict result)
{
	vfp_init();
	return read_into(first, entry, result);
}

VFP_EXPORT int readdir64_r(DIR *restrict first, struct dirent64 *restrict entry,
			   struct dirent64 **restrict result)
{
	vfp_init();
	return read_into(first, (struct dirent *)entry,
			 (struct dirent **)result);
}

VFP_EXPORT void rewinddir(DIR *first)
{
	struct half *half;

	vfp_init();
	half = half_of(first);
	if (half) {
		half->in_second = false;
		vfp.next.rewinddir(half->second);
	}
	vfp.next.rewinddir(first);
}

/* --- places: those in the second half are told as -2 and below --- */

VFP_EXPORT long telldir(DIR *first)
{
	struct half *half;

	vfp_init();
	half = half_of(first);
	return half && half->in_second ? -2 - vfp.next.telldir(half->second)
				       : vfp.next.telldir(first);
}

VFP_EXPORT void seekdir(DIR *first, long place)
{
	struct half *half;

	vfp_init();
	half = half_of(first);
	if (half)
		half->in_second = place < -1;
	if (half && place < -1)
		vfp.next.seekdir(half->second, -2 - place);
	else
		vfp.next.seekdir(first, place);
	if (half && place >= -1)
		vfp.next.rewinddir(half->second);
}

/* --- scandir(): libc's own would not see the second half --- */

typedef int filter_fn(const struct dirent *);
typedef int compare_fn(const struct dirent **, const struct dirent **);

struct list {
	struct dirent **entries;
	size_t count;
	size_t room;
};

static bool add(struct list *list, const struct dirent *entry)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 16;
		struct dirent **entries =
			realloc(list->entries, room * sizeof(*entries));

		if (!entries)
			return false;
		list->entries = entries;
		list->room = room;
	}
	struct dirent *copy = malloc(entry->d_reclen);

	if (!copy)
		return false;
	list->entries[list->count++] = memcpy(copy, entry, entry->d_reclen);
	return true;
}

static bool read_all(DIR *directory, struct list *list, filter_fn *filter)
{
	struct dirent *entry;

	while (errno = 0, (entry = vfp_read_directory(directory)))
		if ((!filter || filter(entry)) && !add(list, entry))
			return false;
	return !errno;
}

static int scan(const char *path, struct dirent ***out, filter_fn *filter,
		compare_fn *compare)
{
	struct list list = { NULL, 0, 0 };
	int saved = errno;
	DIR *directory = vfp_open_directory(path);

	if (!directory)
		return -1;
	bool complete = read_all(directory, &list, filter);
	int failed = errno;

	vfp_close_directory(directory);
	if (!complete) {
		while (list.count)
			free(list.entries[--list.count]);
		free(list.entries);
		errno = failed;
		return -1;
	}
	if (compare && list.count)
		qsort(list.entries, list.count, sizeof(*list.entries),
		      (int (*)(const void *, const void *))(
			      void (*)(void))compare);
	errno = saved;
	*out = list.entries;
	return (int)list.count;
}

#define SCANDIR(name, type)                                                 \
	VFP_EXPORT int name(                                                \
		const char *restrict path, struct type ***restrict out,     \
		int (*filter)(const struct type *),                         \
		int (*compare)(const struct type **, const struct type **)) \
	{                                                                   \
		if (vfp_concerns(AT_FDCWD, path))                           \
			return scan(path, (struct dirent ***)out,           \
				    (filter_fn *)(void (*)(void))filter,    \
				    (compare_fn *)(void (*)(void))compare); \
		if (vfp.next.name)                                          \
			return vfp.next.name(path, out, filter, compare);   \
		errno = ENOSYS;                                             \
		return -1;                                                  \
	}

SCANDIR(scandir, dirent)
SCANDIR(scandir64, dirent64)

#define SCANDIRAT(name, type)                                               \
	VFP_EXPORT int name(                                                \
		int dirfd, const char *restrict path,                       \
		struct type ***restrict out,                                \
		int (*filter)(const struct type *),                         \
		int (*compare)(const struct type **, const struct type **)) \
	{                                                                   \
		VFP_PLACE(place);                                           \
                                                                            \
		if (vfp_moved(dirfd, path, &place)) {                       \
			const char *shown = vfp_path_virtual(place->real);  \
                                                                            \
			return scan(shown ? shown : place->real,            \
				    (struct dirent ***)out,                 \
				    (filter_fn *)(void (*)(void))filter,    \
				    (compare_fn *)(void (*)(void))compare); \
		}                                                           \
		if (vfp.next.name)                                          \
			return vfp.next.name(dirfd, path, out, filter,      \
					     compare);                      \
		errno = ENOSYS;                                             \
		return -1;                                                  \
	}

SCANDIRAT(scandirat, dirent)
SCANDIRAT(scandirat64, dirent64)
