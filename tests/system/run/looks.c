/* SPDX-License-Identifier: MIT */
/**
 * @file looks.c
 * Looks at paths with one libc function each, as VFIO programs do, and prints
 * what it was told: `looks FUNCTION PATH [DIR]`. Prints an errno's name if the
 * function fails.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* What fortified and older programs call. */
char *__realpath_chk(const char *path, char *resolved, size_t room);
ssize_t __readlink_chk(const char *path, char *out, size_t size, size_t room);
ssize_t __readlinkat_chk(int dirfd, const char *path, char *out, size_t size,
			 size_t room);
char *__getcwd_chk(char *out, size_t size, size_t room);
int __open_2(const char *path, int flags);

static const char *name;
static const char *path;
static int dirfd_ = AT_FDCWD;

static int failed(void)
{
	puts(strerrorname_np(errno));
	return 0;
}

static void print_stat(mode_t mode, dev_t rdev)
{
	printf("%o %u:%u\n", mode, major(rdev), minor(rdev));
}

static int stats(void)
{
	struct stat status;
	struct stat64 status64;
	struct statx extended;
	int result;

	if (!strcmp(name, "stat"))
		result = stat(path, &status);
	else if (!strcmp(name, "lstat"))
		result = lstat(path, &status);
	else if (!strcmp(name, "fstatat"))
		result = fstatat(dirfd_, path, &status, 0);
	else if (!strcmp(name, "statx")) {
		result = statx(dirfd_, path, 0, STATX_BASIC_STATS, &extended);
		if (!result)
			print_stat(extended.stx_mode,
				   makedev(extended.stx_rdev_major,
					   extended.stx_rdev_minor));
		return result ? failed() : 0;
	} else {
		result = !strcmp(name, "stat64") ? stat64(path, &status64)
			 : !strcmp(name, "lstat64")
				 ? lstat64(path, &status64)
				 : fstatat64(dirfd_, path, &status64, 0);
		if (!result)
			print_stat(status64.st_mode, status64.st_rdev);
		return result ? failed() : 0;
	}
	if (result)
		return failed();
	print_stat(status.st_mode, status.st_rdev);
	return 0;
}

static int links(void)
{
	char out[PATH_MAX];
	char *found = NULL;
	ssize_t size = -2;

	if (!strcmp(name, "readlink"))
		size = readlink(path, out, sizeof(out));
	else if (!strcmp(name, "readlinkat"))
		size = readlinkat(dirfd_, path, out, sizeof(out));
	else if (!strcmp(name, "__readlink_chk"))
		size = __readlink_chk(path, out, sizeof(out), sizeof(out));
	else if (!strcmp(name, "__readlinkat_chk"))
		size = __readlinkat_chk(dirfd_, path, out, sizeof(out),
					sizeof(out));
	else if (!strcmp(name, "realpath"))
		found = realpath(path, out);
	else if (!strcmp(name, "realpath_new"))
		found = realpath(path, NULL);
	else if (!strcmp(name, "__realpath_chk"))
		found = __realpath_chk(path, out, sizeof(out));
	else
		found = canonicalize_file_name(path);
	if (size == -1 || (size == -2 && !found))
		return failed();
	if (size >= 0) {
		out[size] = 0;
		found = out;
	}
	puts(found);
	return 0;
}

static int rights(void)
{
	int result;

	if (!strcmp(name, "access"))
		result = access(path, R_OK | W_OK);
	else if (!strcmp(name, "faccessat"))
		result = faccessat(dirfd_, path, R_OK | W_OK, 0);
	else if (!strcmp(name, "eaccess"))
		result = eaccess(path, R_OK | W_OK);
	else
		result = euidaccess(path, R_OK | W_OK);
	if (result)
		return failed();
	puts("yes");
	return 0;
}

