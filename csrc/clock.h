/* SPDX-License-Identifier: Apache-2.0
 *
 * Clocks, for start times and for waiting. The hot path reads none.
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

/* Milliseconds since some moment. */
static inline uint64_t oshm_now_monotonic_milli(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}
