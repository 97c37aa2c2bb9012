/* SPDX-License-Identifier: MIT */
/* RLIMIT_MEMLOCK as it changes. The machine counts what its clients lock. */
#include "client.h"

#include <linux/capability.h>
#include <sys/resource.h>

static void set_ipc_lock(bool on)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3,
						   0 };
	struct __user_cap_data_struct data[2];

	CHECK(!syscall(SYS_capget, &header, data));
	if (on)
		data[0].effective |= 1u << CAP_IPC_LOCK;
	else
		data[0].effective &= ~(1u << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, data))
		CHECK(!on); /* nobody may give it to himself */
}

/* Map, and pin so many pages: how many were. Who maps is asked for the
 * capability, and whoever it is for the limit. */
static int64_t pin(const struct client *client, uint64_t npages)
{
	static void *memory;
	int64_t pinned;

	if (memory)
		CHECK(!unmap_dma(client->container, PAGE, 16 * PAGE));
	else
		memory = pages(16);
	CHECK(!map_dma(client->container, memory, PAGE, 16 * PAGE));
	pinned = command(client->device, 1, PAGE, npages, 3, 0);

	if (pinned > 0)
		CHECK(command(client->device, 2, PAGE, npages, 0, 0) == pinned);
	return pinned;
}

static void set_limit(size_t npages)
{
	struct rlimit limit;

	CHECK(!getrlimit(RLIMIT_MEMLOCK, &limit));
	limit.rlim_cur = npages * PAGE;
	CHECK(!setrlimit(RLIMIT_MEMLOCK, &limit));
}

int main(int argc, char **argv)
{
	struct client client;

	(void)argc;
	set_ipc_lock(false);
	set_limit(2);
	client = set_up(argv);
	CHECK(pin(&client, 2) == 2);
	CHECK(pin(&client, 3) == -ENOMEM);
	set_limit(4);
	CHECK(pin(&client, 3) == 3);
	set_limit(1);
	CHECK(pin(&client, 2) == -ENOMEM);
	if (!geteuid()) {
		set_ipc_lock(true);
		CHECK(pin(&client, 16) == 16);
		set_ipc_lock(false);
		CHECK(pin(&client, 2) == -ENOMEM);
	}
	tear_down(&client);
	puts("ok");
	return 0;
}
