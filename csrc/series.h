/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core's own files need of streams and series, besides binding.h.
 */
#pragma once

#include "buffer.h"
#include "stream.h"

/* What lies behind the key of a stream's record; NULL if it is damaged. */
oshm_stream_state *oshm_stream_state_of(const struct oshm_buffer *buffer, uint64_t record);

/* Claims a stream's overflow series. */
int oshm_series_claim_overflow(const struct oshm_stream *stream);

/* Where the overflow series of a stream adds, as oshm_series_claim. */
int oshm_series_place_overflow(const struct oshm_stream *stream, int measured,
                               oshm_target *target);

/* True for the attributes of an overflow series. */
bool oshm_is_overflow(const uint8_t *attributes, uint64_t bytes);

/* How many signs the values of a kind of instrument have. */
static inline int32_t oshm_signs(uint8_t kind)
{
    return kind == OSHM_COUNTER || kind == OSHM_HISTOGRAM ? 1 : 2;
}

/* Where the blocks of an exponential series are, one oshm_blocks a sign; NULL if its record is
 * damaged. */
oshm_blocks *oshm_blocks_of(const struct oshm_buffer *buffer, uint64_t series);

/* The bucket that the first slot of a block of an exponential series is for. */
int64_t oshm_block_lowest(const struct oshm_stream *stream, const oshm_blocks *blocks, int32_t block);
