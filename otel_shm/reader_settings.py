# SPDX-License-Identifier: Apache-2.0
"""What a MetricReader asks for: temporality, default aggregation and cardinality limit by kind.

The tables are private to the SDK, which gives providers no other way; tests fail if a supported version
renames one. Stand-ins for readers have none, and get the defaults.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.metrics.view import Aggregation, DefaultAggregation

from otel_shm import buffer as rules

DEFAULT_LIMIT = 2000  # specification, metrics SDK, "Cardinality limits"

#: The SDK's public class of each kind.
CLASSES: dict[int, Any] = {
    rules.COUNTER: sdk.Counter,
    rules.UP_DOWN_COUNTER: sdk.UpDownCounter,
    rules.HISTOGRAM: sdk.Histogram,
    rules.GAUGE: sdk._Gauge,
    rules.OBSERVABLE_COUNTER: sdk.ObservableCounter,
    rules.OBSERVABLE_UP_DOWN_COUNTER: sdk.ObservableUpDownCounter,
    rules.OBSERVABLE_GAUGE: sdk.ObservableGauge,
}


def baselines_key(place: int, reader: MetricReader) -> bytes:
    """What a delta reader's baselines are found by, the same in all processes.

    Args:
        place: among the readers of its process, from 0.
        reader: whose they are.
    """
    kind = type(reader)
    return f"{place} {kind.__module__}.{kind.__qualname__}".encode()


def _setting(reader: MetricReader, table: str, kind: int, expected: type, default: Any) -> Any:
    settings = getattr(reader, table, None)
    if isinstance(settings, dict):
        for instrument_class, setting in settings.items():
            if issubclass(instrument_class, CLASSES[kind]) and isinstance(setting, expected):
                return setting
    return default


class ReaderSettings:
    """What one reader asks for, by kind of instrument."""

    def __init__(self, reader: MetricReader) -> None:
        self.aggregation: dict[int, Aggregation] = {}
        self.limit: dict[int, int] = {}
        self.temporality: dict[int, AggregationTemporality] = {}
        for kind in CLASSES:
            self.temporality[kind] = _setting(
                reader,
                "_instrument_class_temporality",
                kind,
                AggregationTemporality,
                AggregationTemporality.CUMULATIVE,
            )
            self.aggregation[kind] = _setting(
                reader, "_instrument_class_aggregation", kind, Aggregation, DefaultAggregation()
            )
            self.limit[kind] = _setting(
                reader, "_instrument_class_cardinality_limit", kind, int, DEFAULT_LIMIT
            )
        #: It gets what there is of an instrument whose processes have readers with other defaults only.
        self.takes_any = False
        #: Kinds of which it wants deltas.
        self.delta_kinds = frozenset(
            kind
            for kind, temporality in self.temporality.items()
            if temporality is AggregationTemporality.DELTA
        )
