# SPDX-License-Identifier: Apache-2.0
"""A Meter that measures nothing: for a disabled SDK, an unnamed scope, a provider that was shut down.

The API's no-op instruments, with what ours have beyond them, so that code which uses it runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackT
from opentelemetry.util.types import Attributes


class _Bound:
    """A bound instrument that measures nothing."""

    def __init__(self, instrument: Any) -> None:
        self.instrument = instrument

    def add(self, amount: float, context: Context | None = None) -> None:
        """Does nothing."""

    def set(self, amount: float, context: Context | None = None) -> None:
        """Does nothing."""

    def record(self, amount: float, context: Context | None = None) -> None:
        """Does nothing."""


class _Disabled:
    """What our instruments have beyond the API's."""

    def enabled(self) -> bool:
        """False: what is measured goes nowhere."""
        return False


class _Bindable(_Disabled):
    def bind(self, attributes: Attributes = None) -> _Bound:
        """Returns an object that measures nothing."""
        return _Bound(self)


class _Observed(_Disabled):
    def register_callback(self, callback: CallbackT) -> None:
        """Does nothing: the callback is never run."""

    def unregister_callback(self, callback: CallbackT) -> None:
        """Does nothing."""


class DisabledCounter(_Bindable, api.NoOpCounter):
    """A Counter that measures nothing."""


class DisabledUpDownCounter(_Bindable, api.NoOpUpDownCounter):
    """An UpDownCounter that measures nothing."""


class DisabledHistogram(_Bindable, api.NoOpHistogram):
    """A Histogram that measures nothing."""


class DisabledGauge(_Bindable, api._NoOpGauge):
    """A Gauge that measures nothing."""


class DisabledObservableCounter(_Observed, api.NoOpObservableCounter):
    """An ObservableCounter whose callbacks are not run."""


class DisabledObservableUpDownCounter(_Observed, api.NoOpObservableUpDownCounter):
    """An ObservableUpDownCounter whose callbacks are not run."""


class DisabledObservableGauge(_Observed, api.NoOpObservableGauge):
    """An ObservableGauge whose callbacks are not run."""


class DisabledMeter(api.NoOpMeter):
    """A Meter whose instruments measure nothing."""

    def create_counter(self, name: str, unit: str = "", description: str = "") -> DisabledCounter:
        """Makes a Counter that measures nothing."""
        super().create_counter(name, unit, description)  # for what it checks and logs
        return DisabledCounter(name, unit=unit, description=description)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> DisabledUpDownCounter:
        """Makes an UpDownCounter that measures nothing."""
        super().create_up_down_counter(name, unit, description)
        return DisabledUpDownCounter(name, unit=unit, description=description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> DisabledHistogram:
        """Makes a Histogram that measures nothing."""
        super().create_histogram(
            name,
            unit,
            description,
            explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
        )
        return DisabledHistogram(name, unit=unit, description=description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> DisabledGauge:
        """Makes a Gauge that measures nothing."""
        super().create_gauge(name, unit, description)
        return DisabledGauge(name, unit=unit, description=description)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> DisabledObservableCounter:
        """Makes an ObservableCounter whose callbacks are not run."""
        super().create_observable_counter(name, callbacks, unit, description)
        return DisabledObservableCounter(name, callbacks, unit=unit, description=description)

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> DisabledObservableUpDownCounter:
        """Makes an ObservableUpDownCounter whose callbacks are not run."""
        super().create_observable_up_down_counter(name, callbacks, unit, description)
        return DisabledObservableUpDownCounter(name, callbacks, unit=unit, description=description)

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> DisabledObservableGauge:
        """Makes an ObservableGauge whose callbacks are not run."""
        super().create_observable_gauge(name, callbacks, unit, description)
        return DisabledObservableGauge(name, callbacks, unit=unit, description=description)
