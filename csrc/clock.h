/* SPDX-License-Identifier: Apache-2.0
 *
 * Wall clock, for start times. The hot path reads no clock.
 */
#pragma once

#include <stdint.h>
#include <time.h>

/* Nanoseconds since 1970. */
static inline uint64_t oshm_now_unix_nano(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
