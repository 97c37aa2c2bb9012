/* SPDX-License-Identifier: MIT */
/*
 * probe - replays VFIO scenarios against the running kernel and records what
 * it answers, one JSON object per scenario.  See protocol/golden/README.md.
 *
 * This is the very program that recorded the traces there. It knows nothing of
 * vfioemu; do not change what it does.
 *
 *   probe DEVICES < scenarios > records
 *
 * DEVICES: lines "symbol group devname cdevnumber" (-1: none).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/vfio.h>

#include <linux/iommufd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* not in older headers */
#ifndef IOMMU_IOAS_MAP_FILE
#define IOMMU_IOAS_MAP_FILE _IO(IOMMUFD_TYPE, 0x8f)
#endif
#ifndef IOMMU_VIOMMU_ALLOC
#define IOMMU_VIOMMU_ALLOC _IO(IOMMUFD_TYPE, 0x90)
#endif
#ifndef IOMMU_VDEVICE_ALLOC
#define IOMMU_VDEVICE_ALLOC _IO(IOMMUFD_TYPE, 0x91)
#endif
#ifndef IOMMU_IOAS_CHANGE_PROCESS
#define IOMMU_IOAS_CHANGE_PROCESS _IO(IOMMUFD_TYPE, 0x92)
#endif
#ifndef IOMMU_VEVENTQ_ALLOC
#define IOMMU_VEVENTQ_ALLOC _IO(IOMMUFD_TYPE, 0x93)
#endif
#ifndef IOMMU_HW_QUEUE_ALLOC
#define IOMMU_HW_QUEUE_ALLOC _IO(IOMMUFD_TYPE, 0x94)
#endif
#define IOMMU_TEST_CMD _IO(IOMMUFD_TYPE, 0xa0)

#define MAXTOK	64
#define MAXNAME 32
#define CANARY	0xCC
#define ARGROOM 16384
#define GUARD	(8ul << 20)

struct dev {
	char sym[MAXNAME];
	int group;
	char name[128];
	int cdev;
};
static struct dev devs[64];
static int ndevs;

struct fdent {
	char name[MAXNAME];
	int fd;
	char kind[16];
	char dev[MAXNAME];
};
static struct fdent fds[128];
static int nfds;

struct buf {
	char name[MAXNAME];
	uint8_t *p;
	size_t size;
};
static struct buf bufs[64];
static int nbufs;

/* iommufd object ids, by name */
struct idn {
	char name[MAXNAME];
	uint32_t id;
};
static struct idn ids[256];
static int nids;

static char *ob;
static size_t on, ocap;

static void out(const char *fmt, ...)
{
	va_list ap;
	int n;

	for (;;) {
		va_start(ap, fmt);
		n = vsnprintf(ob + on, ocap - on, fmt, ap);
		va_end(ap);
		if (on + n + 1 < ocap)
			break;
		ocap = ocap * 2 + n + 4096;
		ob = realloc(ob, ocap);
	}
	on += n;
}

static void outhex(const uint8_t *p, size_t n)
{
	static const char d[] = "0123456789abcdef";

	if (on + 2 * n + 16 >= ocap) {
		ocap = ocap * 2 + 2 * n + 4096;
		ob = realloc(ob, ocap);
	}
	for (size_t i = 0; i < n; i++) {
		ob[on++] = d[p[i] >> 4];
		ob[on++] = d[p[i] & 15];
	}
	ob[on] = 0;
}

static void die(const char *why, const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", why, what ? what : "");
	_exit(97);
}

static struct fdent *fdof(const char *n)
{
	for (int i = 0; i < nfds; i++)
		if (!strcmp(fds[i].name, n))
			return &fds[i];
	return NULL;
}

static void fdset(const char *n, int fd, const char *kind, const char *dev)
{
	struct fdent *e = fdof(n);

	if (!e)
		e = &fds[nfds++];
	snprintf(e->name, MAXNAME, "%s", n);
	snprintf(e->kind, sizeof(e->kind), "%s", kind);
	snprintf(e->dev, MAXNAME, "%s", dev);
	e->fd = fd;
}

static struct idn *idof(const char *n)
{
	for (int i = 0; i < nids; i++)
		if (!strcmp(ids[i].name, n))
			return &ids[i];
	return NULL;
}

static void idset(const char *n, uint32_t v)
{
	struct idn *e = idof(n);

	if (!e)
		e = &ids[nids++];
	snprintf(e->name, MAXNAME, "%s", n);
	e->id = v;
}

static struct buf *bufof(const char *n)
{
	for (int i = 0; i < nbufs; i++)
		if (!strcmp(bufs[i].name, n))
			return &bufs[i];
	die("no such buffer", n);
	return NULL;
}

