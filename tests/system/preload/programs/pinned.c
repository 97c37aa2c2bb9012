/* SPDX-License-Identifier: MIT */
/*
 * A device behind an IOMMU has the pages that were mapped, whatever the program
 * does to its addresses and files. Its bytes are compared at each step: what
 * it reads is what is in its pages, and what it writes is seen where those are.
 */
#include "client.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/shm.h>

#define IOVA 0x100000ull
#define SIZE (16 * PAGE)
#define READ (1ull << 63)

static struct client client;

/* The device writes a byte to a page: true if it could. */
static bool device_writes(unsigned int page, int byte)
{
	uint64_t command[3] = { IOVA + page * PAGE, 1, (uint64_t)byte };

	return pwrite(client.device, command, sizeof(command), CONFIG) ==
	       sizeof(command);
}

/* What the device reads there; -1 if it cannot. */
static int device_reads(unsigned int page)
{
	uint64_t command[3] = { IOVA + page * PAGE, READ | 1, 0 };

	if (pwrite(client.device, command, sizeof(command), CONFIG) !=
		    sizeof(command) ||
	    pread(client.device, command, sizeof(command), CONFIG) !=
		    sizeof(command))
		return -1;
	return (int)command[2];
}

static int file_of(const char *folder)
{
	char path[512];
	int fd;

	if (!strcmp(folder, "memfd"))
		return memfd_create("ram", MFD_CLOEXEC);
	if (!strcmp(folder, "sealed")) {
		fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		return fd;
	}
	snprintf(path, sizeof(path), "%s/ram", folder);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !unlink(path));
	return fd;
}

/* Memory with the number of each page in it, mapped for DMA. */
static unsigned char *mapped(int fd)
{
	unsigned char *memory =
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		     fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

	CHECK(memory != MAP_FAILED);
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		memory[i * PAGE] = (unsigned char)(i + 1);
	CHECK(!map_dma(client.container, memory, IOVA, SIZE));
	return memory;
}

static void unmapped(void)
{
	CHECK(!unmap_dma(client.container, IOVA, SIZE));
}

/* The device has its pages still: all of them, apart from the program's. */
static void has(unsigned int first, unsigned int count)
{
	for (unsigned int i = first; i < first + count; i++) {
		CHECK(device_reads(i) == (int)(i + 1));
		CHECK(device_writes(i, 0x80 + (int)i));
		CHECK(device_reads(i) == (int)(0x80 + i));
		CHECK(device_writes(i, (int)i + 1));
	}
}

/* The device and the program see the same pages. */
static void same(unsigned char *memory, unsigned int first, unsigned int count)
{
	for (unsigned int i = first; i < first + count; i++) {
		CHECK(device_writes(i, 0xd0 + (int)i));
		CHECK(memory[i * PAGE] == 0xd0 + i);
		memory[i * PAGE] = (unsigned char)(i + 1);
		CHECK(device_reads(i) == (int)(i + 1));
	}
}

