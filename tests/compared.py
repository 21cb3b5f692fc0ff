# SPDX-License-Identifier: Apache-2.0
"""What became of a script with our provider, which must be the same with the SDK's."""

from __future__ import annotations

from typing import Any

from comparison import compare
from opentelemetry.sdk.metrics import view as sdk_view
from opentelemetry.sdk.metrics.export import MetricReader
from points import exact
from scenarios import RESOURCE, Played, Scenario, play, stock
from streams import Stream, streams_of_data

import otel_shm


def ours(readers: list[MetricReader], views: list[sdk_view.View]) -> otel_shm.MeterProvider:
    """Our provider."""
    return otel_shm.MeterProvider(readers, RESOURCE, shutdown_on_exit=False, views=views)


def compared(scenario: Scenario) -> Played:
    """What became of a script, which is the same with the SDK."""
    theirs, mine = play(stock, scenario), play(ours, scenario)
    differences = compare(scenario, theirs, mine)
    assert not differences, "\n".join([*differences, repr(scenario)])
    return mine


def streams(played: Played, number: int = -1) -> list[Stream]:
    """What a collection got, by default the last."""
    return streams_of_data(played.collections[number].data)


def values(played: Played, number: int = -1) -> dict[str, Any]:
    """Values by attributes of a collection, by default the last, of one instrument."""
    assert len(streams(played, number)) <= 1
    return {
        exact(attributes): getattr(point, "value", None)
        for stream in streams(played, number)
        for attributes, point in zip(stream.attributes, stream.points, strict=True)
    }
