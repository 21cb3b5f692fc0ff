# SPDX-License-Identifier: Apache-2.0
"""Whether a span is sampled where something is out of the ordinary: classes, errors, runtime contexts."""

from __future__ import annotations

import contextvars
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import opentelemetry.context
import pytest
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.context.context import _RuntimeContext
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from processes import Processes, processes
from spans import OFTEN, SAMPLED, UNSAMPLED, Own, answer, attached, is_sampled, sdk_says, span

__all__ = ["processes"]


class _Span(Own):
    """It is even called as the SDK's is."""


class Equal(Own):
    """A span that is equal to everything, the API's invalid span included."""

    __hash__ = Own.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("cls", [Own, _Span])
def test_span_of_another_class_is_asked_each_time(cls: type[Own]) -> None:
    """Its answer is never remembered."""
    own = cls()
    with trace.use_span(own):
        for flags in (UNSAMPLED, SAMPLED, UNSAMPLED, SAMPLED):
            own.flags = flags
            assert answer() is flags.sampled
            assert answer(get_current()) is flags.sampled


def test_span_equal_to_the_invalid_one_is_not_sampled() -> None:
    """The SDK compares with ==."""
    equal = Equal()
    equal.flags = SAMPLED
    assert not answer(trace.set_span_in_context(equal))


def test_odd_span_contexts() -> None:
    """A subclass of SpanContext or TraceFlags has its say."""

    class Sampled(SpanContext):
        @property
        def trace_flags(self) -> TraceFlags:
            return SAMPLED

    class NeverSampled(TraceFlags):
        @property
        def sampled(self) -> bool:
            return False

    assert answer(trace.set_span_in_context(NonRecordingSpan(Sampled(1, 2, True))))
    assert not answer(trace.set_span_in_context(span(NeverSampled(1))))


@pytest.mark.parametrize(
    "broken",
    [
        trace.set_span_in_context(span(1)),  # type: ignore[arg-type]  # an int has no .sampled
        trace.set_span_in_context(NonRecordingSpan(None)),  # type: ignore[arg-type]
        trace.set_span_in_context(NonRecordingSpan(tuple.__new__(SpanContext, ()))),
        "context",
        1,
    ],
    ids=["flags", "none", "empty", "str", "int"],
)
def test_error_is_not_sampled(broken: Any) -> None:
    """What makes the SDK's filter raise does not reach the application."""
    with pytest.raises((AttributeError, IndexError)):
        sdk_says(broken)
    for _ in range(OFTEN):
        assert is_sampled(broken) is False
    with attached(broken):
        assert is_sampled() is False
    assert not answer()


def test_error_of_an_applications_code_is_not_sampled() -> None:
    """Neither does what a span or a context of its own raises."""

    class Raising(NonRecordingSpan):
        def get_span_context(self) -> SpanContext:
            raise error

    class Undecided(dict[str, object]):
        def __bool__(self) -> bool:
            raise error

    contexts = [trace.set_span_in_context(Raising(SpanContext(1, 2, True))), Undecided()]
    error: BaseException = ValueError("not now")
    for context in contexts:
        for _ in range(OFTEN):
            assert is_sampled(context) is False
    with attached(None):  # no context at all
        assert is_sampled() is False
    error = KeyboardInterrupt("now")
    for context in contexts:
        with pytest.raises(KeyboardInterrupt, match="now"):
            is_sampled(context)


class Guarded(ContextVarsRuntimeContext):
    """Reads as the one it derives from: many a library puts such a one in its place."""

    def detach(self, token: Any) -> None:
        with suppress(ValueError):
            super().detach(token)


class Reading(ContextVarsRuntimeContext):
    """Reads otherwise than the one it derives from."""

    def get_current(self) -> Context:
        return trace.set_span_in_context(span(SAMPLED), super().get_current())


class Filled(ContextVarsRuntimeContext):
    """Has something in it from the start."""

    def __init__(self) -> None:
        filled = trace.set_span_in_context(span(SAMPLED), Context())
        self._current_context = contextvars.ContextVar("filled", default=filled)


class Global(_RuntimeContext):
    """Knows no ContextVar."""

    def __init__(self) -> None:
        self._now = Context()

    def attach(self, context: Context) -> Any:
        before, self._now = self._now, context
        return before

    def get_current(self) -> Context:
        return self._now

    def detach(self, token: Any) -> None:
        self._now = token


