# SPDX-License-Identifier: Apache-2.0
"""Writes the C source of `otel_shm._core`, the cffi binding; CMake runs it: cffi_build.py OUTPUT."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

# The inline operations, for the instruments of the cffi backend and for observables; and the table of
# one of them, for its test.
SLOT_OPERATIONS = """
bool oshm_add_int(oshm_slot *run, int64_t amount);
bool oshm_add_float(oshm_slot *run, double amount);
void oshm_set_int(oshm_slot *run, int64_t value);
void oshm_set_float(oshm_slot *run, double value);
void oshm_observed(oshm_slot *run, uint64_t collection);
int oshm_aggregate_int(const oshm_target *target, int64_t amount);
int oshm_aggregate_float(const oshm_target *target, double amount);
uint32_t oshm_bucket(const double *boundaries, uint32_t count, double value);
uint32_t oshm_bucket_int(const double *boundaries, uint32_t count, int64_t value);
int32_t oshm_exponential_index(double value, int scale);
typedef struct oshm_log2_piece { int64_t start; uint32_t slope, bend; } oshm_log2_piece;
static const oshm_log2_piece oshm_log2_pieces[256];
"""


def declarations(header: str) -> str:
    """The header as cffi reads it: all but its preprocessor guard."""
    lines = (HERE / header).read_text().splitlines()
    return "\n".join(line for line in lines if line != "#pragma once")


def main() -> None:
    ffi = FFI()
    # C sees the word as _Atomic; to Python it is 64 bits, and only C touches a shared one.
    ffi.cdef("typedef uint64_t oshm_atomic_u64;")
    ffi.cdef(declarations("layout.h"))
    ffi.cdef(declarations("binding.h"))
    ffi.cdef(SLOT_OPERATIONS)
    ffi.set_source("otel_shm._core", '#include "stream.h"\n#include "binding.h"\n')
    ffi.emit_c_code(sys.argv[1])


if __name__ == "__main__":
    main()
