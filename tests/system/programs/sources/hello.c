/* SPDX-License-Identifier: MIT */
/* Nothing of VFIO: what a compiler and a loader are tried with. */
#include <stdio.h>

int main(void)
{
	puts("hello");
	return 0;
}