static struct dev *devof(const char *n)
{
	for (int i = 0; i < ndevs; i++)
		if (!strcmp(devs[i].sym, n))
			return &devs[i];
	return NULL;
}

static uint64_t num(const char *s)
{
	return strtoull(s, NULL, 0);
}

static size_t unhex(const char *h, uint8_t *o, size_t max)
{
	size_t n = 0;

	if (h[0] == '-')
		return 0;
	while (h[0] && h[1] && n < max) {
		unsigned v;

		sscanf(h, "%2x", &v);
		o[n++] = v;
		h += 2;
	}
	return n;
}

static const struct {
	const char *n;
	unsigned v;
} cmds[] = {
#define C(x) { #x, x }
	C(VFIO_GET_API_VERSION),
	C(VFIO_CHECK_EXTENSION),
	C(VFIO_SET_IOMMU),
	C(VFIO_GROUP_GET_STATUS),
	C(VFIO_GROUP_SET_CONTAINER),
	C(VFIO_GROUP_UNSET_CONTAINER),
	C(VFIO_GROUP_GET_DEVICE_FD),
	C(VFIO_DEVICE_GET_INFO),
	C(VFIO_DEVICE_GET_REGION_INFO),
	C(VFIO_DEVICE_GET_IRQ_INFO),
	C(VFIO_DEVICE_SET_IRQS),
	C(VFIO_DEVICE_RESET),
	C(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO),
	C(VFIO_DEVICE_PCI_HOT_RESET),
	C(VFIO_DEVICE_QUERY_GFX_PLANE),
	C(VFIO_DEVICE_GET_GFX_DMABUF),
	C(VFIO_DEVICE_IOEVENTFD),
	C(VFIO_DEVICE_FEATURE),
	C(VFIO_DEVICE_BIND_IOMMUFD),
	C(VFIO_DEVICE_ATTACH_IOMMUFD_PT),
	C(VFIO_DEVICE_DETACH_IOMMUFD_PT),
	C(VFIO_IOMMU_GET_INFO),
	C(VFIO_IOMMU_MAP_DMA),
	C(VFIO_IOMMU_UNMAP_DMA),
	C(VFIO_IOMMU_ENABLE),
	C(VFIO_IOMMU_DISABLE),
	C(VFIO_IOMMU_DIRTY_PAGES),
	C(VFIO_MIG_GET_PRECOPY_INFO),
	C(IOMMU_DESTROY),
	C(IOMMU_IOAS_ALLOC),
	C(IOMMU_IOAS_ALLOW_IOVAS),
	C(IOMMU_IOAS_COPY),
	C(IOMMU_IOAS_IOVA_RANGES),
	C(IOMMU_IOAS_MAP),
	C(IOMMU_IOAS_UNMAP),
	C(IOMMU_OPTION),
	C(IOMMU_VFIO_IOAS),
	C(IOMMU_HWPT_ALLOC),
	C(IOMMU_GET_HW_INFO),
	C(IOMMU_HWPT_SET_DIRTY_TRACKING),
	C(IOMMU_HWPT_GET_DIRTY_BITMAP),
	C(IOMMU_HWPT_INVALIDATE),
	C(IOMMU_FAULT_QUEUE_ALLOC),
	C(IOMMU_IOAS_MAP_FILE),
	C(IOMMU_VIOMMU_ALLOC),
	C(IOMMU_VDEVICE_ALLOC),
	C(IOMMU_IOAS_CHANGE_PROCESS),
	C(IOMMU_VEVENTQ_ALLOC),
	C(IOMMU_HW_QUEUE_ALLOC),
	C(IOMMU_TEST_CMD),
};

static unsigned cmdof(const char *s)
{
	for (size_t i = 0; i < sizeof(cmds) / sizeof(*cmds); i++)
		if (!strcmp(cmds[i].n, s))
			return cmds[i].v;
	if (!isdigit(s[0]))
		die("unknown ioctl", s);
	return num(s);
}

static int warncount(void)
{
	char b[32] = "0";
	int f = open("/sys/kernel/warn_count", O_RDONLY);

	if (f >= 0) {
		if (read(f, b, sizeof(b) - 1) < 0)
			b[0] = '0';
		close(f);
	}
	return strtol(b, NULL, 16);
}

static void ret_json(long r, int e)
{
	if (r < 0)
		out(",\"ret\":%ld,\"errno\":%d,\"err\":\"%s\"", r, e,
		    strerrorname_np(e) ? strerrorname_np(e) : "?");
	else
		out(",\"ret\":%ld,\"errno\":0", r);
}

/* the argument page: big enough, filled with canaries, guard page behind */
static uint8_t *argbase;

