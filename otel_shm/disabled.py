# SPDX-License-Identifier: Apache-2.0
"""A Meter that measures nothing: for a disabled SDK, an unnamed scope, a provider that was shut down.

The API's no-op instruments, with `bind` as ours have it, so that code which uses it runs on.
"""

from __future__ import annotations

from typing import Any

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.util.types import Attributes


class _Bound:
    """A bound instrument that measures nothing."""

    def __init__(self, instrument: Any) -> None:
        self.instrument = instrument

    def add(self, amount: float, context: Context | None = None) -> None:
        """Does nothing."""

    def set(self, amount: float, context: Context | None = None) -> None:
        """Does nothing."""


class _Bindable:
    def bind(self, attributes: Attributes = None) -> _Bound:
        """Returns an object that measures nothing."""
        return _Bound(self)


class DisabledCounter(_Bindable, api.NoOpCounter):
    """A Counter that measures nothing."""


class DisabledUpDownCounter(_Bindable, api.NoOpUpDownCounter):
    """An UpDownCounter that measures nothing."""


class DisabledGauge(_Bindable, api._NoOpGauge):
    """A Gauge that measures nothing."""


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

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> DisabledGauge:
        """Makes a Gauge that measures nothing."""
        super().create_gauge(name, unit, description)
        return DisabledGauge(name, unit=unit, description=description)