/* What both kinds of memory have in common. */
static void addresses(int fd)
{
	unsigned char *memory = mapped(fd), *other, *moved;

	same(memory, 0, 16);
	/* Rights are the program's own affair, once it is mapped. */
	CHECK(!mprotect(memory, 2 * PAGE, PROT_NONE));
	CHECK(!mprotect(memory + 2 * PAGE, PAGE, PROT_READ));
	has(0, 3);
	CHECK(device_writes(1, 0x77));
	CHECK(!mprotect(memory, SIZE, PROT_READ | PROT_WRITE));
	CHECK(memory[PAGE] == 0x77);
	memory[PAGE] = 2;
	same(memory, 0, 16);

	/* The middle is replaced: the ends are as they were. */
	other = mmap(memory + 4 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(other == memory + 4 * PAGE);
	has(4, 2);
	CHECK(!other[0] && !other[PAGE]);
	same(memory, 0, 4);
	same(memory, 6, 10);

	/* Moved: the device goes with the pages; what was there before does
	 * not. */
	other = pages(1);
	other[0] = 0x55;
	moved = mremap(memory + 8 * PAGE, PAGE, PAGE,
		       MREMAP_MAYMOVE | MREMAP_FIXED, other);
	CHECK(moved == other && moved[0] == 9);
	CHECK(device_writes(8, 0x99));
	CHECK(moved[0] == 0x99);
	moved[0] = 9;
	CHECK(device_reads(8) == 9);

	/* A call that fails has changed nothing. */
	REFUSED(munmap(memory + 1, PAGE), EINVAL);
	REFUSED((int)(intptr_t)mremap(memory + 10 * PAGE, PAGE, PAGE,
				      MREMAP_FIXED, memory),
		EINVAL);
	CHECK(mmap(memory + 10 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED,
		   -1, 0) == MAP_FAILED);
	same(memory, 9, 7);

	CHECK(!munmap(memory + 12 * PAGE, 4 * PAGE));
	has(12, 4);
	CHECK(!munmap(memory, 12 * PAGE) && !munmap(moved, PAGE));
	has(0, 16);
	unmapped();
	CHECK(device_reads(0) == -1 && !device_writes(0, 1));
}

/* A balloon: the program gets new pages, the device keeps its own. */
static void discarded(void)
{
	unsigned char *memory = mapped(-1);

	CHECK(!madvise(memory + 2 * PAGE, 2 * PAGE, MADV_DONTNEED));
	CHECK(!memory[2 * PAGE] && !memory[3 * PAGE]);
	has(2, 2);
	CHECK(!memory[2 * PAGE] && !memory[3 * PAGE]);
	same(memory, 0, 2);
	same(memory, 4, 12);
	REFUSED(madvise(memory + 5, PAGE, MADV_DONTNEED), EINVAL);
	same(memory, 4, 12);
	/* By number, as allocators do it. */
	CHECK(!syscall(SYS_madvise, memory + 6 * PAGE, PAGE, MADV_DONTNEED));
	has(6, 1);
	unmapped();
	/* Mapped anew, the two are one again. */
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		memory[i * PAGE] = (unsigned char)(i + 1);
	CHECK(!map_dma(client.container, memory, IOVA, SIZE));
	same(memory, 0, 16);
	unmapped();
	CHECK(!munmap(memory, SIZE));
}

/* What is refused in the midst of a range: the kernel has given up what comes
 * before it, and behind a gap, too. */
static void discarded_in_part(void)
{
	unsigned char *memory = mapped(-1);

	CHECK(!munmap(memory + 5 * PAGE, PAGE));
	REFUSED(madvise(memory + 4 * PAGE, 3 * PAGE, MADV_DONTNEED), ENOMEM);
	CHECK(!memory[4 * PAGE] && !memory[6 * PAGE]);
	has(4, 3);
	CHECK(!memory[4 * PAGE] && !memory[6 * PAGE]);
	if (!mlock(memory + 9 * PAGE, PAGE)) {
		REFUSED(madvise(memory + 8 * PAGE, 3 * PAGE, MADV_DONTNEED),
			EINVAL);
		CHECK(!memory[8 * PAGE] && memory[9 * PAGE] == 10);
		has(8, 1);
		CHECK(!memory[8 * PAGE]);
		same(memory, 9, 2);
		CHECK(!munlock(memory + 9 * PAGE, PAGE));
	}
	/* Less than a page is one. */
	CHECK(!madvise(memory + 12 * PAGE, 1, MADV_DONTNEED));
	CHECK(!memory[12 * PAGE]);
	has(12, 1);
	same(memory, 13, 3);
	unmapped();
	CHECK(!munmap(memory, SIZE));
}

/* A device's memory in the midst of it gives up nothing. */
static void beside_a_region(char **argv)
{
	struct client other = set_up(argv);
	unsigned char *memory = mapped(-1);

	CHECK(mmap(memory + 12 * PAGE, PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, other.device,
		   (off_t)(2ull << VFIO_OFFSET_SHIFT)) == memory + 12 * PAGE);
	REFUSED(madvise(memory + 11 * PAGE, 3 * PAGE, MADV_DONTNEED), EINVAL);
	REFUSED(madvise(memory + 12 * PAGE, 1, 24), EINVAL); /* _LOCKED */
	if (memory[11 * PAGE])
		same(memory, 11, 1);
	else
		has(11, 1);
	same(memory, 13, 1);
	has(12, 1);
	unmapped();
	CHECK(!munmap(memory, SIZE));
	tear_down(&other);
}

/* The same in a file, by each way that there is. */
static void holes(const char *folder)
{
	int fd = file_of(folder);
	bool sealed = !strcmp(folder, "sealed");
	unsigned char *memory;
	pid_t pid;

	CHECK(!ftruncate(fd, SIZE));
	if (sealed)
		CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	memory = mapped(fd);
	CHECK(!madvise(memory, SIZE, MADV_DONTNEED)); /* is nothing here */
	same(memory, 0, 16);
	CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE,
			 2 * PAGE));
	CHECK(!memory[PAGE] && !memory[2 * PAGE]);
	has(1, 2);
	CHECK(!memory[PAGE] && !memory[2 * PAGE]);
	same(memory, 0, 1);
	same(memory, 3, 13);

	CHECK(!madvise(memory + 4 * PAGE, 1, MADV_REMOVE));
	has(4, 1);
	CHECK(!memory[4 * PAGE]);
	if (fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 5 * PAGE,
		      PAGE))
		same(memory, 5, 1);
	else
		has(5, 1);

	/* A child does it: the file is the same. */
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		_exit(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				6 * PAGE, PAGE)
			      ? 1
			      : 0);
	CHECK(wait_for(pid) == 0);
	CHECK(!memory[6 * PAGE]);
	has(6, 1);

	/* What fails has changed nothing. */
	REFUSED(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 8 * PAGE, PAGE),
		EOPNOTSUPP);
	if (sealed)
		REFUSED(ftruncate(fd, 8 * PAGE), EPERM);
	REFUSED(ftruncate(fd, -1), EINVAL);
	same(memory, 8, 8);

	if (!sealed) {
		CHECK(!ftruncate(fd, 12 * PAGE));
		has(12, 4);
		same(memory, 8, 4);
		CHECK(!ftruncate(fd, SIZE));
		CHECK(!memory[12 * PAGE]);
		has(12, 4);
	}
	unmapped();
	CHECK(!munmap(memory, SIZE) && !close(fd));
}

