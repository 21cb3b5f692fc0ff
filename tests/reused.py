# SPDX-License-Identifier: Apache-2.0
"""Streams whose series can be used again, and measurements in them that hold nothing."""

from __future__ import annotations

import pytest
from buffers import claim_stream
from points import exact

from otel_shm import buffer as rules
from otel_shm.attributes import encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.series import Series, Stream
from otel_shm.streams import DEFAULT_BOUNDARIES, Aggregated

SIZES = {"series": 64, "lanes": 4, "record_bytes": 65536}
LIMIT = 12  # of a stream; from a third of it on its idle series retire

AGGREGATED = {
    "sum": (rules.COUNTER, Aggregated(rules.AGGREGATION_SUM)),
    "up-down": (rules.UP_DOWN_COUNTER, Aggregated(rules.AGGREGATION_SUM)),
    "explicit": (rules.HISTOGRAM, Aggregated(rules.AGGREGATION_EXPLICIT, DEFAULT_BOUNDARIES)),
    "exponential": (rules.HISTOGRAM, Aggregated(rules.AGGREGATION_EXPONENTIAL, (), 20, 20)),
}


@pytest.fixture(params=AGGREGATED)
def stream(request: pytest.FixtureRequest) -> Stream:
    """A stream of each aggregation whose series can be used again, in a buffer of its own."""
    return stream_of(Buffer(**SIZES), request.param)


def stream_of(buffer: Buffer, how: str = "sum", limit: int = LIMIT) -> Stream:
    """A stream of the test's instrument."""
    kind, aggregated = AGGREGATED[how]
    return Stream(buffer, claim_stream(buffer, kind, how=aggregated, limit=limit))


def hold(stream: Stream, key: object) -> Series:
    """A handle to the series {"n": key}."""
    series, _ = stream.claim(encode_attributes({"n": key}), measured=True)
    return series


def add(stream: Stream, *keys: object) -> dict[str, int]:
    """Measures 1 in each of the series, without keeping them. Returns: by attributes."""
    for key in keys:
        hold(stream, key).measure(1)
    return {exact({"n": key}): 1 for key in keys}
