// SPDX-License-Identifier: MIT
/* Executes `echo ok` with an environment of many entries; killed if it takes
 * the program's memory for foreign. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 2000

extern char **environ;
static char texts[ENTRIES][20];
static char *entries[ENTRIES + 20];

int main(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	char *arguments[] = { "echo", "ok", NULL };
	int count = 0;

	for (char **entry = environ; *entry && count < 19; entry++)
		if (**entry == 'V' || **entry == 'L')
			entries[count++] = *entry;
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(texts[i], sizeof(texts[i]), "LD_V%d=x", i);
		entries[count++] = texts[i];
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 77;
	execve("/bin/echo", arguments, entries);
	return 1;
}
