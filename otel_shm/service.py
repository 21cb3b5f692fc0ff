# SPDX-License-Identifier: Apache-2.0
"""The service that a buffer belongs to: one resource for all its processes."""

from __future__ import annotations

import logging

from google.protobuf.message import DecodeError
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from otel_shm.buffer import Buffer
from otel_shm.errors import BufferFormatError, BufferFullError, BufferServiceError
from otel_shm.metadata import resource_from_key, resource_key, service_resource

_logger = logging.getLogger(__name__)
_UNNAMED = "unknown_service"  # what the SDK calls a service that has no name


def agree_on_resource(buffer: Buffer, resource: Resource) -> Resource:
    """The resource of all processes: a named buffer's first one; else as it was given.

    Raises:
        BufferFormatError: the one in the buffer cannot be read.
        BufferServiceError: it is of a service with another name.
    """
    offered = service_resource(resource) if buffer.path else resource
    try:
        key = buffer.claim_resource(resource_key(offered))
    except BufferFullError as error:
        _logger.warning(
            "The buffer has no room for the resource, so each process sends its own: %s", error
        )
        return offered
    if not buffer.path:
        return resource
    try:
        agreed = resource_from_key(key)
    except DecodeError as error:
        raise BufferFormatError(
            f"buffer {buffer.path!r} is damaged: its resource cannot be read: {error}"
        ) from None
    _compare_services(buffer.path, offered, agreed)
    return agreed


def _compare_services(path: str, offered: Resource, agreed: Resource) -> None:
    ours, theirs = (str(r.attributes.get(SERVICE_NAME)) for r in (offered, agreed))
    if ours == theirs:
        return
    if not any(name.startswith(_UNNAMED) for name in (ours, theirs)):
        raise BufferServiceError(
            f"buffer {path!r} belongs to service {theirs!r}, and this process is of service {ours!r}: "
            "give each service a buffer of its own"
        )
    _logger.warning(
        "Buffer %s belongs to service %r, so the metrics of this process are sent as that service's and "
        "not as %r's: name the service in all processes.",
        path,
        theirs,
        ours,
    )