static void arg_setup(void)
{
	argbase = mmap(NULL, 2 * ARGROOM + 4096, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (argbase == MAP_FAILED)
		die("mmap", "arg");
	mprotect(argbase + 2 * ARGROOM, 4096, PROT_NONE);
}

static void watches(char **t, int n)
{
	int first = 1;

	for (int i = 0; i < n; i++) {
		char nm[MAXNAME];
		unsigned long off, len;

		if (strncmp(t[i], "w=", 2))
			continue;
		if (sscanf(t[i] + 2, "%31[^:]:%li:%li", nm, (long *)&off,
			   (long *)&len) != 3)
			die("bad watch", t[i]);
		struct buf *b = bufof(nm);

		out("%s{\"buf\":\"%s\",\"off\":%lu,\"hex\":\"",
		    first ? ",\"mem\":[" : ",", nm, off);
		outhex(b->p + off, len);
		out("\"}");
		first = 0;
	}
	if (!first)
		out("]");
}

static void do_ioctl(char **t, int n)
{
	/* ioctl FD CMD HEX opts.. */
	struct fdent *f = fdof(t[1]);
	unsigned cmd = cmdof(t[2]);
	static uint8_t in[ARGROOM], sent[2 * ARGROOM];
	size_t len = unhex(t[3], in, sizeof(in));
	const char *mode = "plain";
	const char *retfd = NULL, *retdev = "";
	struct {
		int off;
		char name[MAXNAME];
	} nf = { -1, "" }, ni[3] = { { -1, "" }, { -1, "" }, { -1, "" } };
	uint8_t *arg, *room;
	size_t roomlen;
	struct {
		int off, len;
	} mask[64];
	int nmask = 0;
	long r;
	int e;

	for (int i = 4; i < n; i++) {
		if (!strncmp(t[i], "mode=", 5))
			mode = t[i] + 5;
		if (!strncmp(t[i], "rf=", 3))
			retfd = t[i] + 3;
		if (!strncmp(t[i], "rdev=", 5))
			retdev = t[i] + 5;
		if (!strncmp(t[i], "nf=", 3) &&
		    sscanf(t[i] + 3, "%i:%31s", &nf.off, nf.name) != 2)
			die("bad nf", t[i]);
		for (int j = 0; j < 3; j++) /* ni= nj= nk= */
			if (t[i][0] == 'n' && t[i][1] == "ijk"[j] &&
			    t[i][2] == '=' &&
			    sscanf(t[i] + 3, "%i:%31s", &ni[j].off,
				   ni[j].name) != 2)
				die("bad ni", t[i]);
	}
	out(",\"fd\":\"%s\",\"kind\":\"%s\",\"cmd\":\"%s\",\"nr\":%u,\"in\":\"",
	    t[1], f ? f->kind : "none", t[2], cmd);
	outhex(in, len);
	out("\"");
	room = argbase;
	roomlen = 2 * ARGROOM;
	memset(room, CANARY, roomlen);
	arg = room;
	if (!strcmp(mode, "tail"))
		arg = room + roomlen - len;
	if (strcmp(mode, "plain"))
		out(",\"mode\":\"%s\"", mode);
	memcpy(arg, in, len);
	int np = 0, nq = 0;
	for (int i = 4; i < n; i++) {
		char nm[MAXNAME];
		int off;
		long add = 0;

		if (!strncmp(t[i], "p=", 2)) {
			if (sscanf(t[i] + 2, "%i:%31[^:]:%li", &off, nm, &add) <
			    2)
				die("bad p", t[i]);
			uint64_t v = (uint64_t)bufof(nm)->p + add;

			memcpy(arg + off, &v, 8);
			mask[nmask].off = off;
			mask[nmask++].len = 8;
			out("%s[%d,\"%s\",%ld]", np++ ? "," : ",\"ptrs\":[",
			    off, nm, add);
		}
	}
	if (np)
		out("]");
	for (int i = 4; i < n; i++) {
		char nm[MAXNAME];
		int off;

		if (!strncmp(t[i], "f=", 2)) {
			if (sscanf(t[i] + 2, "%i:%31s", &off, nm) < 2)
				die("bad f", t[i]);
			struct fdent *g = fdof(nm);
			int32_t v = g ? g->fd : -1;

			memcpy(arg + off, &v, 4);
			mask[nmask].off = off;
			mask[nmask++].len = 4;
			out("%s[%d,\"%s\"]", nq++ ? "," : ",\"fds\":[", off,
			    nm);
		}
	}
	if (nq)
		out("]");
	nq = 0;
	for (int i = 4; i < n; i++) {
		char nm[MAXNAME];
		int off;

		if (!strncmp(t[i], "i=", 2)) {
			if (sscanf(t[i] + 2, "%i:%31s", &off, nm) < 2)
				die("bad i", t[i]);
			struct idn *g = idof(nm);
			uint32_t v = g ? g->id : 0x7fffffff;

			memcpy(arg + off, &v, 4);
			mask[nmask].off = off;
			mask[nmask++].len = 4;
			out("%s[%d,\"%s\",%u]", nq++ ? "," : ",\"ids\":[", off,
			    nm, v);
		}
	}
	if (nq)
		out("]");
	memcpy(sent, room, roomlen);
	if (!strcmp(mode, "ro"))
		mprotect(room, roomlen, PROT_READ);
	errno = 0;
	if (!strcmp(mode, "null"))
		r = ioctl(f ? f->fd : -1, cmd, NULL);
	else if (!strcmp(mode, "bad"))
		r = ioctl(f ? f->fd : -1, cmd, (void *)(argbase + 2 * ARGROOM));
	else
		r = ioctl(f ? f->fd : -1, cmd, arg);
	e = errno;
	if (!strcmp(mode, "ro"))
		mprotect(room, roomlen, PROT_READ | PROT_WRITE);
	if (retfd && r >= 0) {
		fdset(retfd, r, "device", retdev);
		out(",\"retfd\":\"%s\"", retfd);
		r = 0;
	}
	ret_json(r, e);
	/* what changed? */
	size_t lo = arg - room, hi = roomlen, last = lo + len;

	for (size_t i = lo + len; i < hi; i++)
		if (room[i] != sent[i])
			last = i + 1;
	if (nf.off >= 0) {
		int32_t v;

		memcpy(&v, arg + nf.off, 4);
		int32_t w;

		memcpy(&w, sent + lo + nf.off, 4);
		if (r >= 0 && v >= 0 && v != w) {
			fdset(nf.name, v, "data", f ? f->dev : "");
			out(",\"newfd\":[%d,\"%s\"]", nf.off, nf.name);
			memset(arg + nf.off, 0, 4);
		}
	}
	for (int j = 0; j < 3; j++) {
		uint32_t v, w;

		if (ni[j].off < 0 || r < 0)
			continue;
		memcpy(&v, arg + ni[j].off, 4);
		memcpy(&w, sent + lo + ni[j].off, 4);
		idset(ni[j].name, v);
		out(",\"%s\":[%d,\"%s\",%u]",
		    j ? j == 1 ? "newid2" : "newid3" : "newid", ni[j].off,
		    ni[j].name, v);
		if (v != w)
			memset(arg + ni[j].off, 0, 4);
	}
	for (int i = 0; i < nmask; i++)
		if (!memcmp(arg + mask[i].off, sent + lo + mask[i].off,
			    mask[i].len))
			memset(arg + mask[i].off, 0, mask[i].len),
				memset(sent + lo + mask[i].off, 0, mask[i].len);
	if (memcmp(room + lo, sent + lo, last - lo)) {
		out(",\"out\":\"");
		outhex(arg, last - lo);
		out("\"");
	}
	watches(t, n);
}

enum {
	OP_PIN = 1,
	OP_UNPIN,
	OP_RW,
	OP_NOTIFY,
	OP_LOGDIRTY,
	OP_ARCS,
	OP_FAIL,
	OP_MIGPARAM,
	OP_IRQ,
	OP_NPINNED
};

static void do_drv(char **t, int n)
{
	static const struct {
		const char *n;
		int op;
		int nargs;
	} acts[] = {
		{ "pin", OP_PIN, 3 },
		{ "unpin", OP_UNPIN, 2 },
		{ "dma_write", OP_RW, 3 },
		{ "dma_read", OP_RW, 2 },
		{ "notifications", OP_NOTIFY, 0 },
		{ "log_dirty", OP_LOGDIRTY, 2 },
		{ "arcs", OP_ARCS, 0 },
		{ "fail_arc", OP_FAIL, 2 },
		{ "mig_sizes", OP_MIGPARAM, 3 },
		{ "irq", OP_IRQ, 2 },
		{ "npinned", OP_NPINNED, 0 },
	};
	struct fdent *f = fdof(t[1]);
	uint64_t c[8] = { 0 }, r[8] = { 0 };
	const char *act = t[2];
	int i, k = -1;

	for (i = 0; i < (int)(sizeof(acts) / sizeof(*acts)); i++)
		if (!strcmp(acts[i].n, act))
			k = i;
	if (k < 0)
		die("unknown act", act);
	c[0] = acts[k].op;
	out(",\"fd\":\"%s\",\"dev\":\"%s\",\"act\":\"%s\",\"args\":[", t[1],
	    f ? f->dev : "", act);
	for (i = 0; i < acts[k].nargs; i++) {
		c[1 + i] = 3 + i < n ? (t[3 + i][0] == '-'
						? (uint64_t)strtoll(t[3 + i],
								    NULL, 0)
						: num(t[3 + i]))
				     : 0;
		out("%s%lu", i ? "," : "", c[1 + i]);
	}
	out("]");
	if (acts[k].op == OP_RW) {
		c[4] = c[3];
		c[3] = !strcmp(act, "dma_write");
	}
	int fd = f ? f->fd : -1;
	ssize_t w = pwrite(fd, c, sizeof(c), 0);

	if (w != sizeof(c)) {
		out(",\"ret\":null,\"errno\":%d", errno);
		return;
	}
	if (pread(fd, r, sizeof(r), 0) != sizeof(r)) {
		out(",\"ret\":null,\"errno\":%d", errno);
		return;
	}
	long ret = (long)r[0];

	out(",\"ret\":%ld", ret);
	if (ret < 0)
		out(",\"err\":\"%s\"",
		    strerrorname_np(-ret) ? strerrorname_np(-ret) : "?");
	static uint8_t win[65536];

	if (!strcmp(act, "dma_read") && ret == 0 && c[2] <= sizeof(win)) {
		if (pread(fd, win, c[2], 0x1000) != (ssize_t)c[2])
			die("window read", act);
		out(",\"data\":\"");
		outhex(win, c[2]);
		out("\"");
	}
	if (acts[k].op == OP_NOTIFY) {
		uint64_t *p = (uint64_t *)win;

		if (ret && pread(fd, win, ret * 16, 0x1000) != ret * 16)
			die("window read", act);
		out(",\"ranges\":[");
		for (i = 0; i < ret; i++)
			out("%s[%lu,%lu]", i ? "," : "", p[2 * i],
			    p[2 * i + 1]);
		out("]");
	}
	if (acts[k].op == OP_ARCS) {
		if (ret && pread(fd, win, ret * 2, 0x1000) != ret * 2)
			die("window read", act);
		out(",\"arcs\":[");
		for (i = 0; i < ret; i++)
			out("%s[%u,%u]", i ? "," : "", win[2 * i],
			    win[2 * i + 1]);
		out("]");
	}
}

static void drop_ipc_lock(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];

	syscall(SYS_capget, &h, d);
	d[0].effective &= ~(1u << 14);
	d[0].permitted &= ~(1u << 14);
	d[0].effective &= ~(1u << 24); /* SYS_RESOURCE */
	syscall(SYS_capset, &h, d);
}