@pytest.mark.parametrize("cls", [ContextVarsRuntimeContext, Guarded, Reading, Filled, Global])
def test_replaced_runtime_context(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on it is the one that tells what is current; until the old one is back."""
    with trace.use_span(span(SAMPLED)):
        assert answer()
        with monkeypatch.context() as patch:
            patch.setattr(opentelemetry.context, "_RUNTIME_CONTEXT", cls())
            assert answer() is (cls in (Reading, Filled))
            for flags in (SAMPLED, UNSAMPLED):
                with attached(trace.set_span_in_context(span(flags), Context())):
                    assert answer() is (flags.sampled or cls is Reading)
            assert answer() is (cls in (Reading, Filled))
        assert answer()
    assert not answer()


def test_runtime_context_without_a_current_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all, one with an empty variable and one whose instance reads otherwise."""
    unset = ContextVarsRuntimeContext()
    unset._current_context = contextvars.ContextVar("unset")
    for odd in (None, unset):
        with monkeypatch.context() as patch:
            patch.setattr(opentelemetry.context, "_RUNTIME_CONTEXT", odd)
            with pytest.raises((AttributeError, LookupError)):
                sdk_says()
            for _ in range(OFTEN):
                assert is_sampled() is False
    other = ContextVarsRuntimeContext()
    context = trace.set_span_in_context(span(SAMPLED))
    other.get_current = lambda: context  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setattr(opentelemetry.context, "_RUNTIME_CONTEXT", other)
        assert answer()
    with monkeypatch.context() as patch:
        patch.delattr(opentelemetry.context, "_RUNTIME_CONTEXT")
        assert is_sampled() is False
    assert not answer()


def configured_otherwise() -> tuple[str, list[bool]]:
    """In a process that OTEL_PYTHON_CONTEXT gave a Global."""
    answers = [answer()]
    for flags in (SAMPLED, UNSAMPLED):
        with trace.use_span(span(flags)):
            answers.append(answer())
    return type(opentelemetry.context._RUNTIME_CONTEXT).__name__, [*answers, answer()]


def test_runtime_context_of_the_environment(tmp_path: Path, processes: Processes) -> None:
    """A runtime context that OTEL_PYTHON_CONTEXT names is asked."""
    (tmp_path / "odd.dist-info").mkdir()
    (tmp_path / "odd.dist-info" / "METADATA").write_text("Name: odd\nVersion: 1\n")
    points = "[opentelemetry_context]\nodd = odd_context:Global\n"
    (tmp_path / "odd.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "odd_context.py").write_text(
        "class Global:\n"
        "    now = {}\n"
        "    def attach(self, context):\n"
        "        before, self.now = self.now, context\n"
        "        return before\n"
        "    def get_current(self):\n"
        "        return self.now\n"
        "    def detach(self, token):\n"
        "        self.now = token\n"
    )
    environment = {"OTEL_PYTHON_CONTEXT": "odd", "PYTHONPATH": str(tmp_path)}
    found = processes.spawn(configured_otherwise, environment=environment).result()
    assert found == ("Global", [False, True, False, False])


LATE = """
import os, sys
from otel_shm._fast import _is_sampled as ask
assert not ask() and "opentelemetry.sdk.trace" not in sys.modules
from opentelemetry import context, trace
class Own(trace.NonRecordingSpan): pass
class _Span(Own):
    turned = False
    def get_span_context(self):
        return trace.INVALID_SPAN_CONTEXT if self.turned else super().get_span_context()
class Late:
    def __init__(self, *kept): self.kept = kept
    def __del__(self, ask=ask, write=os.write):
        write(1, b"late %d %d %d\\n" % tuple(ask(each) for each in self.kept))
def use(span):
    with trace.use_span(span):
        assert all(ask() for _ in range(20))
        return context.get_current()
parent = trace.SpanContext(1, 2, True, trace.TraceFlags(1))
use(Own(parent)), use(_Span(parent))
remote = use(trace.NonRecordingSpan(parent))
with trace.use_span(_Span(parent)) as turning:
    assert ask()
    turning.turned = True
    assert not ask()
from opentelemetry.sdk.trace import TracerProvider
recorded = use(TracerProvider().get_tracer("tests").start_span("work"))
use(recorded[next(iter(recorded))])
sys.late = Late(recorded, remote, {})
"""


def test_span_of_an_sdk_that_came_later_and_the_end() -> None:
    """Asked before the tracing SDK is imported, and when the interpreter has all but ended."""
    ended = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == (b"late 1 1 0\n", b"")
