# SPDX-License-Identifier: Apache-2.0
"""Whether a measurement is made in a sampled span: as the SDK's TraceBasedExemplarFilter has it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import sys
import threading
import weakref
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from spans import OFTEN, SAMPLED, UNSAMPLED, Own, answer, attached, holding, is_sampled, span

from otel_shm.sampled import SPAN_KEY


def test_no_span_is_not_sampled() -> None:
    """With nothing attached, with an empty context and with a context without a span."""
    assert not answer()
    for context in (Context(), baggage.set_baggage("user", "1")):
        with attached(context):
            assert not answer()
        assert not answer(context)
    contextvars.ContextVar[int]("another").set(1)
    assert not answer()


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 254, 255])
@pytest.mark.parametrize("ids", [{}, {"trace_id": 0}, {"span_id": 0}], ids=str)
def test_remote_span_has_the_flag(flags: int, ids: dict[str, int]) -> None:
    """Of the trace flags the lowest bit alone counts, even in a SpanContext that is not valid."""
    with trace.use_span(span(TraceFlags(flags), **ids)):
        assert answer() == bool(flags & 1)
    assert not answer()


def test_invalid_span_is_not_sampled() -> None:
    """The span that the API returns where there is none."""
    assert not answer(trace.set_span_in_context(trace.INVALID_SPAN))


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_sdk_span_has_its_samplers_decision(sampler: Any) -> None:
    """For a span of the SDK while it is recorded, and when it has ended."""
    tracer = TracerProvider(sampler, shutdown_on_exit=False).get_tracer("tests")
    with tracer.start_as_current_span("outer"):
        outer = get_current()
        assert answer() is (sampler is ALWAYS_ON)
        with tracer.start_as_current_span("inner"):
            assert answer() is (sampler is ALWAYS_ON)
        assert answer() is (sampler is ALWAYS_ON)
    assert answer(outer) is (sampler is ALWAYS_ON)
    assert not answer()


def test_context_argument_stands_for_the_current_one() -> None:
    """An explicit context is asked, whatever is attached; baggage in it makes no difference."""
    on, off = (trace.set_span_in_context(span(flags)) for flags in (SAMPLED, UNSAMPLED))
    for current in (on, off, Context()):
        with attached(current):
            assert answer(on)
            assert not answer(off)
            assert answer(baggage.set_baggage("user", "1", on))
            assert not answer(baggage.set_baggage("user", "1", Context()))
            assert answer(dict(on))
            assert not answer(dict(off))


@pytest.mark.parametrize("empty", [None, {}, Context(), (), ""], ids=repr)
def test_empty_context_argument_is_the_current_one(empty: Any) -> None:
    """Because the SDK has `context or get_current()`."""
    assert not answer(empty)
    with trace.use_span(span(SAMPLED)):
        assert answer(empty)
    with trace.use_span(span(UNSAMPLED)):
        assert not answer(empty)


def test_attached_contexts_nest() -> None:
    """Every attach and detach changes the answer at once."""
    contexts = [Context(), *(trace.set_span_in_context(span(f)) for f in (SAMPLED, UNSAMPLED))]
    for order in itertools.product(contexts, repeat=3):
        tokens = []
        for context in order:
            tokens.append(attach(context))
            assert answer() is (context is contexts[1])
        for context, token in zip((*order[1::-1], contexts[0]), tokens[::-1], strict=True):
            detach(token)
            assert answer() is (context is contexts[1])


@pytest.mark.parametrize("cls", [dict, type("Subclass", (dict,), {})])
def test_attached_dict_is_read_each_time(cls: type[dict[str, object]]) -> None:
    """Other dicts than a Context can be attached too, and change as they like."""
    current = cls()
    with attached(current):
        assert not answer()
        for flags in (SAMPLED, UNSAMPLED, SAMPLED):
            current[SPAN_KEY] = span(flags)
            assert answer() is flags.sampled
            assert answer(current) is flags.sampled
        current.clear()
        assert not answer()


def test_more_contexts_than_are_remembered() -> None:
    """Many contexts in turn, each asked again and again."""
    contexts = [
        (trace.set_span_in_context(span(TraceFlags(n & 1))), bool(n & 1)) for n in range(100)
    ]
    for _ in range(3 * OFTEN):
        assert all(is_sampled(context) is expected for context, expected in contexts)
    for context, expected in contexts:
        assert answer(context) is expected


def test_context_in_the_place_of_a_dead_one() -> None:
    """Nothing is believed of a context because another one had its address."""
    for n in range(2000):
        with trace.use_span(span(TraceFlags(n // OFTEN & 1))):
            assert is_sampled() is bool(n // OFTEN & 1)


def test_context_that_grows_all_the_same() -> None:
    """Old versions of the API refuse only `context[key] = value`."""
    context = baggage.set_baggage("user", "1")
    assert not answer(context)
    dict.update(context, {SPAN_KEY: span(SAMPLED)})
    assert answer(context)


def test_nothing_lives_longer() -> None:
    """A context and what it holds are gone when the application has let go of them."""
    for n in range(3 * OFTEN):
        parent = span(TraceFlags(n & 1))
        context = trace.set_span_in_context(parent)
        for _ in range(OFTEN):
            assert is_sampled(context) is bool(n & 1)
        gone = weakref.ref(context), weakref.ref(parent)
        del context, parent
        assert [each() for each in gone] == [None, None]


def test_concurrent_safe_threads() -> None:
    """Every thread gets the answers for its own contexts."""
    ready, wrong = threading.Barrier(4), []
    shared = [trace.set_span_in_context(span(flags)) for flags in (SAMPLED, UNSAMPLED)]

    def work(number: int) -> None:
        ready.wait()
        for n in range(2000):
            expected = bool((n + number) & 1)
            with trace.use_span(span(TraceFlags(expected))):
                if any(is_sampled() is not expected for _ in range(3)):
                    wrong.append(n)
            if not is_sampled(shared[0]) or is_sampled(shared[1]) or is_sampled():
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_asyncio_tasks() -> None:
    """A task has the context it was made in and what it attached itself, across its awaits."""

    async def work(number: int) -> None:
        assert answer()
        for n in range(OFTEN):
            expected = bool((n + number) & 1)
            with trace.use_span(span(TraceFlags(expected))):
                await asyncio.sleep(0)
                assert answer() is expected
            await asyncio.sleep(0)
            assert answer()

    async def main() -> None:
        assert not answer()
        with trace.use_span(span(SAMPLED)):
            tasks = [asyncio.create_task(work(number)) for number in range(12)]
        assert not answer()
        await asyncio.gather(*tasks)

    asyncio.run(main())


@pytest.mark.parametrize(
    "odd",
    [None, "span", 1, object(), NonRecordingSpan, SpanContext(1, 2, True, SAMPLED), SAMPLED],
    ids=lambda odd: type(odd).__name__,
)
def test_what_is_no_span_is_not_sampled(odd: Any) -> None:
    """Whatever else a context holds where its span should be."""
    assert not answer(holding(odd))
    with attached(holding(odd)):
        assert not answer()


def test_too_many_arguments() -> None:
    """It takes the context and nothing else."""
    with pytest.raises(TypeError, match="one argument"):
        is_sampled(None, None)


def test_references_are_balanced() -> None:
    """Asking a million times leaves the counts of what is asked about as they were."""
    on = trace.set_span_in_context(span(SAMPLED))
    own = trace.set_span_in_context(Own())
    kept: list[Any] = [on, own, *on.values(), *own.values(), Context, SPAN_KEY, SAMPLED]
    for context in (on, own):
        for _ in range(OFTEN):
            is_sampled(context)
    gc.collect()
    before = [sys.getrefcount(each) for each in kept]
    for context in (on, own):
        with attached(context):
            for _ in range(10_000):
                is_sampled(context)
                is_sampled()
    assert [sys.getrefcount(each) for each in kept] == before
