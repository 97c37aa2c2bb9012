/* SPDX-License-Identifier: MIT */
/* What the C programs of this folder begin with: container, group, device. They
 * know nothing of vfioemu. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

struct opened {
	int container, group, device;
};

static inline void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

/* GROUP SYSFSDEV, as VMMs are told. */
static inline struct opened open_device(char **argv)
{
	struct opened o;
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char path[64];

	o.container = open("/dev/vfio/vfio", O_RDWR);
	if (o.container < 0)
		die("/dev/vfio/vfio");
	printf("container: %d\n", ioctl(o.container, VFIO_GET_API_VERSION));
	snprintf(path, sizeof(path), "/dev/vfio/%s", argv[1]);
	o.group = open(path, O_RDWR);
	if (o.group < 0)
		die(path);
	if (ioctl(o.group, VFIO_GROUP_GET_STATUS, &status) ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		die("the group is not viable");
	if (ioctl(o.group, VFIO_GROUP_SET_CONTAINER, &o.container))
		die("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(o.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("VFIO_SET_IOMMU");
	o.device = ioctl(o.group, VFIO_GROUP_GET_DEVICE_FD, basename(argv[2]));
	if (o.device < 0)
		die("VFIO_GROUP_GET_DEVICE_FD");
	puts("device: opened");
	return o;
}