/* Of a private mapping the copies of pages go, too, where the file ends, and
 * stay where it has a hole. */
static void copies(const char *folder)
{
	int fd = file_of(folder);
	bool sealed = !strcmp(folder, "sealed");
	unsigned char *memory;

	CHECK(!ftruncate(fd, SIZE));
	if (sealed)
		CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(memory != MAP_FAILED);
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		memory[i * PAGE] = (unsigned char)(i + 1);
	CHECK(!map_dma(client.container, memory, IOVA, SIZE));
	same(memory, 0, 16);
	CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE,
			 2 * PAGE));
	same(memory, 0, 16);
	if (sealed) {
		REFUSED(ftruncate(fd, 8 * PAGE), EPERM);
		same(memory, 0, 16);
	} else {
		CHECK(!ftruncate(fd, 8 * PAGE + 1));
		has(9, 7);
		same(memory, 0, 9);
		CHECK(!ftruncate(fd, SIZE));
		CHECK(!memory[9 * PAGE]);
		has(9, 7);
		CHECK(!memory[9 * PAGE]);
	}
	unmapped();
	CHECK(!munmap(memory, SIZE) && !close(fd));
}

/* Segments of System V. What is mapped next may lie where they were. */
static void attached(void)
{
	unsigned char *memory, *other;

	for (int i = 0; i < 2; i++) {
		int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
		int fd = memfd_create("ram", MFD_CLOEXEC);

		memory = shmat(id, NULL, 0);
		CHECK(memory != (void *)-1 && !shmctl(id, IPC_RMID, NULL));
		for (unsigned int page = 0; page < SIZE / PAGE; page++)
			memory[page * PAGE] = (unsigned char)(page + 1);
		CHECK(!map_dma(client.container, memory, IOVA, SIZE));
		same(memory, 0, 16);
		REFUSED(shmdt(memory + PAGE), EINVAL);
		same(memory, 0, 16);
		CHECK(!munmap(memory + 4 * PAGE, PAGE));
		CHECK(!(i ? syscall(SYS_shmdt, memory) : shmdt(memory)));
		has(0, 16);
		unmapped();
		CHECK(!ftruncate(fd, SIZE));
		other = mmap(memory, SIZE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
		CHECK(other == memory);
		for (unsigned int page = 0; page < SIZE / PAGE; page++)
			other[page * PAGE] = (unsigned char)(page + 1);
		CHECK(!map_dma(client.container, other, IOVA, SIZE));
		same(other, 0, 16);
		unmapped();
		CHECK(!munmap(other, SIZE) && !close(fd));
	}
}

/* A segment in the place of what was mapped. */
static void replaced_by_a_segment(void)
{
	int id = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
	unsigned char *memory = mapped(-1);

	CHECK(shmat(id, memory + 2 * PAGE, 0) == (void *)-1);
	same(memory, 0, 16);
	CHECK(shmat(id, memory + 2 * PAGE + 5, SHM_REMAP | SHM_RND) ==
	      memory + 2 * PAGE);
	CHECK(!shmctl(id, IPC_RMID, NULL));
	CHECK(!memory[2 * PAGE]);
	has(2, 4);
	CHECK(!memory[2 * PAGE]);
	same(memory, 0, 2);
	same(memory, 6, 10);
	unmapped();
	CHECK(!munmap(memory, SIZE));
}

/* A file of which there is no fd any more: it may be reached by address only.
 */
static void without_an_fd(void)
{
	int fd = file_of("memfd");
	unsigned char *memory;

	CHECK(!ftruncate(fd, SIZE));
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED && !close(fd));
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		memory[i * PAGE] = (unsigned char)(i + 1);
	CHECK(!map_dma(client.container, memory, IOVA, SIZE));
	same(memory, 0, 16);
	REFUSED(madvise(memory + 1, PAGE, MADV_REMOVE), EINVAL);
	CHECK(!madvise(memory + 4 * PAGE, 2 * PAGE, MADV_REMOVE));
	has(4, 2);
	CHECK(!memory[4 * PAGE] && !memory[5 * PAGE]);
	same(memory, 0, 4);
	same(memory, 6, 10);
	CHECK(!munmap(memory, SIZE));
	has(0, 16);
	unmapped();
}

