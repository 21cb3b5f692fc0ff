# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a provider read in memory, both backends of the instruments, a fresh global provider."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from opentelemetry import metrics as api
from opentelemetry.metrics import _internal as api_internal
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.util._once import Once
from points import measure_of
from sdk_version import SDK

import otel_shm

# A busy machine makes no test fail, nor does chance, and nothing is left in the working directory.
settings.register_profile("tests", deadline=None, database=None, derandomize=True)
# pytest --hypothesis-profile=long --timeout=0: other examples each time, and very many.
settings.register_profile(
    "long", settings.get_profile("tests"), derandomize=False, max_examples=5_000
)
settings.load_profile("tests")

# On CPython both are there, or the tests fail: nobody falls back to the slow one without asking.
BACKENDS = ["cffi"] if platform.python_implementation() == "PyPy" else ["fast", "cffi"]

TYPES = {
    name: importlib.import_module(module)
    for name, module in (("fast", "otel_shm._fast"), ("cffi", "otel_shm.cffi_instruments"))
    if name in BACKENDS
}
for _types in TYPES.values():
    for _abstract in (api, sdk):  # as otel_shm.instruments does for the backend in use
        _abstract.Counter.register(_types.Counter)
        _abstract.UpDownCounter.register(_types.UpDownCounter)
        _abstract._Gauge.register(_types.Gauge)
        _abstract.Histogram.register(_types.Histogram)


def pytest_collection_finish() -> None:
    """Garbage collections, of which some tests make many, need not look at all that pytest knows."""
    gc.collect()
    gc.freeze()


# A shell has what runs in the background ignore them; programs of the tests are asked to end with them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

if SDK < (1, 44) and hasattr(MetricReader, "_set_meter_provider"):
    # Some releases have readers measure themselves unasked; tests are of what they measure.
    MetricReader._set_meter_provider = lambda _self, _provider: None  # type: ignore[method-assign]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Has meters make the instruments of each backend in turn."""
    types = TYPES[request.param]
    for name in ("Counter", "UpDownCounter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"otel_shm.meter.{name}", getattr(types, name))
    return types


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """The reader of `provider`."""
    return InMemoryMetricReader()


Make = Callable[..., otel_shm.MeterProvider]


@pytest.fixture
def make_provider() -> Iterator[Make]:
    """Makes providers, and shuts those down that the test did not."""
    made: list[otel_shm.MeterProvider] = []

    def make(*readers: sdk.export.MetricReader, **options: object) -> otel_shm.MeterProvider:
        options.setdefault("resource", Resource({"service.name": "test"}))
        options.setdefault("shutdown_on_exit", False)
        provider = otel_shm.MeterProvider(list(readers), **options)
        made.append(provider)
        return provider

    yield make
    for provider in made:
        if not provider._is_shut_down:
            provider.shutdown()


@pytest.fixture
def provider(make_provider: Make, reader: InMemoryMetricReader) -> otel_shm.MeterProvider:
    """A provider with an anonymous buffer of its own, read by `reader`."""
    return make_provider(reader)


@pytest.fixture
def meter(provider: otel_shm.MeterProvider) -> otel_shm.Meter:
    """A meter of `provider`."""
    made = provider.get_meter("scope", "1.2", "https://schema")
    assert isinstance(made, otel_shm.Meter)
    return made


@pytest.fixture(params=["Counter", "UpDownCounter", "Gauge", "Histogram"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each synchronous instrument in turn, by the name of its class."""
    return str(request.param)


@pytest.fixture
def instrument(kind: str, meter: otel_shm.Meter) -> Any:
    """An instrument of the kind, named "i"."""
    create = {
        "Counter": meter.create_counter,
        "UpDownCounter": meter.create_up_down_counter,
        "Gauge": meter.create_gauge,
        "Histogram": meter.create_histogram,
    }
    return create[kind]("i")


@pytest.fixture
def measure(instrument: Any) -> Callable[..., None]:
    """`add`, `set` or `record`, whichever the instrument has."""
    return measure_of(instrument)


@pytest.fixture
def buffer_path(tmp_path: Path) -> Iterator[Path]:
    """Where a buffer may be made that several processes share; removed after the test."""
    path = tmp_path / "buffer"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def no_global_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which nobody has set the global meter provider yet."""
    monkeypatch.setattr(api_internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(api_internal, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(api_internal, "_PROXY_METER_PROVIDER", api_internal._ProxyMeterProvider())
    monkeypatch.delenv("OTEL_PYTHON_METER_PROVIDER", raising=False)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests decides what they see, and no package on it."""
    for name in list(os.environ):
        if name.startswith("OTEL_") and name != "OTEL_SHM_BACKEND":
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")
