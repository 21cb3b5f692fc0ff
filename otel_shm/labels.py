# SPDX-License-Identifier: Apache-2.0
"""Label schemas: metrics whose label keys are fixed when they are defined.

    requests = (
        counter_schema("http_requests_total")
        .static_label("service", "my-api")
        .require_dynamic_key("status_code")
        .build()
    )
    requests.with_labels(status_code="200").increment()

A thin face over the instruments: static and dynamic labels together are the attributes. The
instrument comes from the global meter provider when it is first used, so a schema may be built before
the provider is set; what is measured before that is dropped, as everywhere in OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from opentelemetry import metrics

from otel_shm.provider import MeterProvider

_SCOPE = "otel_shm"

Label = str | bool | int | float


class _Labelled:
    """A metric with all its labels known: one series."""

    __slots__ = ("_attributes", "_bound", "_create")

    def __init__(
        self, create: Callable[[metrics.Meter], Any], attributes: dict[str, Label]
    ) -> None:
        self._create = create
        self._attributes = attributes
        self._bound: Any = None

    def _resolve(self) -> Any:
        """The bound instrument, or None while the global provider is not ours."""
        if self._bound is None:
            provider = metrics.get_meter_provider()
            if isinstance(provider, MeterProvider):
                meter = provider.get_meter(_SCOPE)
                self._bound = self._create(meter).bind(self._attributes)
        return self._bound

    def get(self) -> int | float | None:
        """The value now, over all processes; None if nothing was measured yet."""
        bound = self._resolve()
        buffer = getattr(bound and bound.instrument, "_owner", None)  # a disabled SDK's has none
        return None if buffer is None else buffer.read(bound._series)

    def __repr__(self) -> str:
        return f"<otel_shm {type(self).__name__} {self._attributes}>"


class LabelledCounter(_Labelled):
    """A counter with all its labels known."""

    __slots__ = ()

    def increment(self, amount: int | float = 1) -> None:
        """Adds amount, which must not be negative (it is ignored and logged if it is)."""
        bound = self._bound or self._resolve()
        if bound is not None:
            bound.add(amount)


class LabelledGauge(_Labelled):
    """A gauge of whole numbers with all its labels known."""

    __slots__ = ()

    def set(self, value: int) -> None:
        """Sets the value.

        Raises:
            TypeError: value is no int; a gauge of floats is made by `gauge_schema_float`.
        """
        if not isinstance(value, int):
            raise TypeError(
                f"a gauge_schema takes int, not {type(value).__name__}: use gauge_schema_float"
            )
        bound = self._bound or self._resolve()
        if bound is not None:
            bound.set(value)


class LabelledFloatGauge(_Labelled):
    """A gauge of floats with all its labels known."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Sets the value; an int is taken as a float."""
        bound = self._bound or self._resolve()
        if bound is not None:
            bound.set(float(value))


_S = TypeVar("_S", LabelledCounter, LabelledGauge, LabelledFloatGauge)
_SERIES_KEPT = 8192  # bounded: an endless stream of labels must not eat memory


class _Family(Generic[_S]):
    """A built schema: give it the dynamic labels, get one series to measure with."""

    _kind: type[_S]

    def __init__(
        self,
        name: str,
        create: Callable[[metrics.Meter], Any],
        static: dict[str, Label],
        dynamic: frozenset[str],
    ) -> None:
        self._name = name
        self._create = create
        self._static = static
        self._dynamic = dynamic
        self._series: dict[tuple[Any, ...], _S] = {}

    def with_labels(self, **labels: Label) -> _S:
        """The series of these dynamic labels, which must be exactly the required ones.

        Raises:
            ValueError: a required key is missing or a key is unknown; the text names it.
            TypeError: a value is no str, bool, int or float.
        """
        # Types count: 1, True and 1.0 are three series, and equal to a dict.
        key = (*labels.items(), *map(type, labels.values()))
        try:
            known = self._series.get(key)
        except TypeError:  # not hashable, so no label: said below
            known = None
        if known is not None:
            return known
        self._check(labels)
        series = self._kind(self._create, {**self._static, **labels})
        if len(self._series) >= _SERIES_KEPT:
            self._series.clear()
        self._series[key] = series
        return series

    def _check(self, labels: dict[str, Label]) -> None:
        missing = ", ".join(sorted(self._dynamic - labels.keys()))
        if missing:
            raise ValueError(f"metric {self._name!r}: missing label {missing}")
        unknown = ", ".join(sorted(labels.keys() - self._dynamic))
        if unknown:
            known = ", ".join(sorted(self._dynamic)) or "none"
            raise ValueError(f"metric {self._name!r}: unknown label {unknown} (it has: {known})")
        for key, value in labels.items():
            _check_label(self._name, key, value)

    def get(self) -> int | float | None:
        """The value where there are only static labels; see `with_labels().get()`."""
        return self.with_labels().get()