/* Two mappings of the same pages stay one to the device. */
static void twice(void)
{
	unsigned char *memory = mapped(-1);
	const uint64_t second = IOVA + SIZE;

	CHECK(!map_dma(client.container, memory + PAGE, second, PAGE));
	CHECK(!madvise(memory, 4 * PAGE, MADV_DONTNEED));
	CHECK(device_writes(16, 0x66)); /* by the second */
	CHECK(device_reads(1) == 0x66);
	CHECK(!unmap_dma(client.container, second, PAGE));
	unmapped();
	CHECK(!munmap(memory, SIZE));
}

/* What a child maps and takes along goes, unless somebody else has it too. */
static void mapper_ends(void)
{
	unsigned char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("ram", MFD_CLOEXEC);
	unsigned char *file;
	pid_t pid;

	CHECK(memory != MAP_FAILED && !ftruncate(fd, PAGE));
	file = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		memory[0] = 1;
		file[0] = 17;
		CHECK(!map_dma(client.container, memory, IOVA, SIZE));
		CHECK(!map_dma(client.container, file, IOVA + SIZE, PAGE));
		_exit(0);
	}
	CHECK(wait_for(pid) == 0);
	CHECK(device_reads(16) == 17 && device_writes(16, 0x33));
	CHECK(file[0] == 0x33);
	CHECK(!unmap_dma(client.container, IOVA + SIZE, PAGE));
	/* Nobody has an fd of this: it takes a daemon that can look for it. */
	if (device_writes(0, 0x44))
		CHECK(memory[0] == 0x44);
	unmapped();
	CHECK(!munmap(memory, SIZE) && !munmap(file, PAGE) && !close(fd));
}