static int contents(void)
{
	char out[PATH_MAX];
	FILE *file = NULL;
	int fd = -1;

	if (!strcmp(name, "fopen"))
		file = fopen(path, "r");
	else if (!strcmp(name, "fopen64"))
		file = fopen64(path, "re");
	else if (!strcmp(name, "freopen"))
		file = freopen(path, "r", stdin);
	else if (!strcmp(name, "freopen64"))
		file = freopen64(path, "r", stdin);
	else if (!strcmp(name, "open"))
		fd = open(path, O_RDONLY);
	else if (!strcmp(name, "__open_2"))
		fd = __open_2(path, O_RDONLY);
	else if (!strcmp(name, "openat_root")) {
		/* Component by component, as chase() of systemd goes. */
		char part[NAME_MAX + 1];

		fd = open("/", O_PATH | O_DIRECTORY);
		for (const char *rest = path; fd >= 0 && *rest;) {
			size_t size;

			rest += strspn(rest, "/");
			size = strcspn(rest, "/");
			snprintf(part, sizeof(part), "%.*s", (int)size, rest);
			rest += size;
			fd = openat(fd, part, *rest ? O_PATH : O_RDONLY);
		}
	} else
		fd = openat(dirfd_, path, O_RDONLY);
	if (fd >= 0)
		file = fdopen(fd, "r");
	if (!file)
		return failed();
	if (!fgets(out, sizeof(out), file))
		return failed();
	fputs(out, stdout);
	return 0;
}

/* Makes a file, or opens one as nothing but a path. */
static int makes(void)
{
	struct open_how how = { O_WRONLY | O_CREAT, 0644, 0 };
	FILE *file = NULL;
	int fd = -1;

	if (!strcmp(name, "creat"))
		fd = creat(path, 0644);
	else if (!strcmp(name, "O_CREAT"))
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
	else if (!strcmp(name, "openat2"))
		fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how,
				  sizeof(how));
	else if (!strcmp(name, "O_PATH"))
		fd = open(path, O_PATH);
	else if (!strcmp(name, "O_DIRECTORY"))
		fd = open(path, O_DIRECTORY);
	else
		file = fopen(path, "w");
	if (fd < 0 && !file)
		return failed();
	puts("yes");
	/* And what a path means is not in use by that. */
	fd = !strcmp(name, "O_PATH") ? open(path, O_RDWR) : fd;
	return fd < 0 && !file ? failed() : 0;
}

