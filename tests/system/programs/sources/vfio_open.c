/* SPDX-License-Identifier: MIT */
/* Open a device, and say which regions and interrupts it has. */
#include "vfio.h"

int main(int argc, char **argv)
{
	struct vfio_device_info device = { .argsz = sizeof(device) };
	struct opened o;

	if (argc != 3)
		return 2;
	o = open_device(argv);
	if (ioctl(o.device, VFIO_DEVICE_GET_INFO, &device))
		die("VFIO_DEVICE_GET_INFO");
	printf("flags %#x, %u regions, %u irqs\n", device.flags,
	       device.num_regions, device.num_irqs);
	for (unsigned int i = 0; i < device.num_regions; i++) {
		struct vfio_region_info region = { .argsz = sizeof(region),
						   .index = i };

		if (!ioctl(o.device, VFIO_DEVICE_GET_REGION_INFO, &region))
			printf("region %u: size %#llx, flags %#x\n", i,
			       region.size, region.flags);
	}
	for (unsigned int i = 0; i < device.num_irqs; i++) {
		struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = i };

		if (!ioctl(o.device, VFIO_DEVICE_GET_IRQ_INFO, &irq))
			printf("irq %u: count %u, flags %#x\n", i, irq.count,
			       irq.flags);
	}
	return 0;
}
