/* SPDX-License-Identifier: MIT */
/**
 * @file path_behind.c
 * What an fd stands for in the tree: the node of an emulated file, or the file
 * of the tree that it is.
 */
#include "path.h"

bool vfe_path_behind_fd(int fd, struct vfe_place **place)
{
	struct vfe_file file;
	char *out;

	if (!vfe_init() || !vfe.active || !vfe.root_size ||
	    !vfe_place_room(place))
		return false;
	out = (*place)->real;
	if (!vfe_emulated(fd, &file) || file.kind == VFE_ATTRIBUTE)
		return vfe_path_of_fd(fd, out) && vfe_path_virtual(out);
	strcpy(out, "/dev/vfio/vfio");
	if (file.kind == VFE_GROUP)
		*vfe_path_put_number(out + 10, vfe_number(&file)) = 0;
	return (file.kind == VFE_CONTAINER || file.kind == VFE_GROUP) &&
	       vfe_path_stand_in(out);
}

bool vfe_path_reopens(const char *name, char *out)
{
	VFE_PLACE(place);
	int fd = vfe_path_link_fd(name);
	const char *node;

	if (fd < 0 || !vfe_path_behind_fd(fd, &place))
		return false;
	node = vfe_path_virtual(place->real);
	if (!node || !vfe_path_is_node(node))
		return false;
	strcpy(out, node);
	return true;
}
