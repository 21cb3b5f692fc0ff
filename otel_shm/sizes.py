# SPDX-License-Identifier: Apache-2.0
"""How large a new buffer is made."""

from __future__ import annotations

from otel_shm.errors import BufferSizeError

DEFAULT_SERIES = 32_768
DEFAULT_LANES = 128
DEFAULT_RECORD_BYTES = 16 * 1024 * 1024
DEFAULT_SIZES = {
    "series": DEFAULT_SERIES,
    "lanes": DEFAULT_LANES,
    "record_bytes": DEFAULT_RECORD_BYTES,
}


def checked_sizes(sizes: dict[str, int]) -> list[int]:
    """The sizes as the core takes them. Which of them are too small or large, it says itself.

    Raises:
        BufferSizeError: one is no positive whole number.
    """
    for option, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**63:
            raise BufferSizeError(f"{option} must be a positive whole number, not {size!r}")
    return list(sizes.values())
