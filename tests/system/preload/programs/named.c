/* SPDX-License-Identifier: MIT */
/* Somebody connects to a socket of the program's from one that has the name of
 * an emulated file: he is read from and written to as anybody is. */
#include "client.h"

#include <dlfcn.h>
#include <stddef.h>
#include <sys/un.h>

/* The name of a file that nobody has, of the daemon that has this one. */
static socklen_t other_name(int container, struct sockaddr_un *name)
{
	/* libc's own: to a program the file is no socket. */
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	__typeof__(getpeername) *ask = libc ? dlsym(libc, "getpeername") : NULL;
	socklen_t size = sizeof(*name);
	char *serial;

	CHECK(ask && !ask(container, (struct sockaddr *)name, &size));
	name->sun_path[size - offsetof(struct sockaddr_un, sun_path)] = 0;
	CHECK(!strncmp(name->sun_path + 1, "vfioemu/", 8));
	serial = strrchr(name->sun_path + 1, '/') + 1;
	strcpy(serial, "123456789");
	return (socklen_t)(serial + 9 - (char *)name);
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);
	struct sockaddr_un name, address = { .sun_family = AF_UNIX };
	socklen_t size = other_name(client.container, &name);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	int caller = socket(AF_UNIX, SOCK_STREAM, 0), fd;
	char text[8] = "";

	(void)argc;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/named",
		 argv[3]);
	CHECK(!bind(listener, (struct sockaddr *)&address, sizeof(address)));
	CHECK(!listen(listener, 1));
	CHECK(!bind(caller, (struct sockaddr *)&name, size));
	CHECK(!connect(caller, (struct sockaddr *)&address, sizeof(address)));
	fd = accept(listener, NULL, NULL);
	CHECK(fd >= 0 && write(caller, "ask", 3) == 3);
	CHECK(read(fd, text, sizeof(text)) == 3 && !strcmp(text, "ask"));
	CHECK(write(fd, "answer", 6) == 6);
	CHECK(read(caller, text, sizeof(text)) == 6);
	CHECK(!strcmp(text, "answer"));
	tear_down(&client);
	puts("ok");
	return 0;
}
