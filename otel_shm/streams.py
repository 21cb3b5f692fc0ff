# SPDX-License-Identifier: Apache-2.0
"""Streams: what comes out of an instrument, and how that is written down in the buffer.

The aggregations here are the SDK's objects, worked out for one instrument to what the core does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue
from opentelemetry.sdk.metrics import view as sdk
from opentelemetry.sdk.metrics._internal import aggregation as sdk_aggregation

from otel_shm import buffer as rules
from otel_shm.metadata import InstrumentIdentity, instrument_from_key, instrument_key

# Specification, metrics SDK, "Explicit Bucket Histogram Aggregation".
DEFAULT_BOUNDARIES = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0,
    500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0,
)  # fmt: skip

_OLD_DEFAULT = sdk_aggregation._DEFAULT_EXPLICIT_BUCKET_HISTOGRAM_AGGREGATION_BOUNDARIES
_KEY = struct.Struct("<IIHbBI")  # struct oshm_stream_key
_SIZES = range(2, 16385)  # of an exponential histogram, as the SDK has it
_LAST_VALUES = frozenset({rules.GAUGE, rules.OBSERVABLE_GAUGE})
_OBSERVABLES = frozenset(
    {rules.OBSERVABLE_COUNTER, rules.OBSERVABLE_UP_DOWN_COUNTER, rules.OBSERVABLE_GAUGE}
)


class Aggregated(NamedTuple):
    """How measurements are aggregated: an SDK Aggregation, worked out for an instrument."""

    aggregation: int
    boundaries: tuple[float, ...] = ()
    max_size: int = 0
    max_scale: int = 0
    min_max: bool = True


class AttributeFilter:
    """Which attributes a stream keeps: these, or all but these."""

    __slots__ = ("excludes", "keys")

    def __init__(self, keys: Iterable[str], *, excludes: bool) -> None:
        self.keys = frozenset(keys)
        self.excludes = excludes

    def __call__(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Those attributes that the stream keeps."""
        keys, excludes = self.keys, self.excludes
        return {key: value for key, value in attributes.items() if (key in keys) != excludes}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AttributeFilter)
            and self.keys == other.keys
            and self.excludes == other.excludes
        )

    def __hash__(self) -> int:
        return hash((self.keys, self.excludes))


class StreamIdentity(NamedTuple):
    """What tells one stream of an instrument from another."""

    metric: InstrumentIdentity  # as it comes out
    aggregated: Aggregated
    is_default: bool  # a reader's default aggregation: for readers with that default only
    keep: AttributeFilter | None
    limit: int  # a view's cardinality limit; 0: the readers'


def check_boundaries(boundaries: Iterable[float]) -> tuple[float, ...]:
    """The boundaries as floats.

    Raises:
        ValueError: one is not finite, or they do not increase.
    """
    checked = tuple(float(boundary) for boundary in boundaries)
    for index, boundary in enumerate(checked):
        if not math.isfinite(boundary):
            raise ValueError(f"invalid boundary: {boundary!r}")  # the SDK's text
        if index and checked[index - 1] >= boundary:
            raise ValueError("boundaries must be strictly increasing")  # the SDK's text
    return checked