class CounterFamily(_Family[LabelledCounter]):
    """Counters of one name that differ in their dynamic labels."""

    _kind = LabelledCounter

    def increment(self, amount: int | float = 1) -> None:
        """Adds amount where there are only static labels; else ValueError names what is missing."""
        self.with_labels().increment(amount)


class GaugeFamily(_Family[LabelledGauge]):
    """Gauges of whole numbers of one name that differ in their dynamic labels."""

    _kind = LabelledGauge

    def set(self, value: int) -> None:
        """Sets the value where there are only static labels; else ValueError names what is missing."""
        self.with_labels().set(value)


class FloatGaugeFamily(_Family[LabelledFloatGauge]):
    """Gauges of floats of one name that differ in their dynamic labels."""

    _kind = LabelledFloatGauge

    def set(self, value: float) -> None:
        """Sets the value where there are only static labels; else ValueError names what is missing."""
        self.with_labels().set(value)


def _check_label(metric: str, key: str, value: object) -> None:
    if not isinstance(key, str) or not key:
        raise ValueError(f"metric {metric!r}: a label key must be a non-empty str, not {key!r}")
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError(
            f"metric {metric!r}: label {key!r} must be str, bool, int or float, "
            f"not {type(value).__name__}"
        )


_F = TypeVar("_F", bound=_Family[Any])


class Schema(Generic[_F]):
    """Collects what a metric is made of; `build` makes it."""

    def __init__(self, name: str, family: type[_F], create: Callable[[metrics.Meter], Any]) -> None:
        self._name = name
        self._family = family
        self._create = create
        self._static: dict[str, Label] = {}
        self._dynamic: set[str] = set()

    def static_label(self, key: str, value: Label) -> Schema[_F]:
        """Fixes a label for all series of the metric.

        Raises:
            ValueError: the key is empty or defined already.
            TypeError: the value is no str, bool, int or float.
        """
        self._define(key)
        _check_label(self._name, key, value)
        self._static[key] = value
        return self

    def require_dynamic_key(self, key: str) -> Schema[_F]:
        """Declares a label whose value is given with each series.

        Raises:
            ValueError: the key is empty or defined already.
        """
        self._define(key)
        self._dynamic.add(key)
        return self

    def _define(self, key: str) -> None:
        _check_label(self._name, key, "")
        if key in self._static or key in self._dynamic:
            raise ValueError(f"metric {self._name!r}: label {key!r} is defined already")

    def build(self) -> _F:
        """The metric. Later changes of the schema do not touch it."""
        return self._family(self._name, self._create, dict(self._static), frozenset(self._dynamic))


def counter_schema(name: str, unit: str = "", description: str = "") -> Schema[CounterFamily]:
    """Begins a counter."""
    return Schema(name, CounterFamily, lambda meter: meter.create_counter(name, unit, description))


def gauge_schema(name: str, unit: str = "", description: str = "") -> Schema[GaugeFamily]:
    """Begins a gauge of whole numbers."""
    return Schema(name, GaugeFamily, lambda meter: meter.create_gauge(name, unit, description))


def gauge_schema_float(
    name: str, unit: str = "", description: str = ""
) -> Schema[FloatGaugeFamily]:
    """Begins a gauge of floats."""
    return Schema(name, FloatGaugeFamily, lambda meter: meter.create_gauge(name, unit, description))
