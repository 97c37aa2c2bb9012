/* SPDX-License-Identifier: MIT */
/* While a thread reads from an emulated file, a socket comes to its number:
 * none of what arrives there is for the library. */
#include "client.h"

static int token;

static void *reads(void *argument)
{
	char data[16];

	CHECK(read(token, data, sizeof(data)) == 0);
	return argument;
}

int main(void)
{
	pthread_t thread;
	int pair[2];
	char byte = 0;

	token = open("/dev/vfio/vfio", O_RDWR);
	CHECK(token >= 0);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK(write(pair[1], "x", 1) == 1);
	CHECK(!pthread_create(&thread, NULL, reads, NULL));
	usleep(200000); /* the daemon has the call, and keeps it for longer */
	CHECK(dup2(pair[0], token) == token);
	CHECK(!pthread_join(thread, NULL));
	CHECK(recv(token, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'x');
	puts("ok");
	return 0;
}
