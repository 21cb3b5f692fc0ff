# SPDX-License-Identifier: Apache-2.0
"""Resource, scope and instrument, to their key bytes and back; one resource for all processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from points import exact, points_of

from otel_shm import MeterProvider
from otel_shm.metadata import (
    InstrumentIdentity,
    instrument_from_key,
    instrument_key,
    resource_from_key,
    resource_key,
    scope_from_key,
    scope_key,
    service_resource,
)

Make = Callable[..., MeterProvider]

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ATTRIBUTES = st.dictionaries(
    TEXT.filter(bool),
    st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.lists(TEXT).map(tuple)),
    max_size=5,
)


@given(name=TEXT, unit=TEXT, description=TEXT)
def test_instrument_round_trip(name: str, unit: str, description: str) -> None:
    """Any text; the key is an OTLP Metric without data."""
    identity = InstrumentIdentity(name, unit, description)
    key = instrument_key(identity)
    assert instrument_from_key(key) == identity
    assert Metric.FromString(key).WhichOneof("data") is None


@given(name=TEXT, version=st.none() | TEXT, schema_url=st.none() | TEXT, attributes=ATTRIBUTES)
def test_scope_round_trip(
    name: str, version: str | None, schema_url: str | None, attributes: dict[str, Any]
) -> None:
    """Any scope; for OTLP no version and an empty version are the same."""
    key = scope_key(InstrumentationScope(name, version, schema_url, attributes))
    scope = scope_from_key(key)
    assert (scope.name, scope.version or "", scope.schema_url or "") == (
        name,
        version or "",
        schema_url or "",
    )
    assert exact(dict(scope.attributes or {})) == exact(attributes)
    assert len(ScopeMetrics.FromString(key).metrics) == 0


@given(attributes=ATTRIBUTES, schema_url=TEXT)
def test_resource_round_trip(attributes: dict[str, Any], schema_url: str) -> None:
    """Any resource; the key is an OTLP ResourceMetrics without metrics."""
    key = resource_key(Resource(attributes, schema_url))
    resource = resource_from_key(key)
    assert exact(dict(resource.attributes)) == exact(attributes)
    assert resource.schema_url == schema_url
    assert len(ResourceMetrics.FromString(key).scope_metrics) == 0


def test_order_of_attributes_makes_no_other_key() -> None:
    """Two processes that build the same scope in another order mean the same scope."""
    one, two = ({"a": 1, "b": {"x": 1, "y": 2}}, {"b": {"y": 2, "x": 1}, "a": 1})
    assert scope_key(InstrumentationScope("s", attributes=one)) == scope_key(
        InstrumentationScope("s", attributes=two)
    )
    assert resource_key(Resource(one)) == resource_key(Resource(two))


def test_what_otlp_cannot_carry_costs_its_entry_only() -> None:
    """As in an export: the rest of a resource or scope stays."""
    attributes = {"a": 1, "big": 2**70, "text": "\ud800", "\ud800": 1}
    assert dict(resource_from_key(resource_key(Resource(attributes))).attributes) == {"a": 1}
    scope = scope_from_key(scope_key(InstrumentationScope("s", attributes=attributes)))
    assert dict(scope.attributes or {}) == {"a": 1}


def test_resource_of_a_service_says_nothing_of_one_process() -> None:
    """What differs between the workers is left out; what is the same for all stays."""
    of_one = {
        "process.pid": 1,
        "process.parent_pid": 1,
        "process.command": "x",
        "process.command_args": ("x",),
        "process.command_line": "x",
        "process.creation.time": "x",
    }
    of_all = {"process.runtime.name": "cpython", "host.name": "h", "service.name": "s"}
    attributes = dict(service_resource(Resource({**of_one, **of_all})).attributes)
    assert len(str(attributes.pop("service.instance.id"))) == 36
    assert attributes == of_all


def test_resource_of_a_private_buffer_is_as_given(make_provider: Make, reader: Any) -> None:
    """Nothing is added and nothing is taken away, not even what OTLP could not carry."""
    resource = Resource({"process.pid": 1, "a": ("a", "b"), "big": 2**70}, "https://schema")
    make_provider(reader, resource=resource).get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data.resource_metrics[0].resource is resource
    assert data.resource_metrics[0].schema_url == "https://schema"


def test_resource_by_default_is_the_sdks(make_provider: Make, monkeypatch: Any) -> None:
    """`Resource.create()`, from the standard environment variables."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k=v,service.name=from-env")
    reader = InMemoryMetricReader()
    make_provider(reader, resource=None).get_meter("m").create_counter("c").add(1)
    (point,) = points_of(reader.get_metrics_data())
    sent, today = dict(point.resource.attributes), dict(Resource.create().attributes)
    assert len(str(sent.pop("service.instance.id"))) == 36  # the SDK's own since 1.43
    today.pop("service.instance.id", None)
    assert sent == today
    assert sent["service.name"] == "from-env"


def test_resource_of_a_named_buffer_is_one(make_provider: Make, buffer_path: Path) -> None:
    """The first one stands for all, with an instance id, without what is of one process only."""
    given = {"service.name": "s", "process.pid": 5, "process.command_line": "x", "k": ("a", "b")}
    first = make_provider(buffer=buffer_path, resource=Resource(given, "https://schema"))
    second = make_provider(
        buffer=str(buffer_path), resource=Resource({"service.name": "s", "k": 1})
    )
    assert first.buffer is second.buffer
    assert first._resource == second._resource
    attributes = dict(first._resource.attributes)
    assert len(attributes.pop("service.instance.id")) == 36
    assert attributes == {"service.name": "s", "k": ("a", "b")}
    assert first._resource.schema_url == "https://schema"


def test_instance_id_that_was_given_stands(make_provider: Make, buffer_path: Path) -> None:
    """Who names its instance keeps the name."""
    resource = Resource({"service.instance.id": "mine"})
    provider = make_provider(buffer=buffer_path, resource=resource)
    assert provider._resource.attributes["service.instance.id"] == "mine"
