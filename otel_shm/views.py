# SPDX-License-Identifier: Apache-2.0
"""Views: which streams an instrument has.

Every view that matches an instrument makes a stream of it; without one it has a stream of its own. Where
an aggregation is left to the readers, there is one for each of the readers' defaults.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import view as sdk

from otel_shm import buffer as rules
from otel_shm.metadata import InstrumentIdentity
from otel_shm.reader_settings import DEFAULT_LIMIT, ReaderSettings
from otel_shm.streams import AttributeFilter, StreamIdentity, aggregated

# The SDK's own logger and texts: what people filter and search for today.
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.metric_reader_storage")

_MONOTONIC = (rules.COUNTER, rules.OBSERVABLE_COUNTER)
_HISTOGRAMS = (sdk.ExplicitBucketHistogramAggregation, sdk.ExponentialBucketHistogramAggregation)
_OBSERVABLES = (
    rules.OBSERVABLE_COUNTER,
    rules.OBSERVABLE_UP_DOWN_COUNTER,
    rules.OBSERVABLE_GAUGE,
)

_DEFAULT_VIEW = sdk.View(instrument_name="")  # what an instrument without a view has


class View(sdk.View):
    """A View of the SDK that can also name the attributes that a stream does not keep.

    Args:
        excluded_attribute_keys: attributes of these keys are left out (specification, metrics SDK,
            "View", "a stream configuration's exclude-list"). Not together with `attribute_keys`.
        arguments, options: those of `opentelemetry.sdk.metrics.view.View`.

    Raises:
        ValueError: both lists are given.
    """

    def __init__(
        self,
        *arguments: Any,
        excluded_attribute_keys: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        if excluded_attribute_keys is not None and self._attribute_keys is not None:
            raise ValueError("a View has attribute_keys or excluded_attribute_keys, not both")
        self._excluded_attribute_keys = (
            None if excluded_attribute_keys is None else frozenset(excluded_attribute_keys)
        )


def _keep_of(view: sdk.View) -> AttributeFilter | None:
    if view._attribute_keys is not None:
        return AttributeFilter(map(str, view._attribute_keys), excludes=False)
    excluded = getattr(view, "_excluded_attribute_keys", None)
    return None if excluded is None else AttributeFilter(excluded, excludes=True)


class StreamWish(NamedTuple):
    """A stream that an instrument is to have."""

    identity: StreamIdentity
    limit: int  # most series that any reader wants of it
    view: sdk.View


class Views:
    """The views of a provider, and what its readers leave to be decided.

    Args:
        views: in the order in which they were given.

    Raises:
        ValueError: a view's aggregation cannot be used.
    """

    def __init__(self, views: Sequence[sdk.View]) -> None:
        self._views = tuple(views)
        self._matched: dict[Any, list[tuple[int, StreamIdentity, sdk.View]]] = {}  # by instrument
        self._lock = threading.Lock()
        for view in self._views:
            aggregated(view._aggregation, rules.HISTOGRAM, None)  # raises where it cannot be used

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock in the parent."""
        self._lock = threading.Lock()

    def streams(
        self,
        instrument: Any,
        kind: int,
        advised: Sequence[float] | None,
        readers: Sequence[ReaderSettings],
    ) -> list[StreamWish]:
        """The streams of an instrument, each once.

        Args:
            instrument: what views match: its name, unit, description and scope, and to isinstance() an
                instrument of its class.
            kind: of it.
            advised: the boundaries that it advises.
            readers: what they ask for; none: the defaults.
        """
        wishes: dict[StreamIdentity, StreamWish] = {}
        matching = [view for view in self._views if self._applies(view, instrument, kind)]
        for view in matching or [_DEFAULT_VIEW]:
            for wish in self._of_view(view, instrument, kind, advised, readers):
                known = wishes.get(wish.identity)
                if known is None or known.limit < wish.limit:
                    wishes[wish.identity] = wish
        self._warn_of_conflicts(instrument, kind, list(wishes.values()))
        return list(wishes.values())

    def _applies(self, view: sdk.View, instrument: Any, kind: int) -> bool:
        if not view._match(instrument):
            return False
        if kind in _OBSERVABLES and isinstance(view._aggregation, _HISTOGRAMS):
            _sdk_logger.warning(
                "View %s and instrument %s will produce semantic errors when matched, the view has "
                "not been applied.",
                view,
                instrument,
            )
            return False
        return True

    def _of_view(
        self,
        view: sdk.View,
        instrument: Any,
        kind: int,
        advised: Sequence[float] | None,
        readers: Sequence[ReaderSettings],
    ) -> Iterable[StreamWish]:
        is_default = isinstance(view._aggregation, sdk.DefaultAggregation)
        limit = getattr(view, "_aggregation_cardinality_limit", None) or 0
        metric = InstrumentIdentity(
            view._name or instrument.name,
            instrument.unit,
            view._description or instrument.description,
        )
        asking: Iterable[tuple[sdk.Aggregation, int]]
        if not readers:
            asking = [(sdk.DefaultAggregation(), DEFAULT_LIMIT)]
        else:
            asking = [(reader.aggregation[kind], reader.limit[kind]) for reader in readers]
        for default, reader_limit in asking:
            how = aggregated(default if is_default else view._aggregation, kind, advised)
            if how is not None:
                identity = StreamIdentity(metric, how, is_default, _keep_of(view), limit)
                yield StreamWish(identity, limit or reader_limit, view)

    def _warn_of_conflicts(self, instrument: Any, kind: int, wishes: list[StreamWish]) -> None:
        """As the SDK: a view brings out what another instrument brings out too."""
        key = (
            kind,
            instrument.name,
            instrument.unit,
            instrument.description,
            instrument.instrumentation_scope,
        )
        with self._lock:
            others = [
                match
                for other, matches in self._matched.items()
                if other != key
                for match in matches
            ]
            for wish in wishes:
                if wish.view is _DEFAULT_VIEW:
                    continue
                for other_kind, other, other_view in others:
                    if _conflicts(kind, wish.identity, other_kind, other):
                        _sdk_logger.warning(
                            "Views %s and %s will cause conflicting metrics identities",
                            other_view,
                            wish.view,
                        )
            self._matched[key] = [(kind, wish.identity, wish.view) for wish in wishes]


def _conflicts(kind: int, identity: StreamIdentity, other_kind: int, other: StreamIdentity) -> bool:
    same = (
        identity.metric.name == other.metric.name
        and identity.metric.unit == other.metric.unit
        and identity.aggregated.aggregation == other.aggregated.aggregation
    )
    if not same or identity.aggregated.aggregation != rules.AGGREGATION_SUM:
        return same
    return (kind in _MONOTONIC, kind in _OBSERVABLES) == (
        other_kind in _MONOTONIC,
        other_kind in _OBSERVABLES,
    )
