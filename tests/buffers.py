# SPDX-License-Identifier: Apache-2.0
"""Buffers as the tests make them, without a provider: where they lie and what a scan says of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from namespaces import mount, unshare
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import ENDLESS, exact, without_limit
from processes import Processes

from otel_shm import buffer as rules
from otel_shm import folds
from otel_shm.attributes import decode_attributes, encode_attributes
from otel_shm.buffer import Buffer
from otel_shm.exemplars import Exemplars, filter_of
from otel_shm.metadata import InstrumentIdentity, instrument_from_key, instrument_key, scope_key
from otel_shm.meter import Meter
from otel_shm.reader_settings import ReaderSettings
from otel_shm.readings import Row
from otel_shm.registration import Registration
from otel_shm.scanner import Scanner
from otel_shm.series import Series, Stream
from otel_shm.streams import DEFAULT_BOUNDARIES, Aggregated, StreamIdentity, stream_key
from otel_shm.views import Views

SCOPE = InstrumentationScope("tests")
SMALL = {"series": 16, "lanes": 4, "record_bytes": 8192}

# What each kind is aggregated to where nobody says otherwise.
AGGREGATED = {
    rules.COUNTER: Aggregated(rules.AGGREGATION_SUM),
    rules.UP_DOWN_COUNTER: Aggregated(rules.AGGREGATION_SUM),
    rules.HISTOGRAM: Aggregated(rules.AGGREGATION_EXPLICIT, DEFAULT_BOUNDARIES),
    rules.GAUGE: Aggregated(rules.AGGREGATION_LAST),
    rules.OBSERVABLE_COUNTER: Aggregated(rules.AGGREGATION_SUM),
    rules.OBSERVABLE_UP_DOWN_COUNTER: Aggregated(rules.AGGREGATION_SUM),
    rules.OBSERVABLE_GAUGE: Aggregated(rules.AGGREGATION_LAST),
}

Attributes = dict[str, Any] | None


@pytest.fixture
def shm() -> Iterator[Path]:
    """A fresh directory on tmpfs, where buffers belong."""
    directory = Path(tempfile.mkdtemp(prefix="otel_shm_test_", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


def claim_instrument(
    buffer: Buffer,
    kind: int = rules.COUNTER,
    name: str = "requests",
    boundaries: Sequence[float] = (),
) -> int:
    """The record of an instrument of the tests' scope."""
    return buffer.claim_instrument(
        buffer.claim_scope(scope_key(SCOPE)),
        kind,
        folds.NUMBERS[folds.default_of(name, kind)],
        instrument_key(InstrumentIdentity(name, "", "")),
        boundaries,
    )


def identity_of(how: Aggregated, name: str = "requests") -> StreamIdentity:
    """A stream of an instrument without a view."""
    return StreamIdentity(
        InstrumentIdentity(name, "", ""), how, is_default=True, keep=None, limit=0
    )


def claim_stream(
    buffer: Buffer,
    kind: int = rules.COUNTER,
    name: str = "requests",
    how: Aggregated | None = None,
    *,
    fold: int | None = None,
    limit: int = ENDLESS,
) -> int:
    """The record of a stream of an instrument of the tests' scope.

    Args:
        buffer, kind, name: of the instrument.
        how: it is aggregated; None: as its kind is by default.
        fold: how its lanes do; None: as they do by default.
        limit: most series.
    """
    how = how or AGGREGATED[kind]
    if fold is None:
        instrument_fold = folds.NUMBERS[folds.default_of(name, kind)]
        fold = folds.of_stream(instrument_fold, kind, how.aggregation)
    key = stream_key(identity_of(how, name))
    instrument = claim_instrument(buffer, kind, name)
    return buffer.claim_stream(instrument, how.aggregation, fold, key, limit)


def claim(buffer: Buffer, stream: int, attributes: Attributes = None) -> Series:
    """The series of an attribute set, which must have a place of its own."""
    key = encode_attributes(attributes or {})
    series, status = Stream(buffer, stream).claim(key, measured=True)
    assert status == 0, rules.reason(status)
    return series


def updown_of(buffer: Buffer, attributes: Attributes = None) -> Series:
    """A series whose dead processes' shares are dropped."""
    return claim(buffer, claim_stream(buffer, rules.UP_DOWN_COUNTER, "in_flight"), attributes)


def counter_of(buffer: Buffer) -> Series:
    """A series whose dead processes' shares stay."""
    return claim(buffer, claim_stream(buffer))


def meter_of(buffer: Buffer, *views: View) -> Meter:
    """Makes instruments in a buffer, without a provider; with the `backend` fixture of either.

    Their series are as many as the buffer has room for.
    """
    registration = Registration(
        buffer, Views(views), folds.FoldRules(), Exemplars(buffer, filter_of(None))
    )
    registration.add_reader(ReaderSettings(without_limit(InMemoryMetricReader())))
    return Meter(registration, SCOPE, lambda _observable: None)


def scan(buffer: Buffer) -> list[Row]:
    """The rows of all series that have something to report, as a new scanner finds them now."""
    rows = Scanner(buffer).scan(buffer.begin_collection())
    return [row for row in rows if row.value is not None]


def only_row(buffer: Buffer) -> Row:
    """The row of the one series that there is."""
    (row,) = scan(buffer)
    return row


def totals(buffer: Buffer) -> dict[tuple[str, str], int | float]:
    """Value or sum by name and attributes of all series that have one; no series may be there twice."""
    values = {}
    for row in scan(buffer):
        name = instrument_from_key(buffer.record_key(buffer.record_parent(row.stream))).name
        key = (name, exact(decode_attributes(buffer.record_key(row.series))))
        assert key not in values, f"{key} is there twice"
        assert row.value is not None
        values[key] = row.value
    return values


def lane_by_path(path: Path) -> int:
    """In a process started on its own: its lane."""
    return Buffer(path).lane


def in_small_tmpfs(directory: Path, size: str, work: Callable[[Path], Any]) -> Any:
    """Calls work(path of a tmpfs of that size) in a forked child with mounts of its own.

    The mount is seen by that child only and gone with it. Skips the test where nobody may mount.
    """

    def mounted() -> Any:
        refused = unshare()
        if refused is None:
            place = directory / "small"
            place.mkdir()
            try:
                mount("tmpfs", str(place), "tmpfs", options=f"size={size},mode=0700")
            except OSError as error:
                refused = str(error)
        return ("refused", refused) if refused else ("answer", work(place))

    with Processes() as started:
        what, answer = started.fork(mounted).result()
    if what == "refused":
        pytest.skip(f"no tmpfs can be mounted here: {answer}")
    return answer
