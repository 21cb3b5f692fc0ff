# SPDX-License-Identifier: Apache-2.0
"""The pre-instrument hook inside one process: what it hands over, and when it stays out of the way."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.metrics import _internal as api_internal
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from points import values
from sdk_version import SDK

import otel_shm
from otel_shm import configurator


@pytest.fixture
def asked(no_global_provider: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with no provider yet that is to use ours."""
    monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "otel_shm")


@pytest.mark.usefixtures("asked")
def test_everything_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers, resource, exemplar filter, views and meter configurator, and whether exit shuts down."""
    given: dict[str, Any] = {
        "metric_readers": [InMemoryMetricReader(), InMemoryMetricReader()],
        "resource": Resource({"a": "b"}),
        "exemplar_filter": sdk.AlwaysOnExemplarFilter(),
        "shutdown_on_exit": False,
        "views": [View(instrument_name="x", name="y")],
    }
    if SDK >= (1, 41):
        given["_meter_configurator"] = lambda _scope: None
    got: dict[str, Any] = {}

    class Witness(otel_shm.MeterProvider):
        """Remembers what it was given."""

        def __init__(
            self,
            metric_readers: Any,
            resource: Any,
            exemplar_filter: Any,
            shutdown_on_exit: Any,
            views: Any,
            **options: Any,
        ) -> None:
            got.update(
                metric_readers=metric_readers,
                resource=resource,
                exemplar_filter=exemplar_filter,
                shutdown_on_exit=shutdown_on_exit,
                views=views,
                **options,
            )
            super().__init__(shutdown_on_exit=False)

    monkeypatch.setattr(configurator, "MeterProvider", Witness)
    api.set_meter_provider(sdk.MeterProvider(**given))
    configurator.pre_instrument()
    assert got == {"_meter_configurator": None, **given}
    assert isinstance(api.get_meter_provider(), Witness)


@pytest.mark.usefixtures("asked")
def test_instruments_made_before_count_with_us() -> None:
    """Instruments of the API's placeholders, which had become the SDK's, are ours from then on."""
    # The API itself is not asked for a meter: that would make a provider.
    early = api_internal._PROXY_METER_PROVIDER.get_meter("scope").create_counter("c")
    reader = InMemoryMetricReader()
    api.set_meter_provider(sdk.MeterProvider([reader], shutdown_on_exit=False))
    configurator.pre_instrument()
    early.add(2)
    api.get_meter("scope").create_counter("c").add(3)
    assert values(reader, "c") == {"{}": 5}
    api.get_meter_provider().shutdown()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("asked")
def test_readers_end_when_ours_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would get anything from them, so their exporters are closed and their threads end."""
    monkeypatch.setenv("OTEL_SHM_PATH", "/no/such/folder/buffer")
    threads = threading.active_count()
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter())
    assert threading.active_count() == threads + 1
    api.set_meter_provider(sdk.MeterProvider([reader], shutdown_on_exit=False))
    configurator.pre_instrument()
    assert threading.active_count() == threads
    assert isinstance(api.get_meter_provider(), api.NoOpMeterProvider)


@pytest.mark.usefixtures("asked")
def test_a_foreign_provider_stays() -> None:
    """One that is neither ours nor the SDK's was set on purpose."""
    foreign = api.NoOpMeterProvider()
    api.set_meter_provider(foreign)
    configurator.pre_instrument()
    assert api.get_meter_provider() is foreign


@pytest.mark.usefixtures("asked")
def test_ours_stays(make_provider: Any) -> None:
    """Called again, for a process that is initialized twice, nothing changes."""
    ours = make_provider()
    api.set_meter_provider(ours)
    configurator.pre_instrument()
    assert api.get_meter_provider() is ours


@pytest.mark.usefixtures("asked")
def test_nobody_configures() -> None:
    """Where nothing set a provider there is nothing to take over: the API makes ours when asked."""
    configurator.pre_instrument()
    assert api_internal._METER_PROVIDER is None


def answer_as_the_api_does() -> None:
    """Has the API get its answer to a configurator's question, and try to keep it."""
    api_internal._set_meter_provider(configurator.postpone(), log=False)


@pytest.mark.usefixtures("asked")
def test_postponed_but_set_by_code() -> None:
    """A provider that the program sets itself is the program's, though a configurator had asked."""
    answer_as_the_api_does()
    assert api.get_meter_provider() is api_internal._PROXY_METER_PROVIDER
    stock = sdk.MeterProvider(shutdown_on_exit=False)
    api.set_meter_provider(stock)
    assert api.get_meter_provider() is stock


@pytest.mark.usefixtures("asked")
def test_postponed_and_never_set(caplog: pytest.LogCaptureFixture) -> None:
    """When the configurator set none, everything is as if it had not asked."""
    once = api_internal._METER_PROVIDER_SET_ONCE
    answer_as_the_api_does()
    configurator.pre_instrument()
    assert api_internal._METER_PROVIDER is None
    assert api_internal._METER_PROVIDER_SET_ONCE is once
    assert caplog.messages == []
