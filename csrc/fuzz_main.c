/* SPDX-License-Identifier: MIT */
/**
 * @file
 * A driver for fuzz targets where there is no libFuzzer: it runs the files it
 * is given. Given a folder, a corpus, or nothing, it then runs inputs of its
 * own making: it changes those of the corpus, and its own, a little from one to
 * the next. It takes libFuzzer's options as far as they are used here:
 * -max_total_time=SECONDS -runs=N -seed=N -artifact_prefix=PREFIX; others that
 * begin with '-' are ignored.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#define LARGEST 2048
#define POOL	64

static const uint8_t *running;
static size_t running_size;
static char artifact[4096];

static uint64_t state;
static uint8_t pool[POOL][LARGEST];
static size_t sizes[POOL];
static uint64_t done;

static uint64_t any(uint64_t bound)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % bound;
}

/* The input is on disk before the process ends, whoever ends it. */
static void save(int number)
{
	FILE *file = artifact[0] ? fopen(artifact, "wb") : NULL;

	if (file) {
		fwrite(running, 1, running_size, file);
		fclose(file);
		fprintf(stderr, "the input is in %s\n", artifact);
	}
	_exit(number ? 77 : 1);
}

static void save_at_exit(void)
{
	if (running)
		save(0);
}

static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = fuzz_memory(size);

	memcpy(copy, data, size);
	running = copy;
	running_size = size;
	LLVMFuzzerTestOneInput(copy, size);
	running = NULL;
	free(copy);
	done++;
}

static int run_file(const char *path)
{
	static uint8_t data[1 << 20];
	FILE *file = fopen(path, "rb");

	if (!file) {
		perror(path);
		return 2;
	}
	size_t size = fread(data, 1, sizeof(data), file);

	fclose(file);
	run(data, size);
	if (size <= LARGEST) {
		size_t at = (size_t)any(POOL);

		memcpy(pool[at], data, size);
		sizes[at] = size;
	}
	return 0;
}

static int run_folder(const char *path)
{
	DIR *folder = opendir(path);
	int status = 0;

	if (!folder) {
		perror(path);
		return 2;
	}
	for (struct dirent *entry; !status && (entry = readdir(folder));) {
		char name[4096];
		struct stat about;

		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (!stat(name, &about) && S_ISREG(about.st_mode))
			status = run_file(name);
	}
	closedir(folder);
	return status;
}

/* Change, insert or drop some bytes; or begin anew. */
static size_t change(uint8_t *data, size_t size)
{
	if (!size || !any(8)) {
		size = (size_t)any(LARGEST);
		for (size_t i = 0; i < size; i++)
			data[i] = (uint8_t)any(256);
		return size;
	}
	for (uint64_t n = 1 + any(4); n; n--) {
		size_t at = (size_t)any(size);

		if (any(3))
			data[at] = (uint8_t)any(256);
		else if (any(2) && size < LARGEST)
			data[size++] = (uint8_t)any(256);
		else if (size > 1)
			memmove(data + at, data + at + 1, --size - at);
	}
	return size;
}

static void generate(uint64_t runs, time_t seconds)
{
	time_t end = time(NULL) + seconds;

	while (done < runs && (!seconds || time(NULL) < end)) {
		size_t at = (size_t)any(POOL);

		sizes[at] = change(pool[at], sizes[at]);
		run(pool[at], sizes[at]);
	}
}

int main(int argc, char **argv)
{
	uint64_t runs = UINT64_MAX;
	uint64_t seed = 1;
	time_t seconds = 0;
	int files = 0;
	int folders = 0;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "-runs=", 6) == 0)
			runs = strtoull(argv[i] + 6, NULL, 0);
		else if (strncmp(argv[i], "-seed=", 6) == 0)
			seed = strtoull(argv[i] + 6, NULL, 0);
		else if (strncmp(argv[i], "-max_total_time=", 16) == 0)
			seconds = (time_t)strtoll(argv[i] + 16, NULL, 0);
		else if (strncmp(argv[i], "-artifact_prefix=", 17) == 0)
			snprintf(artifact, sizeof(artifact), "%scrash-%d",
				 argv[i] + 17, (int)getpid());
	}
	state = seed * 0x9e3779b97f4a7c15 | 1;
	signal(SIGABRT, save);
	signal(SIGSEGV, save);
	atexit(save_at_exit);
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-')
			continue;
		struct stat about;
		int folder = !stat(argv[i], &about) && S_ISDIR(about.st_mode);
		int status = folder ? run_folder(argv[i]) : run_file(argv[i]);

		if (status)
			return status;
		files += !folder;
		folders += folder;
	}
	if (folders || !files)
		generate(runs, seconds);
	fprintf(stderr, "stat::number_of_executed_units: %llu\n",
		(unsigned long long)done);
	return 0;
}
