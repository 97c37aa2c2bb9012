/* SPDX-License-Identifier: MIT */
/**
 * @file files.c
 * What a program does with an emulated file, as calls to the daemon.
 */
#include <errno.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "attribute.h"
#include "call.h"
#include "dma.h"
#include "fd_table.h"
#include "hello.h"
#include "holds.h"
#include "offer.h"
#include "path.h"
#include "preload.h"
#include "session.h"
#include "share.h"
#include "sys.h"

/* Another daemon's file, or a number that the program thinks is free. */
static long no_file(const struct vfp_file *file)
{
	return vfp_result(file->kind == VFP_OTHER ? -EBADF : -EIO);
}

static struct vfp_call call_on(const struct vfp_file *file, uint16_t type)
{
	/* For traces: which number the program has for it. */
	uint64_t shown = ((uint64_t)(unsigned int)file->fd + 1) << 32;

	return (struct vfp_call){
		.msg = { .type = type,
			 .token = file->serial,
			 .arg = { 0, 0, 0, shown } },
		.token = file->fd,
		.out_fd = -1,
		.in_fd = -1,
	};
}

int vfp_open(const char *node, int flags)
{
	struct vfp_call call = {
		.msg = { .type = VFIOEMU_OPEN,
			 .arg = { (uint64_t)(unsigned int)flags } },
		.out = node,
		.out_size = strlen(node),
		.token = -1,
		.out_fd = -1,
		.wants_fd = true,
		.in_fd = -1,
	};
	int64_t result;

	if (flags & O_DIRECTORY)
		return (int)vfp_result(-ENOTDIR);
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return (int)vfp_result(-EEXIST);
	result = vfp_path_may_open(node, flags);
	if (!result)
		result = vfp_call(&call);
	if (result == -EIO)
		result = -ENODEV; /* there is no daemon behind the node */
	if (result < 0)
		return (int)vfp_result(result);
	if (call.in_fd < 0)
		return (int)vfp_result(-EMFILE);
	vfp_fd_is_ours(call.in_fd);
	if (!(flags & O_CLOEXEC))
		vfp_sys3(SYS_fcntl, call.in_fd, F_SETFD, 0);
	if (flags & (O_NONBLOCK | O_APPEND)) /* for F_GETFL: nothing waits */
		vfp_sys3(SYS_fcntl, call.in_fd, F_SETFL,
			 flags & (O_NONBLOCK | O_APPEND));
	return call.in_fd;
}

/* ioctls that the kernel answers for every file: do_vfs_ioctl(). */
static bool is_generic(unsigned long cmd)
{
	return cmd == FIOCLEX || cmd == FIONCLEX || cmd == FIONBIO;
}

/* Memory that is mapped for DMA now: have the daemon map it too, and do not
 * let it go before the daemon knows. */
static void prepare_map(const void *arg)
{
	struct vfio_iommu_type1_dma_map map;

	if (vfp_copy_in(&map, arg, sizeof(map)) || map.argsz < sizeof(map))
		return;
	vfp_share(map.vaddr, map.size);
	vfp_dma_mapped(map.vaddr, map.size);
}

/* A daemon that accounts locked memory wants to know how much there may be. */
static void tell_limits(void)
{
	const struct vfioemu_hello *hello = vfp_greeting();
	struct vfp_session *session;
	uint64_t memlock;
	bool ipc_lock;

	if (!hello || !(hello->flags & VFIOEMU_HELLO_ACCOUNTS))
		return;
	session = vfp_session_here();
	memlock = vfp_memlock();
	ipc_lock = vfp_ipc_lock();
	if (!session || (atomic_load(&session->memlock) == memlock &&
			 atomic_load(&session->ipc_lock) == ipc_lock))
		return;
	struct vfp_call call = {
		.msg = { .type = VFIOEMU_LIMITS,
			 .flags = ipc_lock ? VFIOEMU_F_IPC_LOCK : 0,
			 .arg = { 0, memlock } },
		.token = -1,
		.out_fd = -1,
		.in_fd = -1,
	};
	if (vfp_call(&call))
		return;
	atomic_store(&session->memlock, memlock);
	atomic_store(&session->ipc_lock, ipc_lock);
}

int vfp_ioctl(const struct vfp_file *file, unsigned long cmd, void *arg)
{
	struct vfp_call call = call_on(file, VFIOEMU_IOCTL);

	if ((is_generic(cmd) && file->kind != VFP_OTHER) ||
	    file->kind == VFP_ATTRIBUTE)
		return (int)vfp_result(vfp_sys3(SYS_ioctl, file->fd, cmd, arg));
	if (!file->serial)
		return (int)no_file(file);
	tell_limits();
	if (file->kind == VFP_CONTAINER &&
	    (unsigned int)cmd == VFIO_IOMMU_MAP_DMA)
		prepare_map(arg);
	call.msg.arg[0] = (unsigned int)cmd;
	call.msg.arg[1] = (uintptr_t)arg;
	vfp_offer_ioctl(file, (unsigned int)cmd, arg, &call);
	return (int)vfp_result(vfp_call(&call));
}

unsigned int vfp_number(const struct vfp_file *file)
{
	struct vfp_call call = call_on(file, VFIOEMU_STAT);

	return file->serial && !vfp_call(&call) ? (unsigned int)call.in_start
						: 0;
}

int vfp_access(const struct vfp_file *file)
{
	struct vfp_call call = call_on(file, VFIOEMU_STAT);

	return file->serial && !vfp_call(&call)
		       ? (int)(call.in_more & O_ACCMODE)
		       : O_RDWR;
}