static int any(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* Goes to each entry again, the last one first. */
static int returns(void)
{
	DIR *directory = opendir(path);
	long places[256];
	int count = 0;

	if (!directory)
		return failed();
	places[0] = telldir(directory);
	while (count < 255 && readdir(directory))
		places[++count] = telldir(directory);
	if (readdir(directory))
		return 1;
	for (int i = count - 1; i >= 0; i--) {
		struct dirent *entry;

		seekdir(directory, places[i]);
		entry = readdir(directory);
		puts(entry ? entry->d_name : "nothing");
		if (telldir(directory) != places[i + 1])
			puts("elsewhere");
	}
	closedir(directory);
	return 0;
}

static int lists(void)
{
	struct dirent **entries;
	struct dirent *entry;
	struct dirent own;
	DIR *directory, *volatile none = NULL;
	long start;
	int count;

	if (!strcmp(name, "scandir") || !strcmp(name, "scandirat")) {
		count = !strcmp(name, "scandir")
				? scandir(path, &entries, any, alphasort)
				: scandirat(dirfd_, path, &entries, any,
					    alphasort);
		if (count < 0)
			return failed();
		for (int i = 0; i < count; i++)
			puts(entries[i]->d_name);
		return 0;
	}
	directory = !strcmp(name, "fdopendir")
			    ? fdopendir(openat(dirfd_, path, O_DIRECTORY))
			    : opendir(path);
	if (!directory)
		return failed();
	if (!closedir(none) || errno != EINVAL)
		puts("closed");
	start = telldir(directory);
	for (int round = 0; round < 2; round++) {
		if (!strcmp(name, "readdir_r"))
			while (!readdir_r(directory, &own, &entry) && entry)
				puts(entry->d_name);
		else if (!strcmp(name, "readdir64"))
			for (struct dirent64 *e; (e = readdir64(directory));)
				puts(e->d_name);
		else
			while ((entry = readdir(directory)))
				puts(entry->d_name);
		/* All of it twice. */
		if (!strcmp(name, "seekdir"))
			seekdir(directory, start);
		else
			rewinddir(directory);
	}
	closedir(directory);
	return 0;
}

static int visit(const char *found, const struct stat *status, int flag,
		 struct FTW *where)
{
	(void)status;
	printf("%s %d %d\n", found, flag, where->level);
	return 0;
}

static int skip(const char *found, const struct stat *status, int flag,
		struct FTW *where)
{
	visit(found, status, flag, where);
	return where->level ? FTW_SKIP_SUBTREE : FTW_CONTINUE;
}

static int skip_all(const char *found, const struct stat *status, int flag,
		    struct FTW *where)
{
	visit(found, status, flag, where);
	return FTW_SKIP_SIBLINGS;
}

static int globs(void)
{
	glob_t found;

	if (!strcmp(name, "nftw_skip"))
		return printf("%d\n", nftw(path, skip, 8,
					   FTW_PHYS | FTW_ACTIONRETVAL)) < 0;
	if (!strcmp(name, "nftw_skip_all"))
		return printf("%d\n", nftw(path, skip_all, 8,
					   FTW_PHYS | FTW_ACTIONRETVAL)) < 0;
	if (!strcmp(name, "nftw"))
		return nftw(path, visit, 8, FTW_PHYS) ? failed() : 0;
	if (glob(path, 0, NULL, &found)) {
		puts("nothing");
		return 0;
	}
	for (size_t i = 0; i < found.gl_pathc; i++)
		puts(found.gl_pathv[i]);
	globfree(&found);
	return 0;
}

static int moves(void)
{
	char out[PATH_MAX];
	char *found;

	if (!strcmp(name, "fchdir")) {
		int fd = open(path, O_DIRECTORY);

		if (fd < 0 || fchdir(fd))
			return failed();
	} else if (chdir(path)) {
		return failed();
	}
	found = !strcmp(name, "get_current_dir_name") ? get_current_dir_name()
		: !strcmp(name, "__getcwd_chk")
			? __getcwd_chk(out, sizeof(out), sizeof(out))
		: !strcmp(name, "getcwd_new") ? getcwd(NULL, 0)
					      : getcwd(out, sizeof(out));
	puts(found ? found : strerrorname_np(errno));
	if (found && !getcwd(NULL, strlen(found) + 1))
		puts("no room for it");
	if (found && getcwd(NULL, strlen(found)))
		puts("room for it");
	/* A relative path from there. */
	found = realpath("..", NULL);
	puts(found ? found : strerrorname_np(errno));
	return 0;
}

static int attributes(void)
{
	char out[PATH_MAX];
	ssize_t size = !strcmp(name, "getxattr")
			       ? getxattr(path, "user.none", out, sizeof(out))
			       : llistxattr(path, out, sizeof(out));

	return size < 0 ? failed() : printf("%zd\n", size) < 0;
}

static const struct {
	const char *names;
	int (*look)(void);
} kinds[] = {
	{ " stat lstat fstatat stat64 lstat64 fstatat64 statx ", stats },
	{ " readlink readlinkat __readlink_chk __readlinkat_chk realpath "
	  "realpath_new __realpath_chk canonicalize_file_name ",
	  links },
	{ " access faccessat eaccess euidaccess ", rights },
	{ " fopen fopen64 freopen freopen64 open openat __open_2 "
	  "openat_root ",
	  contents },
	{ " creat O_CREAT openat2 O_DIRECTORY O_PATH fopen_new ", makes },
	{ " opendir readdir64 readdir_r fdopendir scandir scandirat seekdir ",
	  lists },
	{ " telldir ", returns },
	{ " glob nftw nftw_skip nftw_skip_all ", globs },
	{ " chdir fchdir getcwd_new get_current_dir_name __getcwd_chk ",
	  moves },
	{ " getxattr llistxattr ", attributes },
};

int main(int argc, char **argv)
{
	char word[64];

	if (argc < 3)
		return 2;
	name = argv[1];
	path = argv[2];
	if (argc > 3)
		dirfd_ = open(argv[3], O_RDONLY | O_DIRECTORY);
	snprintf(word, sizeof(word), " %s ", name);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strstr(kinds[i].names, word))
			return kinds[i].look();
	return 2;
}