/* Memory at an address, with the number of each page in it, mapped for DMA. */
static unsigned char *filled(void *at)
{
	unsigned char *memory =
		mmap(at, SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	CHECK(memory == at);
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		memory[i * PAGE] = (unsigned char)(i + 1);
	CHECK(!map_dma(client.container, memory, IOVA, SIZE));
	return memory;
}

/* A mapping of huge pages is as long as they are, whatever length was asked
 * for, and so is what it replaces. None has to be there. */
static void under_huge_pages(size_t huge, int flags)
{
	const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *room = mmap(NULL, 3 * huge, PROT_NONE, anonymous, -1, 0);
	char *at = (char *)(((uintptr_t)room + huge - 1) & -huge);
	char *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			   anonymous | MAP_HUGETLB | flags, -1, 0);
	unsigned char *memory;

	CHECK(room != MAP_FAILED);
	if (other != MAP_FAILED) {
		memory = filled(at + huge / 2);
		CHECK(mmap(at, PAGE, PROT_READ | PROT_WRITE,
			   anonymous | MAP_HUGETLB | MAP_FIXED | flags, -1,
			   0) == at);
		has(0, 16);
		unmapped();
		CHECK(!munmap(at, huge));

		memory = filled(at + huge / 2);
		if (mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   at) == at) {
			has(0, 16);
			other = at;
		} else { /* before Linux 5.16 */
			same(memory, 0, 16);
			CHECK(!munmap(memory, SIZE));
		}
		unmapped();
		REFUSED(munmap(other, PAGE), EINVAL);
		CHECK(!munmap(other, huge));
	}
	munmap(room, 3 * huge);
}

/* What MAP_HUGETLB means without a size. */
static size_t usual_huge_page(void)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	struct stat status;

	if (fd < 0 || fstat(fd, &status))
		return 2ul << 20;
	close(fd);
	return (size_t)status.st_blksize;
}

/* Of a huge page no part is given up: it stays what it is, if there is one. */
static void parts_of_a_huge_page(void)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	struct stat status;
	unsigned char *memory = MAP_FAILED;

	if (fd < 0)
		return;
	CHECK(!fstat(fd, &status));
	size_t huge = (size_t)status.st_blksize;

	for (int private = 0; private < 2; private++) {
		if (private || !ftruncate(fd, (off_t)huge))
			memory = mmap(NULL, huge, PROT_READ | PROT_WRITE,
				      private ? MAP_PRIVATE | MAP_ANONYMOUS |
							MAP_HUGETLB
					      : MAP_SHARED,
				      private ? -1 : fd, 0);
		if (memory == MAP_FAILED)
			continue;
		for (unsigned int i = 0; i < SIZE / PAGE; i++)
			memory[i * PAGE] = (unsigned char)(i + 1);
		CHECK(!map_dma(client.container, memory, IOVA, SIZE));
		CHECK(!madvise(memory, 2 * PAGE, MADV_DONTNEED) ||
		      errno == EINVAL);
		same(memory, 0, 16);
		if (!private) {
			CHECK(!fallocate(
				fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				PAGE, 2 * PAGE));
			CHECK(!madvise(memory + 4 * PAGE, PAGE, MADV_REMOVE));
			same(memory, 0, 16);
		}
		unmapped();
		CHECK(!munmap(memory, huge));
	}
	close(fd);
}

int main(int argc, char **argv)
{
	CHECK(argc > 3);
	client = set_up(argv);
	addresses(-1);
	int fd = file_of("memfd");
	CHECK(!ftruncate(fd, SIZE));
	addresses(fd);
	CHECK(!close(fd));
	discarded();
	discarded_in_part();
	beside_a_region(argv + 3);
	holes("memfd");
	holes("sealed");
	holes(argv[3]);
	copies("memfd");
	copies("sealed");
	copies(argv[3]);
	without_an_fd();
	attached();
	replaced_by_a_segment();
	under_huge_pages(usual_huge_page(), 0);
	under_huge_pages(2ul << 20, 21 << 26);
	under_huge_pages(1ul << 30, 30 << 26);
	parts_of_a_huge_page();
	twice();
	mapper_ends();
	tear_down(&client);
	puts("ok");
	return 0;
}
