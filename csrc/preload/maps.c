/* SPDX-License-Identifier: MIT */
/**
 * @file maps.c
 * /proc/self/maps and /proc/self/fd.
 */
#include "maps.h"

#include <dirent.h>
#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>

#include "sys.h"

/* struct procmap_query of Linux 6.11, which older headers lack. */
struct query {
	uint64_t size, query_flags, query_addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset;
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	uint32_t name_size, build_id_size;
	uint64_t name, build_id;
};
#define QUERY		  _IOWR('f', 17, struct query)
#define COVERING_OR_NEXT  0x10
#define READ_WRITE_SHARED (0x1 | 0x2 | 0x8)
#define EXECUTABLE	  0x4
#define SHARED		  0x8
#define PAGE		  4096ul

int vfp_maps_open(void)
{
	return (int)vfp_sys4(SYS_openat, AT_FDCWD, "/proc/self/maps",
			     O_RDONLY | O_CLOEXEC, 0);
}

/* --- before Linux 6.11: the text --- */

struct text {
	int file;
	char buffer[512];
	long size, at;
};

/* The next character; 0 at the end. */
static char next(struct text *text)
{
	if (text->at == text->size) {
		text->at = 0;
		text->size = vfp_sys3(SYS_read, text->file, text->buffer,
				      sizeof(text->buffer));
		if (text->size <= 0) {
			text->size = 0;
			return 0;
		}
	}
	return text->buffer[text->at++];
}

/* A number, and the character behind it. */
static uint64_t number(struct text *text, unsigned int base, char *stop)
{
	uint64_t value = 0;

	for (;;) {
		char c = next(text);
		unsigned int digit;

		if (c >= '0' && c <= '9')
			digit = (unsigned int)(c - '0');
		else if (base == 16 && c >= 'a' && c <= 'f')
			digit = (unsigned int)(c - 'a' + 10);
		else {
			*stop = c;
			return value;
		}
		value = value * base + digit;
	}
}

/* start-end rwxs offset major:minor inode name */
static bool line(struct text *text, struct vfp_area *area)
{
	char rights[5], c;

	area->start = number(text, 16, &c);
	if (c != '-')
		return false;
	area->end = number(text, 16, &c);
	for (unsigned int i = 0; i < sizeof(rights); i++)
		rights[i] = next(text);
	area->shared = rights[0] == 'r' && rights[1] == 'w' && rights[3] == 's';
	area->code = rights[2] == 'x';
	area->offset = number(text, 16, &c);
	area->major = (uint32_t)number(text, 16, &c);
	area->minor = (uint32_t)number(text, 16, &c);
	area->inode = number(text, 10, &c);
	area->of_file = rights[3] == 's' && area->inode;
	area->page = area->inode ? 0 : PAGE; /* huge ones are a file's */
	while (c && c != '\n')
		c = next(text);
	return true;
}

static bool find_in_text(int maps, uint64_t address, struct vfp_area *area)
{
	struct text text = { .file = maps };

	vfp_sys3(SYS_lseek, maps, 0, SEEK_SET);
	while (line(&text, area))
		if (area->end > address)
			return true;
	return false;
}

/* A line of /proc/self/smaps behind that of a mapping, "Name: number kB": its
 * number if that is the name, else 0. False: it is the next mapping's. */
static bool detail(struct text *text, const char *name, uint64_t *value)
{
	char c = next(text);
	bool same = true;

	*value = 0;
	if (c < 'A' || c > 'Z') {
		text->at -= c != 0;
		return false;
	}
	for (; c && c != ':'; c = next(text))
		same = same && c == *name && *name++;
	while (c == ':' || c == ' ')
		c = next(text);
	text->at -= c != 0;
	if (same && !*name)
		*value = number(text, 10, &c);
	else
		c = next(text);
	while (c && c != '\n')
		c = next(text);
	return true;
}

uint64_t vfp_maps_page(const struct vfp_area *area)
{
	struct text text = { .file = -1 };
	struct vfp_area found;
	uint64_t page = PAGE, kib;

	if (area->page)
		return area->page;
	text.file = (int)vfp_sys4(SYS_openat, AT_FDCWD, "/proc/self/smaps",
				  O_RDONLY | O_CLOEXEC, 0);
	if (text.file < 0)
		return page;
	while (line(&text, &found) && found.start <= area->start)
		while (detail(&text, "KernelPageSize", &kib))
			if (kib && found.end > area->start)
				page = kib << 10;
	vfp_sys1(SYS_close, text.file);
	return page;
}

/* --- huge pages, of which lengths are rounded up to whole ones --- */

uint64_t vfp_maps_huge_file(int fd)
{
	struct statfs status;

	return fd >= 0 && !vfp_sys2(SYS_fstatfs, fd, &status) &&
			       status.f_type == HUGETLBFS_MAGIC
		       ? (uint64_t)status.f_bsize
		       : 0;
}

