# SPDX-License-Identifier: Apache-2.0
"""Exporting a buffer from outside the service: for a process that measures nothing itself.

It collects when it gets the collector lock, and then the service's own readers have nothing to export;
when it is gone they go on. It has no lane, and nothing of its own gets into the buffer: the resource is
the one that the service's first process offered.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from otel_shm.buffer import Buffer
from otel_shm.collector import Collector
from otel_shm.errors import OtelShmError
from otel_shm.exemplars import Exemplars
from otel_shm.metadata import resource_from_key, service_resource
from otel_shm.reader_settings import ReaderSettings, baselines_key

_logger = logging.getLogger(__name__)


class OutsideExporter:
    """Readers that collect a service's buffer, in a process that is not the service's.

    Args:
        buffer: attached with `Buffer.outside`.
        readers: of the SDK. They should be those that the service's processes have, in the same order:
            then deltas go on where those left off.

    Raises:
        BufferFullError: there are too many readers that want deltas.
    """

    def __init__(self, buffer: Buffer, readers: Sequence[MetricReader]) -> None:
        self._buffer = buffer
        self._readers = list(readers)
        # For a service that has none because its buffer was too full; always the same instance.
        self._own_resource = service_resource(Resource.create({}))
        self._is_agreed = False
        exemplars = Exemplars(buffer, AlwaysOffExemplarFilter())
        self._collector = Collector(buffer, self._own_resource, exemplars)
        for place, reader in enumerate(self._readers):
            settings = ReaderSettings(reader)
            settings.takes_any = True
            buffer.keep_kinds(settings.temporality.keys() - settings.delta_kinds)
            number = -1
            if settings.delta_kinds:
                number = buffer.claim_reader(baselines_key(place, reader))
            self._collector.register_reader(reader, settings, number, is_late=False)
            # The SDK's own annotation of the callback is not what it calls.
            reader._set_collect_callback(self._collect)  # type: ignore[arg-type]
            if hasattr(reader, "_set_meter_provider"):  # since 1.41: for its metrics about itself
                reader._set_meter_provider(NoOpMeterProvider())

    def acquire(self) -> bool:
        """True if this process is the one that collects. Never blocks."""
        return self._collector.acquire()

    def _collect(self, reader: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        self._agree_on_resource()
        return self._collector.collect(reader, timeout_millis)

    def _agree_on_resource(self) -> None:
        if self._is_agreed:
            return
        try:
            key = self._buffer.resource
            if key is None:
                return  # no process of the service has come yet
            self._collector.resource = resource_from_key(key)
        except (OtelShmError, DecodeError) as error:
            _logger.error("The service's resource cannot be read, so another is sent: %s", error)
        self._is_agreed = True

    def close(self, timeout_millis: float = 30_000) -> None:
        """Exports a last time, if this process may, and stops the readers.

        Args:
            timeout_millis: milliseconds for everything together.
        """
        deadline = monotonic() + timeout_millis / 1e3
        self._collector.leave()
        if not self._collector.acquire():
            self._collector.rest()  # another process collects, and goes on
        exported = True
        for reader in self._readers:
            try:
                remaining: Any = max(0.0, (deadline - monotonic()) * 1e3)
                reader.shutdown(timeout_millis=remaining)
            except Exception:
                exported = False
                _logger.exception("%s could not be shut down.", type(reader).__name__)
        # A reader does not say so when its time was over before its last collection.
        self._collector.retire(exported=exported and monotonic() < deadline)
