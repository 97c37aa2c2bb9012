/* SPDX-License-Identifier: MIT */
/* An interrupt that user space triggers, by an eventfd; then the device is
 * reset. */
#include "vfio.h"

int main(int argc, char **argv)
{
	char buffer[sizeof(struct vfio_irq_set) + sizeof(int32_t)];
	struct vfio_irq_set *set = (void *)buffer;
	struct opened o;
	uint64_t count = 0;
	int event;

	if (argc != 3)
		return 2;
	o = open_device(argv);
	event = eventfd(0, EFD_NONBLOCK);
	*set = (struct vfio_irq_set){
		.argsz = sizeof(buffer),
		.flags =
			VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		.index = VFIO_PCI_MSI_IRQ_INDEX,
		.count = 1,
	};
	memcpy(set->data, &event, sizeof(event));
	if (ioctl(o.device, VFIO_DEVICE_SET_IRQS, set))
		die("VFIO_DEVICE_SET_IRQS");
	set->argsz = sizeof(*set);
	set->flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
	if (ioctl(o.device, VFIO_DEVICE_SET_IRQS, set))
		die("trigger");
	if (read(event, &count, sizeof(count)) != sizeof(count))
		die("eventfd");
	printf("interrupts: %lu\n", (unsigned long)count);
	printf("reset: %d\n", ioctl(o.device, VFIO_DEVICE_RESET));
	return 0;
}
