# SPDX-License-Identifier: Apache-2.0
"""Whether a measurement is made in a sampled span: what csrc/sampled.h has to know and to ask."""

from __future__ import annotations

import contextvars
import sys
from typing import Any

import opentelemetry.context
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.metrics import TraceBasedExemplarFilter

_filter = TraceBasedExemplarFilter()

# Where get_current() looks the runtime context up, each time.
GLOBALS = vars(opentelemetry.context)
CONTEXT = Context
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
SPAN_CONTEXT = trace.SpanContext
TRACE_FLAGS = trace.TraceFlags
KEPT_NAME = "_context"


def ask(context: Any) -> bool:
    """What the SDK makes of a measurement's context argument."""
    return _filter.should_sample(0, 0, None, context or get_current())


def is_sampled(context: Any) -> bool:
    """As `ask`; where that fails it is not sampled. For measurements that C does not make."""
    try:
        return ask(context)
    except Exception:
        return False


def current_variable() -> contextvars.ContextVar[Context] | None:
    """The variable of the current context, if the runtime context does no more than read it."""
    runtime = getattr(opentelemetry.context, "_RUNTIME_CONTEXT", None)
    reader = getattr(getattr(runtime, "get_current", None), "__func__", None)
    variable = getattr(runtime, "_current_context", None)
    if reader is not ContextVarsRuntimeContext.get_current:
        return None
    if not isinstance(variable, contextvars.ContextVar):
        return None
    try:
        default = contextvars.Context().run(variable.get)
    except LookupError:
        return None
    return variable if type(default) is Context and not default else None


def keeps_context(span: Any) -> bool:
    """Whether a span is one of the API's or the SDK's, whose SpanContext stays what _context is."""
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if type(span) not in (trace.NonRecordingSpan, getattr(sdk, "_Span", None)):
        return False
    return span.get_span_context() is getattr(span, KEPT_NAME, None)


# A class whose instances a context never holds, where the API's spans are not what they were.
API_SPAN = type(trace.INVALID_SPAN) if keeps_context(trace.INVALID_SPAN) else type(None)
