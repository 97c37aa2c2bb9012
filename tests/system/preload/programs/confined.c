/* SPDX-License-Identifier: MIT */
/* A sandbox in which no process_vm_readv() is allowed, as some containers are.
 */
#include "client.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static void confine(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0,
			 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter),
				      filter };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	CHECK(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0) ==
	      -1);
	CHECK(errno == EPERM);
}

int main(int argc, char **argv)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	unsigned char *memory = pages(64);
	struct client client;
	char buffer[256];

	(void)argc;
	confine();
	client = set_up(argv);
	CHECK(!ioctl(client.device, VFIO_DEVICE_GET_INFO, &info));
	CHECK(info.num_regions == 9);
	CHECK(pread(client.device, buffer, 256, CONFIG) == 256);
	CHECK(!memcmp(buffer, "\x0f\x1d\x1e\x0d", 4));
	CHECK(!map_dma(client.container, memory, 0, 64 * PAGE));
	CHECK(!dma_fill(client.device, 1, 65536, 0x77));
	CHECK(memory[0] == 0 && memory[1] == 0x77 && memory[65536] == 0x77);
	CHECK(memory[65537] == 0 && dma_byte(client.device, 9) == 0x77);
	CHECK(!mprotect(memory, PAGE, PROT_READ));
	REFUSED(pread(client.device, memory, 4, CONFIG), EFAULT);
	REFUSED(ioctl(client.device, VFIO_DEVICE_GET_INFO, (void *)-8L),
		EFAULT);
	tear_down(&client);
	puts("ok");
	return 0;
}
