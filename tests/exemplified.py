# SPDX-License-Identifier: Apache-2.0
"""Spans to measure in, and the exemplars that a reader got."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from points import exact, points_of


class Sampled(NamedTuple):
    """What tells an exemplar; it has a time, too."""

    value: Any
    trace: int | None
    span: int | None
    attributes: str  # those that the point does not have; "None" where there were none at all


def context_of(trace_id: int, *, is_sampled: bool = True) -> Context:
    """A context in a span of a trace; the span's id is the trace's and a million."""
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    span_context = SpanContext(trace_id, trace_id + 1_000_000, is_remote=False, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


@contextmanager
def in_span(trace_id: int, *, is_sampled: bool = True) -> Iterator[None]:
    """Within it, the current span is one of that trace."""
    context = context_of(trace_id, is_sampled=is_sampled)
    with trace.use_span(trace.get_current_span(context)):
        yield


def in_trace(value: Any, trace_id: int | None, attributes: Any = None) -> Sampled:
    """The exemplar of a value that was measured in a trace, or in none."""
    span = None if trace_id is None else trace_id + 1_000_000
    return Sampled(value, trace_id, span, exact(attributes))


def sampled(exemplar: Exemplar) -> Sampled:
    """What tells it."""
    assert exemplar.time_unix_nano > 10**18
    return Sampled(
        exemplar.value, exemplar.trace_id, exemplar.span_id, exact(exemplar.filtered_attributes)
    )


def exemplars_of(data: MetricsData | None) -> dict[tuple[str, str], list[Sampled]]:
    """All of a collection, by name and attributes of their point; points without any are left out."""
    found = {
        (point.name, exact(point.attributes)): list(map(sampled, point.data.exemplars))
        for point in points_of(data)
    }
    return {key: exemplars for key, exemplars in found.items() if exemplars}
