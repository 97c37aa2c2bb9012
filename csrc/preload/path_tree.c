/* SPDX-License-Identifier: MIT */
/**
 * @file path_tree.c
 * From a name below the tree's root to the name that the program knows, and
 * back. No file is looked at.
 */
#include "path.h"
#include "trust.h"

static bool is_end(char c)
{
	return !c || c == '/';
}

bool vfp_path_is_below(const char *path, const char *name)
{
	size_t size = strlen(name);

	return !strncmp(path, name, size) && is_end(path[size]);
}

const char *vfp_path_virtual(const char *real)
{
	if (!vfp.root_size || strncmp(real, vfp.root, vfp.root_size) ||
	    !is_end(real[vfp.root_size]))
		return NULL;
	real += vfp.root_size;
	return *real ? real : "/";
}

void vfp_path_strip(char *result)
{
	const char *path = result ? vfp_path_virtual(result) : NULL;

	if (path)
		memmove(result, path, strlen(path) + 1);
}

bool vfp_path_in_tree(const char *path, char *out)
{
	size_t size = strlen(path) + 1;

	if (vfp.root_size + size > VFP_PATH_MAX)
		return false;
	memcpy(out, vfp.root, vfp.root_size);
	memcpy(out + vfp.root_size, path, size);
	return true;
}

bool vfp_path_stand_in(char *node)
{
	size_t size = strlen(node) + 1;

	if (vfp.root_size && !vfp_trust_root()) {
		strcpy(node, "/proc/self/fd/-"); /* nobody has such a file */
		return true;
	}
	if (vfp.root_size + size > VFP_PATH_MAX)
		return false;
	memmove(node + vfp.root_size, node, size);
	memcpy(node, vfp.root, vfp.root_size);
	return true;
}

bool vfp_path_is_node(const char *path)
{
	return (!strncmp(path, "/dev/vfio/", 10) && path[10]) ||
	       !strcmp(path, "/dev/iommu");
}

char *vfp_path_put_number(char *at, uint64_t number)
{
	char digits[20];
	size_t count = 0;

	do {
		digits[count++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	while (count)
		*at++ = digits[--count];
	return at;
}
