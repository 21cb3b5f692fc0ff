# SPDX-License-Identifier: Apache-2.0
"""Writes the C source of `otel_shm._core`, the cffi binding; CMake runs it: cffi_build.py OUTPUT."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

# The inline operations, for the instruments of the cffi backend and for observables.
SLOT_OPERATIONS = """
void oshm_add_int(oshm_slot *run, int64_t amount);
void oshm_add_float(oshm_slot *run, double amount);
void oshm_set_int(oshm_slot *run, int64_t value);
void oshm_set_float(oshm_slot *run, double value);
void oshm_observed(oshm_slot *run, uint64_t collection);
void oshm_count(oshm_atomic_u64 *counter);
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
    ffi.set_source("otel_shm._core", '#include "slot.h"\n#include "binding.h"\n')
    ffi.emit_c_code(sys.argv[1])


if __name__ == "__main__":
    main()