static int run_step(char **t, int n)
{
	const char *op = t[0];

	if (!strcmp(op, "alloc")) {
		/* alloc name size [fill=XX] [prot=r|rw|none] [huge guard] */
		struct buf *b = &bufs[nbufs++];
		unsigned fill = 0;
		const char *prot = "rw";

		snprintf(b->name, MAXNAME, "%s", t[1]);
		b->size = num(t[2]);
		size_t align = 0;

		for (int i = 3; i < n; i++)
			if (!strncmp(t[i], "align=", 6))
				align = num(t[i] + 6);
		/*
		 * GUARD bytes of nothing before and behind: a mapping that is
		 * longer than the buffer must not reach anything else of ours.
		 * The address is a multiple of align, so the space around it
		 * is taken out of the reservation.
		 */
		size_t room = (b->size + 4095) & ~4095ul;

		b->p = mmap(NULL, room + 2 * GUARD + align, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (b->p == MAP_FAILED)
			die("mmap", t[1]);
		b->p += GUARD;
		if (align)
			b->p = (uint8_t *)(((uintptr_t)b->p + align - 1) &
					   ~(align - 1));
		b->p = mmap(b->p, room, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
				    MAP_FIXED,
			    -1, 0);
		if (b->p == MAP_FAILED)
			die("mmap", t[1]);
		madvise(b->p, b->size, MADV_NOHUGEPAGE);
		for (int i = 3; i < n; i++) {
			if (!strncmp(t[i], "fill=", 5))
				fill = strtoul(t[i] + 5, NULL, 16);
			if (!strncmp(t[i], "prot=", 5))
				prot = t[i] + 5;
		}
		if (fill)
			memset(b->p, fill, b->size);
		if (!strcmp(prot, "r"))
			mprotect(b->p, b->size, PROT_READ);
		if (!strcmp(prot, "none"))
			mprotect(b->p, b->size, PROT_NONE);
		out(",\"buf\":\"%s\",\"size\":%lu,\"fill\":%u,\"prot\":\"%s\"",
		    t[1], b->size, fill, prot);
		if (align)
			out(",\"align\":%lu", align);
	} else if (!strcmp(op, "protect")) {
		struct buf *b = bufof(t[1]);
		int pr = !strcmp(t[2], "rw")  ? PROT_READ | PROT_WRITE
			 : !strcmp(t[2], "r") ? PROT_READ
					      : PROT_NONE;

		mprotect(b->p, b->size, pr);
		out(",\"buf\":\"%s\",\"prot\":\"%s\"", t[1], t[2]);
	} else if (!strcmp(op, "munmap")) {
		struct buf *b = bufof(t[1]);

		munmap(b->p, b->size);
		out(",\"buf\":\"%s\"", t[1]);
	} else if (!strcmp(op, "poke")) {
		struct buf *b = bufof(t[1]);

		out(",\"buf\":\"%s\",\"off\":%lu,\"hex\":\"%s\"", t[1],
		    num(t[2]), t[3]);
		unhex(t[3], b->p + num(t[2]), b->size - num(t[2]));
	} else if (!strcmp(op, "fill")) {
		struct buf *b = bufof(t[1]);

		memset(b->p + num(t[2]), strtoul(t[4], NULL, 16), num(t[3]));
		out(",\"buf\":\"%s\",\"off\":%lu,\"len\":%lu,\"byte\":%lu",
		    t[1], num(t[2]), num(t[3]), strtoul(t[4], NULL, 16));
	} else if (!strcmp(op, "peek")) {
		struct buf *b = bufof(t[1]);

		out(",\"buf\":\"%s\",\"off\":%lu,\"hex\":\"", t[1], num(t[2]));
		outhex(b->p + num(t[2]), num(t[3]));
		out("\"");
	} else if (!strcmp(op, "container")) {
		int fd = open("/dev/vfio/vfio", O_RDWR), e = errno;

		out(",\"fd\":\"%s\"", t[1]);
		if (fd >= 0)
			fdset(t[1], fd, "container", "");
		ret_json(fd < 0 ? fd : 0, e);
	} else if (!strcmp(op, "group")) {
		struct dev *d = devof(t[2]);
		char p[64];
		int fd, e;

		if (!d)
			die("unknown device", t[2]);
		snprintf(p, sizeof(p), "/dev/vfio/%d", d->group);
		fd = open(p, O_RDWR);
		e = errno;
		out(",\"fd\":\"%s\",\"dev\":\"%s\"", t[1], t[2]);
		if (fd >= 0)
			fdset(t[1], fd, "group", t[2]);
		ret_json(fd < 0 ? fd : 0, e);
	} else if (!strcmp(op, "iommufd")) {
		int fd = open("/dev/iommu", O_RDWR), e = errno;

		out(",\"fd\":\"%s\"", t[1]);
		if (fd >= 0)
			fdset(t[1], fd, "iommufd", "");
		ret_json(fd < 0 ? fd : 0, e);
	} else if (!strcmp(op, "cdev")) {
		struct dev *d = devof(t[2]);
		char p[64];
		int fd, e;

		if (!d)
			die("unknown device", t[2]);
		snprintf(p, sizeof(p), "/dev/vfio/devices/vfio%d", d->cdev);
		fd = open(p, O_RDWR);
		e = errno;
		out(",\"fd\":\"%s\",\"dev\":\"%s\"", t[1], t[2]);
		if (fd >= 0)
			fdset(t[1], fd, "cdev", t[2]);
		ret_json(fd < 0 ? fd : 0, e);
	} else if (!strcmp(op, "memfd")) {
		/* memfd FD SIZE [fill=XX] */
		size_t len = num(t[2]);
		unsigned fill = n > 3 ? strtoul(t[3] + 5, NULL, 16) : 0;
		int fd = memfd_create("oracle", 0);

		if (fd < 0 || ftruncate(fd, len))
			die("memfd", t[1]);
		if (fill) {
			uint8_t b[4096];

			memset(b, fill, sizeof(b));
			for (size_t o = 0; o < len; o += sizeof(b))
				if (pwrite(fd, b,
					   len - o < sizeof(b) ? len - o
							       : sizeof(b),
					   o) < 0)
					die("memfd", "write");
		}
		fdset(t[1], fd, "memfd", "");
		out(",\"fd\":\"%s\",\"size\":%lu,\"fill\":%u", t[1], len, fill);
	} else if (!strcmp(op, "getdev")) {
		/* getdev NEWFD GROUPFD DEV: the ioctl with the device's name */
		struct dev *d = devof(t[3]);
		struct fdent *g = fdof(t[2]);
		long r;
		int e;

		if (!d)
			die("unknown device", t[3]);
		errno = 0;
		r = ioctl(g ? g->fd : -1, VFIO_GROUP_GET_DEVICE_FD, d->name);
		e = errno;
		out(",\"fd\":\"%s\",\"group\":\"%s\",\"dev\":\"%s\",\"name\":\"%s\"",
		    t[1], t[2], t[3], d->name);
		if (r >= 0) {
			fdset(t[1], r, "device", t[3]);
			r = 0;
		}
		ret_json(r, e);
	} else if (!strcmp(op, "ioctl")) {
		do_ioctl(t, n);
	} else if (!strcmp(op, "ioctlv")) {
		struct fdent *f = fdof(t[1]);
		unsigned cmd = cmdof(t[2]);
		uint64_t v = num(t[3]);
		long r;

		errno = 0;
		r = ioctl(f ? f->fd : -1, cmd, v);
		int e = errno;

		out(",\"fd\":\"%s\",\"kind\":\"%s\",\"cmd\":\"%s\",\"nr\":%u,\"arg\":%lu",
		    t[1], f ? f->kind : "none", t[2], cmd, v);
		ret_json(r, e);
	} else if (!strcmp(op, "drv")) {
		do_drv(t, n);
	} else if (!strcmp(op, "read") || !strcmp(op, "pread")) {
		static uint8_t tmp[65536];
		struct fdent *f = fdof(t[1]);
		size_t len = num(t[2]);
		ssize_t r;

		memset(tmp, 0, sizeof(tmp));
		errno = 0;
		if (op[0] == 'p')
			r = pread(f ? f->fd : -1, tmp, len, num(t[3]));
		else
			r = read(f ? f->fd : -1, tmp, len);
		int e = errno;

		out(",\"fd\":\"%s\",\"kind\":\"%s\",\"len\":%lu", t[1],
		    f ? f->kind : "none", len);
		if (op[0] == 'p')
			out(",\"off\":%lu", num(t[3]));
		ret_json(r, e);
		if (r > 0) {
			out(",\"data\":\"");
			outhex(tmp, r);
			out("\"");
		}
	} else if (!strcmp(op, "write") || !strcmp(op, "pwrite")) {
		static uint8_t tmp[65536];
		struct fdent *f = fdof(t[1]);
		size_t len = unhex(t[2], tmp, sizeof(tmp));
		ssize_t r;

		errno = 0;
		if (op[0] == 'p')
			r = pwrite(f ? f->fd : -1, tmp, len, num(t[3]));
		else
			r = write(f ? f->fd : -1, tmp, len);
		int e = errno;

		out(",\"fd\":\"%s\",\"kind\":\"%s\",\"hex\":\"%s\"", t[1],
		    f ? f->kind : "none", t[2][0] == '-' ? "" : t[2]);
		if (op[0] == 'p')
			out(",\"off\":%lu", num(t[3]));
		ret_json(r, e);
	} else if (!strcmp(op, "mmap")) {
		/* mmap BUF FD LEN PROT OFF */
		struct fdent *f = fdof(t[2]);
		size_t len = num(t[3]);
		int pr = !strcmp(t[4], "rw")  ? PROT_READ | PROT_WRITE
			 : !strcmp(t[4], "r") ? PROT_READ
					      : PROT_NONE;
		void *p;

		errno = 0;
		p = mmap(NULL, len, pr, MAP_SHARED, f ? f->fd : -1, num(t[5]));
		int e = errno;

		out(",\"buf\":\"%s\",\"fd\":\"%s\",\"kind\":\"%s\",\"len\":%lu,\"prot\":\"%s\",\"off\":%lu",
		    t[1], t[2], f ? f->kind : "none", len, t[4], num(t[5]));
		if (p != MAP_FAILED) {
			struct buf *b = &bufs[nbufs++];

			snprintf(b->name, MAXNAME, "%s", t[1]);
			b->p = p;
			b->size = len;
		}
		ret_json(p == MAP_FAILED ? -1 : 0, e);
	} else if (!strcmp(op, "close")) {
		struct fdent *f = fdof(t[1]);
		int r = close(f ? f->fd : -1), e = errno;

		if (f) {
			f->fd = -1;
			f->name[0] = 0;
		}
		out(",\"fd\":\"%s\"", t[1]);
		ret_json(r, e);
	} else if (!strcmp(op, "eventfd")) {
		int fd = eventfd(0, EFD_NONBLOCK);

		fdset(t[1], fd, "eventfd", "");
		out(",\"fd\":\"%s\"", t[1]);
	} else if (!strcmp(op, "nullfd")) {
		fdset(t[1], open("/dev/null", O_RDWR), "null", "");
		out(",\"fd\":\"%s\"", t[1]);
	} else if (!strcmp(op, "evread")) {
		struct fdent *f = fdof(t[1]);
		uint64_t v = 0;
		int r = read(f ? f->fd : -1, &v, 8), e = errno;

		out(",\"fd\":\"%s\",\"count\":%lu", t[1], v);
		ret_json(r < 0 ? r : 0, e);
	} else if (!strcmp(op, "poll")) {
		struct fdent *f = fdof(t[1]);
		struct pollfd p = { f ? f->fd : -1, POLLIN | POLLOUT | POLLPRI,
				    0 };
		int r = poll(&p, 1, 0);

		out(",\"fd\":\"%s\",\"kind\":\"%s\",\"revents\":%d,\"ret\":%d",
		    t[1], f ? f->kind : "none", p.revents, r);
	} else if (!strcmp(op, "param")) {
		char p[128];
		int fd, r, e;

		snprintf(p, sizeof(p),
			 "/sys/module/vfio_iommu_type1/parameters/%s", t[1]);
		fd = open(p, O_WRONLY);
		r = write(fd, t[2], strlen(t[2]));
		e = errno;
		close(fd);
		out(",\"name\":\"%s\",\"value\":\"%s\"", t[1], t[2]);
		ret_json(r < 0 ? r : 0, e);
	} else if (!strcmp(op, "memlock")) {
		struct rlimit rl = { num(t[1]), num(t[1]) };

		setrlimit(RLIMIT_MEMLOCK, &rl);
		drop_ipc_lock();
		out(",\"bytes\":%lu", num(t[1]));
	} else if (!strcmp(op, "vmlck")) {
		char line[256];
		long kb = -1;
		FILE *f = fopen("/proc/self/status", "r");

		while (f && fgets(line, sizeof(line), f))
			sscanf(line, "VmLck: %ld", &kb);
		if (f)
			fclose(f);
		out(",\"kb\":%ld", kb);
	} else {
		die("unknown op", op);
	}
	return 0;
}

static void run_scenario(char *fam, char *name, char **lines, int nl)
{
	ocap = 1 << 20;
	ob = malloc(ocap);
	on = 0;
	arg_setup();
	alarm(60);
	out("{\"family\":\"%s\",\"name\":\"%s\",\"steps\":[", fam, name);
	for (int i = 0; i < nl; i++) {
		char *t[MAXTOK];
		int n = 0;

		for (char *s = strtok(lines[i], " \n"); s && n < MAXTOK;
		     s = strtok(NULL, " \n"))
			t[n++] = s;
		if (!n)
			continue;
		int w0 = warncount();

		out("%s{\"op\":\"%s\"", i ? ",\n" : "\n", t[0]);
		run_step(t, n);
		int w1 = warncount();

		if (w1 != w0)
			out(",\"kernel_warn\":%d", w1 - w0);
		out("}");
	}
	out("]}\n");
	for (size_t i = 0; i < on; i++)
		if (ob[i] == '\n' && i + 1 < on)
			ob[i] = ' ';
	for (size_t p = 0; p < on;) {
		ssize_t w = write(1, ob + p, on - p);

		if (w < 0)
			_exit(96);
		p += w;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	FILE *d = fopen(argv[1], "r");
	char *line = NULL;
	size_t cap = 0;
	static char *lines[100000];
	int nl = 0, total = 0, bad = 0;
	char fam[64] = "", name[128] = "";

	while (d && fscanf(d, "%31s %d %127s %d", devs[ndevs].sym,
			   &devs[ndevs].group, devs[ndevs].name,
			   &devs[ndevs].cdev) == 4)
		ndevs++;
	while (getline(&line, &cap, stdin) > 0) {
		if (!strncmp(line, "scenario ", 9)) {
			sscanf(line, "scenario %63s %127s", fam, name);
			nl = 0;
		} else if (!strncmp(line, "end", 3)) {
			int st, w0 = warncount();
			pid_t p = fork();

			if (p == 0)
				run_scenario(fam, name, lines, nl);
			waitpid(p, &st, 0);
			total++;
			if (st) {
				char b[512];
				int n = snprintf(
					b, sizeof(b),
					"{\"family\":\"%s\",\"name\":\"%s\",\"died\":%d}\n",
					fam, name, st);
				if (write(1, b, n) != n)
					return 2;
				bad++;
			}
			if (warncount() != w0)
				fprintf(stderr,
					"probe: kernel warning in %s %s\n", fam,
					name);
			for (int i = 0; i < nl; i++)
				free(lines[i]);
			if (total % 500 == 0)
				fprintf(stderr, "probe: %d scenarios\n", total);
		} else if (line[0] != '#' && line[0] != '\n') {
			lines[nl++] = strdup(line);
		}
	}
	fprintf(stderr, "probe: done, %d scenarios, %d died\n", total, bad);
	return 0;
}