def aggregated(
    aggregation: sdk.Aggregation, kind: int, advised: Sequence[float] | None
) -> Aggregated | None:
    """What an SDK Aggregation is for an instrument of a kind; None: nothing comes out.

    Args:
        aggregation: of a view, or a reader's default.
        kind: of the instrument.
        advised: the boundaries that it advises.

    Raises:
        ValueError: a parameter of the aggregation cannot be used, or it is of an unknown class.
    """
    default = tuple(advised) if advised is not None else DEFAULT_BOUNDARIES
    if isinstance(aggregation, sdk.DropAggregation):
        return None
    if isinstance(aggregation, sdk.DefaultAggregation):
        if kind == rules.HISTOGRAM:
            return Aggregated(rules.AGGREGATION_EXPLICIT, default)
        return Aggregated(rules.AGGREGATION_LAST if kind in _LAST_VALUES else rules.AGGREGATION_SUM)
    if isinstance(aggregation, sdk.SumAggregation):
        return Aggregated(rules.AGGREGATION_SUM)
    if isinstance(aggregation, sdk.LastValueAggregation):
        return Aggregated(rules.AGGREGATION_LAST)
    if isinstance(aggregation, sdk.ExplicitBucketHistogramAggregation):
        own = aggregation._boundaries
        if own is _OLD_DEFAULT:  # older SDKs do not tell that none were given
            own = None
        return _unless_observed(
            kind,
            Aggregated(
                rules.AGGREGATION_EXPLICIT,
                default if own is None else check_boundaries(own),
                min_max=aggregation._record_min_max,
            ),
        )
    if isinstance(aggregation, sdk.ExponentialBucketHistogramAggregation):
        return _unless_observed(kind, _exponential(aggregation))
    raise ValueError(
        f"otel_shm knows the aggregations of opentelemetry.sdk.metrics.view, not {aggregation!r}"
    )


def _unless_observed(kind: int, made: Aggregated) -> Aggregated | None:
    """A histogram of what an observable observes has no meaning, and with the SDK no points."""
    return None if kind in _OBSERVABLES else made


def _exponential(aggregation: sdk.ExponentialBucketHistogramAggregation) -> Aggregated:
    size = aggregation._max_size
    if size not in _SIZES:
        which = "smaller than minimum" if size < _SIZES[0] else "larger than maximum"
        bound = _SIZES[0] if size < _SIZES[0] else _SIZES[-1]
        raise ValueError(f"Buckets max size {size} is {which} max size {bound}")  # the SDK's text
    return Aggregated(
        rules.AGGREGATION_EXPONENTIAL,
        max_size=size,
        max_scale=max(rules.MIN_SCALE, min(rules.MAX_SCALE, aggregation._max_scale)),
        min_max=getattr(aggregation, "_record_min_max", True),
    )


def stream_key(identity: StreamIdentity) -> bytes:
    """The key bytes of a stream: see oshm_stream_key in csrc/layout.h."""
    how, keep = identity.aggregated, identity.keep
    metric = instrument_key(identity.metric)
    flags = (
        rules.DEFAULTED * identity.is_default
        | rules.NO_MIN_MAX * (not how.min_max)
        | rules.FILTERED * (keep is not None)
    )
    begin = _KEY.pack(
        len(how.boundaries), len(metric), how.max_size, how.max_scale, flags, identity.limit
    )
    boundaries = struct.pack(f"<{len(how.boundaries)}d", *how.boundaries)
    return begin + boundaries + metric + (_filter_bytes(keep) if keep else b"")


def _filter_bytes(keep: AttributeFilter) -> bytes:
    """The keys, behind whether they are the ones that go."""
    values = [AnyValue(bool_value=keep.excludes)]
    values += [AnyValue(string_value=key) for key in sorted(keep.keys)]
    return ArrayValue(values=values).SerializeToString()


def stream_from_key(key: bytes, aggregation: int) -> StreamIdentity:
    """The stream behind key bytes.

    Raises:
        struct.error, google.protobuf.message.DecodeError: the bytes are no stream's.
    """
    count, metric_bytes, max_size, max_scale, flags, limit = _KEY.unpack_from(key)
    boundaries = struct.unpack_from(f"<{count}d", key, _KEY.size)
    at = _KEY.size + 8 * count
    metric = instrument_from_key(key[at : at + metric_bytes])
    keep = None
    if flags & rules.FILTERED:
        first, *keys = ArrayValue.FromString(key[at + metric_bytes :]).values
        keep = AttributeFilter((k.string_value for k in keys), excludes=first.bool_value)
    how = Aggregated(
        aggregation, boundaries, max_size, max_scale, min_max=not flags & rules.NO_MIN_MAX
    )
    return StreamIdentity(metric, how, bool(flags & rules.DEFAULTED), keep, limit)
