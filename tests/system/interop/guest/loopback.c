/* SPDX-License-Identifier: MIT */
/**
 * @file loopback.c
 * Push bytes through a serial port's own loopback, by its driver and its
 * interrupts, and compare what comes back.
 *
 *   loopback ttyS4 65536
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCM_LOOP
#define TIOCM_LOOP 0x8000 /* of <asm/termios.h>, which has its own termios */
#endif
#define TIMEOUT_MS 60000 /* without a single byte */

/* What byte `at` is; the period is longer than a FIFO and is no power of 2. */
static unsigned char pattern(size_t at)
{
	return (unsigned char)(at * 7 + at / 251 * 13);
}

static unsigned long irq_of(const char *tty)
{
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/sys/class/tty/%s/irq", tty);
	FILE *file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		fail("%s: %s", path, strerror(errno));
	fclose(file);
	text[strcspn(text, "\n")] = '\0';
	return number(text);
}

static unsigned long long interrupts(unsigned long irq)
{
	char line[4096]; /* a column for each CPU */
	unsigned long long count = 0;
	FILE *file = fopen("/proc/interrupts", "r");

	if (!file)
		fail("/proc/interrupts: %s", strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		char *at, *end;

		if (strtoul(line, &at, 10) != irq || *at != ':')
			continue;
		for (at++;; at = end) { /* the first word that is no number is
					   the chip */
			unsigned long long one = strtoull(at, &end, 10);

			if (end == at)
				break;
			count += one;
		}
		break;
	}
	fclose(file);
	return count;
}

static int open_port(const char *tty)
{
	char path[64];
	struct termios raw = { .c_cflag = CS8 | CREAD | CLOCAL };
	int loop = TIOCM_LOOP | TIOCM_RTS | TIOCM_DTR;

	snprintf(path, sizeof(path), "/dev/%s", tty);
	int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	cfsetspeed(&raw, B115200);
	raw.c_cc[VMIN] = 1;
	if (tcsetattr(fd, TCSAFLUSH, &raw) || ioctl(fd, TIOCMSET, &loop))
		fail("%s: %s", path, strerror(errno));
	tcflush(fd, TCIOFLUSH);
	return fd;
}

/* Compare what has come: how many bytes of it. */
static size_t take(int fd, size_t received)
{
	unsigned char buffer[4096];
	ssize_t n = read(fd, buffer, sizeof(buffer));

	if (n < 0)
		fail("read: %s", strerror(errno));
	for (ssize_t i = 0; i < n; i++)
		if (buffer[i] != pattern(received + (size_t)i))
			fail("byte %zu is %02x instead of %02x",
			     received + (size_t)i, buffer[i],
			     pattern(received + (size_t)i));
	return (size_t)n;
}

static size_t give(int fd, size_t sent, size_t total)
{
	unsigned char buffer[1024];
	size_t size =
		total - sent < sizeof(buffer) ? total - sent : sizeof(buffer);

	for (size_t i = 0; i < size; i++)
		buffer[i] = pattern(sent + i);
	ssize_t n = write(fd, buffer, size);
	if (n < 0 && errno != EAGAIN)
		fail("write: %s", strerror(errno));
	return n < 0 ? 0 : (size_t)n;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		fail("usage: loopback TTY BYTES");
	size_t total = number(argv[2]), sent = 0, received = 0;
	unsigned long irq = irq_of(argv[1]);
	int fd = open_port(argv[1]);
	unsigned long long before = interrupts(irq);
	int progress = getenv("PROGRESS") != NULL;
	size_t told = 0;

	while (received < total) {
		/* Never more on the way than the driver's buffers hold. */
		int room = sent < total && sent - received < 2048;
		struct pollfd ready = { fd, POLLIN, 0 };

		if (room)
			ready.events |= POLLOUT;
		if (poll(&ready, 1, TIMEOUT_MS) <= 0)
			fail("nothing more after %zu of %zu bytes", received,
			     total);
		if (ready.revents & POLLIN)
			received += take(fd, received);
		if (room && ready.revents & POLLOUT)
			sent += give(fd, sent, total);
		if (progress && received - told >= total / 64 + 1) {
			fprintf(stderr, "\r%zu of %zu bytes", received, total);
			told = received;
		}
	}
	if (progress)
		fprintf(stderr, "\r\033[K");
	printf("ok bytes=%zu irq=%lu interrupts=%llu\n", received, irq,
	       interrupts(irq) - before);
	return 0;
}
