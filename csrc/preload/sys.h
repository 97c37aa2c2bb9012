/* SPDX-License-Identifier: MIT */
/**
 * @file sys.h
 * System calls made by ourselves, by-passing every libc function, so that
 * nothing in the library can come back to a function that it interposes, and
 * so that they are safe in signal handlers and before libc is ready.
 *
 * Results are the kernel's: >= 0, or a negative errno. errno is not touched.
 */
#ifndef VFP_PRELOAD_SYS_H
#define VFP_PRELOAD_SYS_H

#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long vfp_sys6(long number, long a, long b, long c, long d, long e,
			    long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long vfp_sys6(long number, long a, long b, long c, long d, long e,
			    long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
#else
#error "vfioemu-preload knows x86_64 and aarch64"
#endif

/* Any argument that fits a register: an integer or a pointer. */
#define VFP_ARG(x) ((long)(x))

#define vfp_sys0(n)	  vfp_sys6(n, 0, 0, 0, 0, 0, 0)
#define vfp_sys1(n, a)	  vfp_sys6(n, VFP_ARG(a), 0, 0, 0, 0, 0)
#define vfp_sys2(n, a, b) vfp_sys6(n, VFP_ARG(a), VFP_ARG(b), 0, 0, 0, 0)
#define vfp_sys3(n, a, b, c) \
	vfp_sys6(n, VFP_ARG(a), VFP_ARG(b), VFP_ARG(c), 0, 0, 0)
#define vfp_sys4(n, a, b, c, d) \
	vfp_sys6(n, VFP_ARG(a), VFP_ARG(b), VFP_ARG(c), VFP_ARG(d), 0, 0)
#define vfp_sys5(n, a, b, c, d, e)                                  \
	vfp_sys6(n, VFP_ARG(a), VFP_ARG(b), VFP_ARG(c), VFP_ARG(d), \
		 VFP_ARG(e), 0)

#endif
