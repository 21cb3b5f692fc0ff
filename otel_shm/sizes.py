# SPDX-License-Identifier: Apache-2.0
"""How large a new buffer is made."""

from __future__ import annotations

from otel_shm._core import lib
from otel_shm.errors import BufferSizeError

DEFAULT_SERIES = 32_768
DEFAULT_LANES = 128
DEFAULT_RECORD_BYTES = 16 * 1024 * 1024
DEFAULT_SIZES = {
    "series": DEFAULT_SERIES,
    "lanes": DEFAULT_LANES,
    "record_bytes": DEFAULT_RECORD_BYTES,
}
RANGES = {
    "series": (lib.OSHM_SERIES_MIN, lib.OSHM_SERIES_MAX),
    "lanes": (lib.OSHM_LANES_MIN, lib.OSHM_LANES_MAX),
    "record_bytes": (lib.OSHM_RECORD_BYTES_MIN, lib.OSHM_RECORD_BYTES_MAX),
}


def checked_sizes(sizes: dict[str, int]) -> list[int]:
    """The sizes as the core takes them.

    Raises:
        BufferSizeError: one is no whole number, or out of range.
    """
    for option, size in sizes.items():
        least, most = RANGES[option]
        if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= most:
            raise BufferSizeError(
                f"{option} ({variable_of(option)}) must be a whole number from {least} to {most}, "
                f"not {size!r}"
            )
    return list(sizes.values())


def variable_of(option: str) -> str:
    """The environment variable of a size."""
    return f"OTEL_SHM_{option.upper()}"
