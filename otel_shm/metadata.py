# SPDX-License-Identifier: Apache-2.0
"""The resource, scopes and instruments as the key bytes of their records, and back: OTLP messages."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_shm.attributes import clean_attributes, from_entries, to_entries

# What is true of one process only, and so not of a service (semantic conventions, `process.*`).
_OF_ONE_PROCESS = frozenset(
    {
        "process.pid",
        "process.parent_pid",
        "process.vpid",
        "process.creation.time",
        "process.group_leader.pid",
        "process.session_leader.pid",
        "process.command",
        "process.command_args",
        "process.command_line",
    }
)
_INSTANCE = "service.instance.id"


def _ignore(_key: str, _error: Exception) -> None:
    """What OTLP cannot carry would not be exported either."""


def _text(value: object) -> str:
    """Any text as OTLP can carry it: a lone surrogate becomes a question mark."""
    return str(value or "").encode("utf-8", "replace").decode()


class InstrumentIdentity(NamedTuple):
    """What tells one instrument of a scope from another, besides its kind."""

    name: str
    unit: str
    description: str


def scope_key(scope: InstrumentationScope) -> bytes:
    """The key bytes of a scope: an OTLP ScopeMetrics without metrics."""
    attributes = to_entries(clean_attributes(scope.attributes or {}), _ignore)
    message = ScopeMessage(
        name=_text(scope.name), version=_text(scope.version), attributes=attributes.values
    )
    return ScopeMetrics(scope=message, schema_url=_text(scope.schema_url)).SerializeToString()


def scope_from_key(key: bytes) -> InstrumentationScope:
    """The scope behind key bytes."""
    message = ScopeMetrics.FromString(key)
    return InstrumentationScope(
        message.scope.name,
        message.scope.version or None,
        message.schema_url,
        from_entries(message.scope.attributes) or None,
    )


def instrument_key(identity: InstrumentIdentity) -> bytes:
    """The key bytes of an instrument: an OTLP Metric without data."""
    return Metric(
        name=identity.name, unit=identity.unit, description=_text(identity.description)
    ).SerializeToString()


def instrument_from_key(key: bytes) -> InstrumentIdentity:
    """The instrument behind key bytes."""
    message = Metric.FromString(key)
    return InstrumentIdentity(message.name, message.unit, message.description)


def with_instance_id(resource: Resource) -> Resource:
    """The resource with a random `service.instance.id`, the SDK's own default since 1.43."""
    attributes = {_INSTANCE: str(uuid.uuid4()), **resource.attributes}
    return Resource(attributes, resource.schema_url)


def service_resource(resource: Resource) -> Resource:
    """The resource of a whole service: without what belongs to one process, with an instance id."""
    attributes = {
        key: value for key, value in resource.attributes.items() if key not in _OF_ONE_PROCESS
    }
    return with_instance_id(Resource(attributes, resource.schema_url))


def resource_key(resource: Resource) -> bytes:
    """The key bytes of a resource: an OTLP ResourceMetrics without metrics."""
    attributes = to_entries(clean_attributes(resource.attributes), _ignore)
    message = ResourceMessage(attributes=attributes.values)
    return ResourceMetrics(
        resource=message, schema_url=_text(resource.schema_url)
    ).SerializeToString()


def resource_from_key(key: bytes) -> Resource:
    """The resource behind key bytes."""
    message = ResourceMetrics.FromString(key)
    return Resource(from_entries(message.resource.attributes), message.schema_url)
