/* SPDX-License-Identifier: MIT */
/**
 * @file floor.h
 * What any call costs that another process answers: 48 bytes to a C server
 * and back over a SEQPACKET socket, both ends blocking. The ratios of calls.c
 * and of shim_calls.c stand on the same floor.
 */
#ifndef VFIOEMU_BENCH_FLOOR_H
#define VFIOEMU_BENCH_FLOOR_H

/** Stay on one CPU; ends the program if that is not possible. */
void run_on(int cpu);

/**
 * Start the server on a CPU. It ends with this process.
 *
 * @return the socket to it.
 */
int floor_serve(int cpu);

/** Send a message and wait for it to come back. */
void floor_call(int sock);

#endif
