/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Mistakes that a fuzzer must find, or it finds nothing: -DVFE_PLANT=n makes
 * one of them. Nothing is left of this header in any other build.
 */
#ifndef VFE_PLANT_H
#define VFE_PLANT_H

enum vfe_plant {
	VFE_PLANT_LOST_BIT = 1, /**< a merge from odd bits drops the last one */
	VFE_PLANT_SUMMARY = 2,	/**< a part of a chunk is taken for all of it */
	VFE_PLANT_BOUND = 3,	/**< DMA one byte beyond a mapping */
	VFE_PLANT_RESIDUE = 4,	/**< residue is lost in the last word */
	VFE_PLANT_LOG = 5,	/**< the log marks one page too few */
	VFE_PLANT_GUARD = 7,	/**< one byte more than was there is copied */
	VFE_PLANT_ZERO = 6,	/**< the last line of a page is not looked at */
};

#ifdef VFE_PLANT
#define vfe_planted(mistake) (VFE_PLANT == (mistake))
#else
#define vfe_planted(mistake) 0
#endif

#endif
