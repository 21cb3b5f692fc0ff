# SPDX-License-Identifier: Apache-2.0
"""The meter that measures nothing has what ours has, so code that binds runs on."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_shm import MeterProvider
from otel_shm.disabled import DisabledMeter


@pytest.mark.parametrize(
    ("make", "kind", "measure"),
    [
        ("create_counter", metrics.Counter, "add"),
        ("create_up_down_counter", metrics.UpDownCounter, "add"),
        ("create_gauge", metrics._Gauge, "set"),
    ],
)
def test_disabled_instruments_bind(
    make: str, kind: type, measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a disabled SDK each instrument measures and binds without error, and nothing arrives."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("m")
    assert isinstance(meter, DisabledMeter)
    instrument = getattr(meter, make)("i", unit="1", description="d")
    assert isinstance(instrument, kind)
    getattr(instrument, measure)(1, {"a": 1})
    bound = instrument.bind({"a": 1})
    assert bound.instrument is instrument
    getattr(bound, measure)(1)
    assert reader.get_metrics_data() is None
    provider.shutdown()


def test_disabled_meter_makes_every_instrument(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are not there yet are the API's no-op ones: a disabled SDK refuses nothing."""
    meter = DisabledMeter("m")
    with caplog.at_level(logging.WARNING):
        assert isinstance(meter.create_histogram("h"), metrics.Histogram)
        assert isinstance(meter.create_observable_counter("o"), metrics.ObservableCounter)
    assert not caplog.records
