# SPDX-License-Identifier: Apache-2.0
"""From an instrument to its records in the buffer: the instrument's own and its streams'."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from otel_shm import folds
from otel_shm.buffer import HISTOGRAM, Buffer
from otel_shm.errors import BufferFullError
from otel_shm.exemplars import Exemplars
from otel_shm.metadata import InstrumentIdentity, instrument_key
from otel_shm.reader_settings import ReaderSettings
from otel_shm.streams import AttributeFilter, stream_key
from otel_shm.streams import aggregated as work_out
from otel_shm.views import StreamWish, Views

_logger = logging.getLogger(__name__)

# A delta reader needs a set of attributes for one interval only. Some intervals pass until nobody holds
# it and its slots can be used again (csrc/reuse.c); meanwhile each may have as many as the limit says.
# What is too much for one reader is put together when it collects.
_INTERVALS = 6


class Registration:
    """Makes the records of instruments and of their streams.

    Args:
        buffer: where they lie.
        views: of the provider.
        fold_rules: that the user wishes by name.
        exemplars: that the instruments' measurements may become.
    """

    def __init__(
        self, buffer: Buffer, views: Views, fold_rules: folds.FoldRules, exemplars: Exemplars
    ) -> None:
        self.buffer = buffer
        self._fold_rules = fold_rules
        self.exemplars = exemplars
        self._views = views
        self._readers: tuple[ReaderSettings, ...] = ()

    def after_fork(self) -> None:
        """In a forked child."""
        self._views.after_fork()

    def add_reader(self, settings: ReaderSettings) -> None:
        """Streams made from now on suit this reader too."""
        self.check(settings)
        self._readers = (*self._readers, settings)
        self.buffer.keep_kinds(settings.temporality.keys() - settings.delta_kinds)

    def remove_reader(self, settings: ReaderSettings) -> None:
        """Streams made from now on need not suit this reader."""
        self._readers = tuple(known for known in self._readers if known is not settings)

    @staticmethod
    def check(settings: ReaderSettings) -> None:
        """Says at once which of a reader's default aggregations cannot be used.

        Raises:
            ValueError: the text says why.
        """
        for kind, aggregation in settings.aggregation.items():
            work_out(aggregation, kind, None)

    def instrument(
        self,
        scope: int,
        kind: int,
        identity: InstrumentIdentity,
        advised: Sequence[float] | None,
        fold: str | None = None,
    ) -> int:
        """The record of an instrument; 0 if the buffer has no room for it.

        Args:
            scope: the record of its meter's scope; 0: that had no room.
            kind, identity: what it is.
            advised: boundaries, of a Histogram.
            fold: a rule that it was made with, and that its kind may have.
        """
        if not scope:
            return 0
        rule = fold or self._wished_fold(identity.name, kind)
        try:
            record = self.buffer.claim_instrument(
                scope, kind, folds.NUMBERS[rule], instrument_key(identity), advised or ()
            )
        except BufferFullError as error:
            _logger.warning("Instrument %s: its measurements are dropped: %s", identity.name, error)
            return 0
        agreed = folds.NAMES[self.buffer.record_fold(record)]
        if agreed != rule:
            _logger.warning(
                "Instrument %s: another process made it first with the fold %r, which stands, and not "
                "%r.",
                identity.name,
                agreed,
                rule,
            )
        return record

    def _wished_fold(self, name: str, kind: int) -> str:
        wish = self._fold_rules.wish(name)
        if wish is not None and wish not in folds.rules_of(kind):
            _logger.warning(
                "Instrument %s: the fold %r is not for its kind, which has: %s. Its default is used.",
                name,
                wish,
                ", ".join(folds.rules_of(kind)),
            )
            wish = None
        return wish or folds.default_of(name, kind)

    def advised(
        self, name: str, record: int, kind: int, advised: Sequence[float] | None
    ) -> tuple[float, ...] | None:
        """The boundaries that an instrument advises: those of the process that made it first."""
        wanted = None if advised is None else tuple(map(float, advised))
        if kind != HISTOGRAM or not record:
            return wanted
        agreed = tuple(self.buffer.boundaries(record)) or None
        if wanted and agreed != wanted:
            _logger.warning(
                "Histogram %s: another process made it first with the boundaries %s, which stand; "
                "those advised here are ignored: %s",
                name,
                list(agreed) if agreed else "default",
                list(wanted),
            )
        return wanted if wanted == () else agreed

    def streams(
        self, instrument: Any, kind: int, record: int, advised: Sequence[float] | None
    ) -> tuple[tuple[int, AttributeFilter | None], ...]:
        """The records of an instrument's streams, and which attributes each keeps."""
        wishes = self._views.streams(instrument, kind, advised, self._readers)
        streams = tuple(
            (self._claim(instrument, kind, record, wish), wish.identity.keep) for wish in wishes
        )
        self.exemplars.attach(instrument, [(wish.view, wish.identity) for wish in wishes])
        return streams

    def _claim(self, instrument: Any, kind: int, record: int, wish: StreamWish) -> int:
        if not record:
            return 0
        aggregation = wish.identity.aggregated.aggregation
        some_deltas = any(kind in reader.delta_kinds for reader in self._readers)
        try:
            return self.buffer.claim_stream(
                record,
                aggregation,
                folds.of_stream(self.buffer.record_fold(record), kind, aggregation),
                stream_key(wish.identity),
                wish.limit * (_INTERVALS if some_deltas else 1),
            )
        except BufferFullError as error:
            _logger.warning(
                "Instrument %s: its measurements are dropped: %s", instrument.name, error
            )
            return 0
