/* SPDX-License-Identifier: MIT */
/**
 * @file path_behind.c
 * What an fd stands for in the tree: the node of an emulated file, or the file
 * of the tree that it is.
 */
#include "path.h"

bool vfp_path_behind_fd(int fd, struct vfp_place **place)
{
	struct vfp_file file;
	char *out;

	if (!vfp_init() || !vfp.active || !vfp.root_size ||
	    !vfp_place_room(place))
		return false;
	out = (*place)->real;
	if (!vfp_emulated(fd, &file) || file.kind == VFP_ATTRIBUTE)
		return vfp_path_of_fd(fd, out) && vfp_path_virtual(out);
	strcpy(out, "/dev/vfio/vfio");
	if (file.kind == VFP_GROUP)
		*vfp_path_put_number(out + 10, vfp_number(&file)) = 0;
	return (file.kind == VFP_CONTAINER || file.kind == VFP_GROUP) &&
	       vfp_path_stand_in(out);
}

bool vfp_path_reopens(const char *name, char *out)
{
	VFP_PLACE(place);
	int fd = vfp_path_link_fd(name);
	const char *node;

	if (fd < 0 || !vfp_path_behind_fd(fd, &place))
		return false;
	node = vfp_path_virtual(place->real);
	if (!node || !vfp_path_is_node(node))
		return false;
	strcpy(out, node);
	return true;
}
