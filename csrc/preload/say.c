/* SPDX-License-Identifier: MIT */
/**
 * @file say.c
 * Messages on stderr: one write() each, from anywhere, without libc.
 */
#include <errno.h>
#include <stdarg.h>

#include "preload.h"
#include "sys.h"

struct line {
	char text[512];
	size_t size;
};

static void put(struct line *line, char c)
{
	if (line->size < sizeof(line->text) - 1) /* room for the newline */
		line->text[line->size++] = c;
}

static void put_string(struct line *line, const char *text)
{
	for (text = text ? text : "(null)"; *text; text++) {
		unsigned char c = (unsigned char)*text;

		/* Names that are shown must not command a terminal, nor turn
		 * the direction of writing: UTF-8 can do both. */
		if (c >= ' ' && c < 0x7f) {
			put(line, *text);
			continue;
		}
		put(line, '\\');
		put(line, 'x');
		put(line, "0123456789abcdef"[c >> 4]);
		put(line, "0123456789abcdef"[c & 15]);
	}
}

static void put_number(struct line *line, uint64_t number, unsigned int base)
{
	char digits[20];
	size_t count = 0;

	do {
		digits[count++] = "0123456789abcdef"[number % base];
		number /= base;
	} while (number);
	while (count)
		put(line, digits[--count]);
}

static void put_signed(struct line *line, int64_t number)
{
	if (number < 0)
		put(line, '-');
	put_number(line, number < 0 ? -(uint64_t)number : (uint64_t)number, 10);
}

/* One conversion: %s, or one of d, u, x with or without an l. */
static const char *convert(struct line *line, const char *format, va_list *args)
{
	bool wide = *format == 'l';

	format += wide;
	switch (*format) {
	case 's':
		put_string(line, va_arg(*args, const char *));
		break;
	case 'd':
		put_signed(line,
			   wide ? va_arg(*args, long) : va_arg(*args, int));
		break;
	default:
		put_number(line,
			   wide ? va_arg(*args, unsigned long)
				: va_arg(*args, unsigned int),
			   *format == 'x' ? 16 : 10);
		break;
	}
	return format + 1;
}

void vfp_say(const char *format, ...)
{
	struct line line = { .size = 0 };
	va_list args;

	put_string(&line, "vfioemu-preload: ");
	if (vfp.debug) {
		put(&line, '[');
		put_number(&line, (uint64_t)vfp_sys0(SYS_gettid), 10);
		put_string(&line, "] ");
	}
	va_start(args, format);
	while (*format)
		if (*format == '%')
			format = convert(&line, format + 1, &args);
		else
			put(&line, *format++);
	va_end(args);
	line.text[line.size++] = '\n';
	vfp_sys3(SYS_write, 2, line.text, line.size);
}

bool vfp_forbidden(const char *call, long result)
{
	static atomic_bool said;

	if (result != -EPERM && result != -EACCES && result != -ENOSYS)
		return false;
	if (vfp.debug && !atomic_exchange(&said, true))
		vfp_say("%s() is forbidden (%d), by a seccomp filter perhaps: "
			"calls on emulated files fail with EIO; "
			"docs/preload.md says which system calls they need",
			call, (int)result);
	return true;
}
