# SPDX-License-Identifier: Apache-2.0
# Types of the compiled module: csrc/fast.c. To isinstance() the instruments are the API's (they are
# registered with its abstract classes), and so they are here.
from collections.abc import Callable
from typing import Any, final

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from otel_shm.buffer import Buffer
from otel_shm.description import Description

def _is_sampled(context: Context | None = None, /) -> bool: ...

class _Instrument:
    def __init__(  # in truth __new__
        self,
        owner: Buffer,
        address: int,
        described: Description,
        streams: tuple[tuple[int, Callable[[dict[str, Any]], dict[str, Any]] | None], ...],
        /,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def instrumentation_scope(self) -> InstrumentationScope: ...
    @property
    def _owner(self) -> Buffer: ...
    @property
    def _described(self) -> Description: ...
    _mode: int
    def enabled(self) -> bool: ...
    def _measure_in(
        self, streams: tuple[tuple[int, Callable[[dict[str, Any]], dict[str, Any]] | None], ...], /
    ) -> None: ...

@final
class Counter(_Instrument, metrics.Counter):
    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None: ...
    def bind(self, attributes: Attributes = None) -> BoundCounter: ...

@final
class UpDownCounter(_Instrument, metrics.UpDownCounter):
    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None: ...
    def bind(self, attributes: Attributes = None) -> BoundUpDownCounter: ...

@final
class Gauge(_Instrument, metrics._Gauge):
    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None: ...
    def bind(self, attributes: Attributes = None) -> BoundGauge: ...

@final
class Histogram(_Instrument, metrics.Histogram):
    def record(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None: ...
    def bind(self, attributes: Attributes = None) -> BoundHistogram: ...

@final
class BoundHistogram:
    @property
    def instrument(self) -> Histogram: ...
    @property
    def _series(self) -> int: ...
    def record(self, amount: float, context: Context | None = None) -> None: ...

@final
class BoundCounter:
    @property
    def instrument(self) -> Counter: ...
    @property
    def _series(self) -> int: ...
    def add(self, amount: float, context: Context | None = None) -> None: ...

@final
class BoundUpDownCounter:
    @property
    def instrument(self) -> UpDownCounter: ...
    @property
    def _series(self) -> int: ...
    def add(self, amount: float, context: Context | None = None) -> None: ...

@final
class BoundGauge:
    @property
    def instrument(self) -> Gauge: ...
    @property
    def _series(self) -> int: ...
    def set(self, amount: float, context: Context | None = None) -> None: ...
