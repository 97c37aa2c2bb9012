/* SPDX-License-Identifier: MIT */
#include "vfe_ops.h"

const struct vfe_ops *vfe_ops_avx2(void)
{
	return NULL;
}
