/* SPDX-License-Identifier: MIT */
/**
 * @file text.c
 * Reading names that may not be there.
 *
 * Whether an address can be read, only the kernel knows, and the cheapest call
 * that tells is rt_sigprocmask() with an operation that there is not: it reads
 * the set (EFAULT) before it looks at the operation (EINVAL). It is in every
 * list of allowed system calls, too, as process_vm_readv() is not; and where a
 * filter refuses it, a name is read as libc would read it.
 *
 * Two kinds of names need no question: constants of the program, and what lies
 * in the page that our own stack frame is in. Nothing else is taken for
 * readable because it once was: free() and dlclose() unmap without being seen.
 * What another thread unmaps between question and access cannot be helped.
 */
#include "text.h"

#include <elf.h>
#include <errno.h>
#include <sys/auxv.h>

#include "sys.h"

#define PAGE	  4096ul /* at least as small as the machine's */
#define OPERATION 0x766665
#define CONSTANTS 4

/* Segments of the program that can be read, and not be written to. */
static struct {
	_Atomic uintptr_t start, end;
} constants[CONSTANTS];

void vfp_text_init(void)
{
	const Elf64_Phdr *header = (const Elf64_Phdr *)getauxval(AT_PHDR);
	unsigned long left = header ? getauxval(AT_PHNUM) : 0;
	uintptr_t base = 0;
	size_t count = 0;

	if (!left || header->p_type != PT_PHDR) /* it comes first, if at all */
		return;
	base = (uintptr_t)header - header->p_vaddr;
	for (; left; left--, header++) {
		if (header->p_type != PT_LOAD || count == CONSTANTS ||
		    (header->p_flags & (PF_R | PF_W)) != PF_R)
			continue;
		atomic_store(&constants[count].start, base + header->p_vaddr);
		atomic_store(&constants[count].end,
			     base + header->p_vaddr + header->p_filesz);
		count++;
	}
}

void vfp_text_goes(uintptr_t address, size_t size)
{
	uintptr_t end;

	if (__builtin_add_overflow(address, size, &end))
		end = UINTPTR_MAX;
	for (size_t i = 0; i < CONSTANTS; i++)
		if (address < constants[i].end && end > constants[i].start)
			atomic_store(&constants[i].end, 0);
}

/* Where the constants end that `address` is among; 0: it is not. */
static uintptr_t constant_until(uintptr_t address)
{
	for (size_t i = 0; i < CONSTANTS; i++) {
		uintptr_t end = atomic_load_explicit(&constants[i].end,
						     memory_order_relaxed);

		if (address < end && address >= constants[i].start)
			return end;
	}
	return 0;
}

bool vfp_is_readable(uintptr_t address)
{
	address &= ~7ul;
	if (!address) /* NULL is no set, and no fault */
		address = 8;
	return vfp_sys4(SYS_rt_sigprocmask, OPERATION, address, NULL, 8) !=
	       -EFAULT;
}

bool vfp_text_more(struct vfp_text *text)
{
	uintptr_t address = (uintptr_t)text->at;
	uintptr_t frame = (uintptr_t)__builtin_frame_address(0);

	text->known = constant_until(address);
	if (text->known)
		return true;
	if ((address ^ frame) >= PAGE && !vfp_is_readable(address))
		return false;
	text->known = (address | (PAGE - 1)) + 1;
	return true;
}

long vfp_text_copy(char *out, const char *name)
{
	struct vfp_text text = vfp_text(name);

	for (long size = 0; size < VFP_PATH_MAX; size++, text.at++) {
		int byte = vfp_peek(&text);

		if (byte < 0)
			return -EFAULT;
		out[size] = (char)byte;
		if (!byte)
			return size;
	}
	return -ENAMETOOLONG;
}
