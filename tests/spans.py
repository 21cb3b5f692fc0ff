# SPDX-License-Identifier: Apache-2.0
"""Spans and contexts for tests, and the question whether they are sampled, put to the SDK as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import opentelemetry.context
import pytest
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.metrics import TraceBasedExemplarFilter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from otel_shm.sampled import SPAN_KEY

is_sampled = pytest.importorskip("otel_shm._fast")._is_sampled

OFTEN = 20  # more often than it takes until an answer is remembered
SAMPLED, UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


def sdk_says(context: Any = None) -> bool:
    """What the SDK does with a measurement's context argument."""
    return TraceBasedExemplarFilter().should_sample(1, 1, {}, context or get_current())


def answer(context: Any = None) -> bool:
    """The answer, which must be the same as the SDK's however often it is given."""
    expected = sdk_says(context)
    for _ in range(OFTEN):
        assert is_sampled(context) is expected
        assert sdk_says(context) is expected
    if context is None:
        assert is_sampled() is expected
    return expected


def span(flags: TraceFlags, **changes: int) -> NonRecordingSpan:
    """A remote parent, as a propagator makes it."""
    ids = {"trace_id": 1, "span_id": 2, **changes}
    return NonRecordingSpan(SpanContext(is_remote=True, trace_flags=flags, **ids))


def holding(value: Any, context: Context | None = None) -> Context:
    """A context with something where the span is."""
    return opentelemetry.context.set_value(SPAN_KEY, value, context)


@contextmanager
def attached(context: Any) -> Iterator[None]:
    """Within it, the context is the current one."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


class Own(NonRecordingSpan):
    """A span class as vendors have them: it decides late, and may think again."""

    def __init__(self) -> None:
        super().__init__(SpanContext(1, 2, False, UNSAMPLED))
        self.flags: Any = UNSAMPLED

    def get_span_context(self) -> SpanContext:
        return SpanContext(1, 2, False, self.flags)