/* The size that MAP_HUGETLB means without one: a new file says it. */
static uint64_t usual_huge_page(void)
{
	static _Atomic uint64_t known;
	long fd = atomic_load(&known) ? -1
				      : vfp_sys2(SYS_memfd_create, "",
						 MFD_CLOEXEC | MFD_HUGETLB);

	if (fd >= 0) {
		atomic_store(&known, vfp_maps_huge_file((int)fd));
		vfp_sys1(SYS_close, fd);
	}
	return atomic_load(&known);
}

static size_t round_up(size_t size, uint64_t page)
{
	size_t end;

	return page && !__builtin_add_overflow(size, page - 1, &end)
		       ? end / page * page
		       : size;
}

size_t vfp_maps_covers(size_t size, int flags, int fd)
{
	unsigned int shift = (unsigned int)flags >> MAP_HUGE_SHIFT;

	if (!(flags & MAP_ANONYMOUS))
		return round_up(size, vfp_maps_huge_file(fd));
	if (!(flags & MAP_HUGETLB))
		return size;
	return round_up(size, shift ? UINT64_C(1) << shift : usual_huge_page());
}

size_t vfp_maps_moves(const void *address, size_t size)
{
	struct vfp_area area;
	int maps = vfp_maps_open();

	if (maps < 0)
		return size;
	if (vfp_maps_find(maps, (uintptr_t)address, &area) &&
	    area.start <= (uintptr_t)address && area.inode)
		size = round_up(size, vfp_maps_page(&area));
	vfp_sys1(SYS_close, maps);
	return size;
}

bool vfp_maps_find(int maps, uint64_t address, struct vfp_area *area)
{
	struct query query = { .size = sizeof(query),
			       .query_flags = COVERING_OR_NEXT,
			       .query_addr = address };
	long error = vfp_sys3(SYS_ioctl, maps, QUERY, &query);

	if (error == -ENOENT)
		return false;
	if (error)
		return find_in_text(maps, address, area);
	*area = (struct vfp_area){
		.start = query.vma_start,
		.end = query.vma_end,
		.offset = query.vma_offset,
		.inode = query.inode,
		.major = query.dev_major,
		.minor = query.dev_minor,
		.shared = (query.vma_flags & READ_WRITE_SHARED) ==
			  READ_WRITE_SHARED,
		.code = query.vma_flags & EXECUTABLE,
		.of_file = query.vma_flags & SHARED && query.inode,
		.page = query.vma_page_size,
	};
	return true;
}

bool vfp_maps_still(int maps, const struct vfp_area *area)
{
	struct vfp_area now;

	return vfp_maps_find(maps, area->start, &now) && now.shared &&
	       now.start == area->start && now.end == area->end &&
	       now.offset == area->offset && now.inode == area->inode &&
	       now.major == area->major && now.minor == area->minor;
}

/* --- fds --- */

bool vfp_maps_is_fd(int fd, const struct vfp_area *area)
{
	struct statx file;
	long flags;

	/* Does not wait for a file system in user space. */
	if (vfp_sys5(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
		     STATX_TYPE | STATX_INO, &file))
		return false;
	if (file.stx_ino != area->inode || file.stx_dev_major != area->major ||
	    file.stx_dev_minor != area->minor || !S_ISREG(file.stx_mode))
		return false;
	flags = vfp_sys3(SYS_fcntl, fd, F_GETFL, 0);
	return flags >= 0 && (flags & O_ACCMODE) == O_RDWR && !(flags & O_PATH);
}

static int to_number(const char *name)
{
	int number = 0;

	if (!*name)
		return -1;
	for (; *name; name++) {
		if (*name < '0' || *name > '9' || number > 100000000)
			return -1;
		number = number * 10 + (*name - '0');
	}
	return number;
}

/* One buffer full of directory entries: the fd among them, or -1. */
static int among(const char *entries, long size, const struct vfp_area *area)
{
	for (long at = 0; at < size;) {
		struct dirent64 entry;
		const char *name =
			entries + at + offsetof(struct dirent64, d_name);
		int fd = to_number(name);

		memcpy(&entry, entries + at, offsetof(struct dirent64, d_name));
		if (fd >= 0 && vfp_maps_is_fd(fd, area))
			return fd;
		at += entry.d_reclen;
	}
	return -1;
}

int vfp_maps_fd(const struct vfp_area *area)
{
	char entries[2048];
	long size;
	int found = -1;
	int folder = (int)vfp_sys4(SYS_openat, AT_FDCWD, "/proc/self/fd",
				   O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (folder < 0)
		return -1;
	while (found < 0 && (size = vfp_sys3(SYS_getdents64, folder, entries,
					     sizeof(entries))) > 0)
		found = among(entries, size, area);
	vfp_sys1(SYS_close, folder);
	return found;
}

static char *hex(char *to, uint64_t value)
{
	unsigned int digits = 1;

	while (digits < 16 && value >> (4 * digits))
		digits++;
	while (digits--)
		*to++ = "0123456789abcdef"[value >> (4 * digits) & 15];
	return to;
}

int vfp_maps_reopen(const struct vfp_area *area)
{
	char path[64] = "/proc/self/map_files/";
	char *at = hex(path + strlen(path), area->start);
	long fd;

	*at++ = '-';
	*hex(at, area->end) = 0;
	fd = vfp_sys4(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
	return fd < 0 ? -1 : (int)fd;
}