int vfp_fstat(const struct vfp_file *file, void *status)
{
	unsigned int number = file->kind == VFP_GROUP ? vfp_number(file) : 0;
	struct stat filled;

	if (file->kind == VFP_OTHER)
		return (int)vfp_result(-EBADF);
	if (file->kind == VFP_ATTRIBUTE) {
		long error = vfp_sys2(SYS_fstat, file->fd, &filled);

		if (error)
			return (int)vfp_result(error);
		vfp_path_dress_fd(file->fd, &filled);
		return (int)vfp_result(
			vfp_copy_out(status, &filled, sizeof(filled)));
	}
	vfp_node_stat(file->kind, number, &filled);
	if (file->kind != VFP_CONTAINER && file->kind != VFP_GROUP) {
		/* anon_inode_getfile(): an inode without a type, one for all.
		 */
		filled.st_dev = makedev(0, 15);
		filled.st_mode = 0600;
		filled.st_ino = 1033;
		filled.st_rdev = 0;
	}
	return (int)vfp_result(vfp_copy_out(status, &filled, sizeof(filled)));
}

/* As many bytes as the caller has asked for, at most: it counts on that. */
static ssize_t moved(int64_t result, size_t size)
{
	return vfp_result(result > 0 && (uint64_t)result > size ? -EIO
								: result);
}

static ssize_t fill(const struct vfp_file *file, uint16_t type, void *data,
		    size_t size, off_t offset)
{
	struct vfp_call call = call_on(file, type);

	if (!file->serial)
		return no_file(file);
	call.msg.arg[0] = (uintptr_t)data;
	call.msg.arg[1] = size;
	call.msg.arg[2] = (uint64_t)offset;
	vfp_offer_room(data, size, &call);
	return moved(vfp_call(&call), size);
}

static ssize_t drain(const struct vfp_file *file, uint16_t type,
		     const void *data, size_t size, off_t offset)
{
	struct vfp_call call = call_on(file, type);

	if (!file->serial)
		return no_file(file);
	call.msg.arg[0] = (uintptr_t)data;
	call.msg.arg[1] = size;
	call.msg.arg[2] = (uint64_t)offset;
	tell_limits();
	call.out = data;
	call.out_size = size < VFIOEMU_MAX_DATA ? size : VFIOEMU_MAX_DATA;
	return moved(vfp_call(&call), size);
}

ssize_t vfp_read(const struct vfp_file *file, void *data, size_t size)
{
	if (file->kind == VFP_ATTRIBUTE)
		return vfp_attribute_read(file->fd, data, size,
					  VFP_AT_POSITION);
	return fill(file, VFIOEMU_READ, data, size, 0);
}

ssize_t vfp_write(const struct vfp_file *file, const void *data, size_t size)
{
	if (file->kind == VFP_ATTRIBUTE)
		return vfp_attribute_write(file->fd, data, size,
					   VFP_AT_POSITION);
	return drain(file, VFIOEMU_WRITE, data, size, 0);
}

ssize_t vfp_pread(const struct vfp_file *file, void *data, size_t size,
		  off_t offset)
{
	if (file->kind == VFP_ATTRIBUTE)
		return offset < 0 ? vfp_result(-EINVAL)
				  : vfp_attribute_read(file->fd, data, size,
						       offset);
	return fill(file, VFIOEMU_PREAD, data, size, offset);
}

ssize_t vfp_pwrite(const struct vfp_file *file, const void *data, size_t size,
		   off_t offset)
{
	if (file->kind == VFP_ATTRIBUTE)
		return offset < 0 ? vfp_result(-EINVAL)
				  : vfp_attribute_write(file->fd, data, size,
							offset);
	return drain(file, VFIOEMU_PWRITE, data, size, offset);
}

/*
 * What the kernel refuses before it asks the file: ksys_mmap_pgoff() and
 * do_mmap().
 */
static int refuse_mmap(const void *address, size_t size, int flags,
		       off_t offset)
{
	int type = flags & MAP_TYPE;

	if (offset & 4095 || !size)
		return -EINVAL;
	if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) &&
	    (uintptr_t)address & 4095)
		return -EINVAL;
	if (type != MAP_SHARED && type != MAP_PRIVATE &&
	    type != MAP_SHARED_VALIDATE)
		return -EINVAL;
	return 0;
}

void *vfp_mmap(const struct vfp_file *file, void *address, size_t size,
	       int prot, int flags, off_t offset)
{
	struct vfp_call call = call_on(file, VFIOEMU_MMAP);
	int64_t result = refuse_mmap(address, size, flags, offset);

	if (!result && file->kind == VFP_ATTRIBUTE)
		return vfp_attribute_mmap(file->fd, address, size, prot, flags,
					  offset);
	if (!result && !file->serial)
		return (void *)no_file(file);
	if (!result) {
		call.msg.arg[0] = (uint64_t)offset;
		call.msg.arg[1] = size;
		call.msg.arg[2] = (unsigned int)prot;
		call.msg.arg[3] |= (flags & MAP_TYPE) != MAP_PRIVATE;
		call.wants_fd = true;
		result = vfp_call(&call);
	}
	if (VFP_RARE(!result && call.in_more))
		vfp_say("region %u of the device at fd %d holds registers, but "
			"a mapping of it is only memory: what is stored there "
			"reaches none of them; pread() and pwrite() do",
			(unsigned int)((uint64_t)offset >> 40), file->fd);
	if (result >= 0) {
		result = call.in_fd < 0 ? -ENFILE
					: vfp_hold_map(file, address, size,
						       prot, flags, call.in_fd,
						       call.in_start);
		if (call.in_fd >= 0)
			vfp_sys1(SYS_close, call.in_fd);
	}
	return (void *)vfp_result(result);
}
