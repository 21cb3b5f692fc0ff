# SPDX-License-Identifier: Apache-2.0
"""What an instrument is, and what is done and said about input it cannot measure as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm.attributes import clean_attributes
from otel_shm.buffer import reason
from otel_shm.metadata import InstrumentIdentity

_logger = logging.getLogger(__name__)
# The SDK's own loggers and texts: what people filter and search for today.
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.instrument")
_sdk_measurement_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.measurement")

_VERBS = {"Gauge": "Set", "Histogram": "Record"}

#: What an instrument does with its measurements, as csrc/measure.h numbers it: none may become an
#: exemplar; those in a sampled span may; those that `sampled` takes; it measures nothing at all.
MODE_PLAIN, MODE_TRACE_BASED, MODE_ASK, MODE_DISABLED = range(4)

Offer = Callable[[Any, "dict[str, Any] | None", Any, "tuple[int, ...]"], None]


class Description:
    """What an instrument is, and what happens with what it cannot measure.

    The methods are called by the backend's types and by observables, never on the usual way.

    Args:
        kind: the instrument's class as messages name it, such as "Counter".
        identity: its checked name, unit and description.
        scope: of its meter.
    """

    __slots__ = (
        "_complained",
        "description",
        "instrumentation_scope",
        "kind",
        "name",
        "offer",
        "unit",
    )

    def __init__(
        self, kind: str, identity: InstrumentIdentity, scope: InstrumentationScope
    ) -> None:
        self.kind = kind
        self.name, self.unit, self.description = identity
        self.instrumentation_scope = scope
        self._complained: set[str] = set()
        #: Takes a measurement that may become an exemplar; see `sampled`.
        self.offer: Offer | None = None

    def amount_not_finite(self, amount: object) -> None:
        """Says that a measurement was ignored because of its amount."""
        _sdk_logger.warning(
            "%s amount %s is not finite on %s %s, ignoring measurement.",
            _VERBS.get(self.kind, "Add"),
            amount,
            self.kind,
            self.name,
        )

    def amount_negative(self, _amount: object) -> None:
        """Says that a negative amount was not measured by a Counter or Histogram."""
        _sdk_logger.warning(
            "%s amount must be non-negative on %s %s.",
            _VERBS.get(self.kind, "Add"),
            self.kind,
            self.name,
        )

    def clean_attributes(self, attributes: object) -> dict[str, Any]:
        """The attributes as the SDK keeps them; none where they are no mapping."""
        if not isinstance(attributes, Mapping):
            _sdk_measurement_logger.warning(
                "Invalid type '%s' for attributes. Expected a Mapping or None.", type(attributes)
            )
            return {}
        return clean_attributes(attributes)

    def attribute_dropped(self, key: str, error: object) -> None:
        """Says, once a key, that a value cannot be sent over OTLP."""
        self._complain(
            f"attribute {key!r}",
            "%s %s: attribute %r cannot be sent over OTLP and is left out: %s",
            self.kind,
            self.name,
            key,
            error,
        )

    def overflowed(self, status: int) -> None:
        """Says, once a reason, that a set of attributes has no series of its own."""
        self._complain(
            f"overflow {status}",
            "%s %s: no place for a new set of attributes: %s. Its measurements are added to the "
            "series otel.metric.overflow=true, or counted as dropped where there is not even that.",
            self.kind,
            self.name,
            reason(status),
        )

    def sampled(
        self,
        amount: Any,
        attributes: dict[str, Any] | None,
        context: Any,
        series: tuple[int, ...],
    ) -> None:
        """Takes a measurement that may become an exemplar.

        Args:
            amount, context: as the instrument was given them.
            attributes: clean.
            series: where it was added, the identity of one series a stream.
        """
        if self.offer is not None:
            try:
                self.offer(amount, attributes, context, series)
            except (
                Exception
            ):  # of a filter or a reservoir that is not ours: not the application's fault
                self._complain(
                    "exemplars", "%s %s: an exemplar was lost.", self.kind, self.name, exc_info=True
                )

    def _complain(
        self, about: str, message: str, *arguments: object, exc_info: bool = False
    ) -> None:
        """Logs once a process and instrument: a flood of attributes is no flood of log lines."""
        if about in self._complained or len(self._complained) > 100:
            return
        self._complained.add(about)
        _logger.warning(message, *arguments, exc_info=exc_info)
