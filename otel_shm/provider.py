# SPDX-License-Identifier: Apache-2.0
"""The MeterProvider: owns a buffer, its meters and the readers; flush, shutdown and fork."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any, ClassVar

from google.protobuf.message import DecodeError
from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.metrics.view import DefaultAggregation
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from otel_shm.buffer import Buffer
from otel_shm.collector import Collector
from otel_shm.disabled import DisabledMeter
from otel_shm.environment import buffer_options
from otel_shm.errors import BufferFormatError, BufferFullError
from otel_shm.instruments import Counter, Gauge, UpDownCounter
from otel_shm.metadata import (
    resource_from_key,
    resource_key,
    service_resource,
    with_instance_id,
)
from otel_shm.meter import Meter
from otel_shm.observable import ObservableGauge

_logger = logging.getLogger(__name__)
# The SDK's own logger and texts: what people filter and search for today.
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal")

_INSTRUMENTS = (Counter, UpDownCounter, Gauge, ObservableGauge)
_LEAVING_POLL_SECONDS = 0.005


class MeterProvider(api.MeterProvider):
    """An OpenTelemetry MeterProvider whose values live in a shared slot buffer.

    Takes the arguments of `opentelemetry.sdk.metrics.MeterProvider`, in the same order.

    Args:
        metric_readers: any MetricReaders of the SDK. Each process keeps its own; one process at a
            time collects.
        resource: what the metrics are about. Default `Resource.create()`. With a named buffer the
            first process's resource stands for all, without what belongs to one process.
        exemplar_filter: accepted; exemplars are not collected yet.
        shutdown_on_exit: call `shutdown` when the process exits.
        views: not there yet: must be empty.
        buffer: a path, or a `Buffer`. Default: the environment variable `OTEL_SHM_PATH`, else an
            anonymous buffer that only forked children share.
        series, lanes, record_bytes: sizes of a new buffer, see `Buffer`. Default: the environment
            variables `OTEL_SHM_SERIES`, `OTEL_SHM_LANES`, `OTEL_SHM_RECORD_BYTES`, else `Buffer`'s.

    Raises:
        OtelShmError: the buffer cannot be used; see `otel_shm.errors`.
        ValueError: an environment variable is no number.
        NotImplementedError: views, delta temporality or another aggregation were asked for.
        Exception: a reader is registered with another provider already.
    """

    _registered: ClassVar[weakref.WeakSet[MetricReader]] = weakref.WeakSet()
    _registered_lock = threading.RLock()

    def __init__(
        self,
        metric_readers: Sequence[MetricReader] = (),
        resource: Resource | None = None,
        exemplar_filter: sdk.ExemplarFilter | None = None,
        shutdown_on_exit: bool = True,
        views: Sequence[sdk.view.View] = (),
        *,
        buffer: str | os.PathLike[str] | Buffer | None = None,
        series: int | None = None,
        lanes: int | None = None,
        record_bytes: int | None = None,
        _meter_configurator: Callable[[InstrumentationScope], Any] | None = None,
    ) -> None:
        if views:
            raise NotImplementedError(
                "this version of otel_shm has no views yet: pass views=() or use another MeterProvider"
            )
        if _meter_configurator is not None:
            _logger.warning("This version of otel_shm has no meter configurators yet: ignored.")
        for reader in metric_readers:
            _check_supported(reader)
        self._disabled = os.environ.get(OTEL_SDK_DISABLED, "").lower().strip() == "true"
        if not isinstance(buffer, Buffer):
            path, sizes = buffer_options(buffer, series, lanes, record_bytes)
            buffer = Buffer(path, **sizes)
        self.buffer = buffer
        self._resource = self._agree_on_resource(
            with_instance_id(Resource.create({})) if resource is None else resource
        )
        self._collector = Collector(buffer, self._resource)
        self._meters: dict[InstrumentationScope, Meter] = {}
        self._lock = threading.RLock()
        self._readers: list[MetricReader] = []
        self._is_shut_down = False
        self._at_exit: Callable[[], None] | None = None
        _all_providers.add(self)
        for reader in metric_readers:
            self._register(reader)
        if shutdown_on_exit:
            self._at_exit = atexit.register(self.shutdown)

    def _agree_on_resource(self, resource: Resource) -> Resource:
        """The resource of all processes: a named buffer's first one; else as it was given."""
        offered = service_resource(resource) if self.buffer.path else resource
        try:
            key = self.buffer.claim_resource(resource_key(offered))
        except BufferFullError as error:
            _logger.warning(
                "The buffer has no room for the resource, so each process sends its own: %s", error
            )
            return offered
        if not self.buffer.path:
            return resource
        try:
            agreed = resource_from_key(key)
        except DecodeError as error:
            raise BufferFormatError(
                f"buffer {self.buffer.path!r} is damaged: its resource cannot be read: {error}"
            ) from None
        ours, theirs = (r.attributes.get(SERVICE_NAME) for r in (offered, agreed))
        if ours != theirs:
            _logger.warning(
                "Buffer %s belongs to service %r, so the metrics of this process are sent as that "
                "service's and not as %r's: give each service a buffer of its own.",
                self.buffer.path,
                theirs,
                ours,
            )
        return agreed

    def _register(self, reader: MetricReader) -> None:
        with MeterProvider._registered_lock:
            # The SDK's own register too: a reader has one provider, of whatever class.
            stock = getattr(sdk.MeterProvider, "_all_metric_readers", ())
            if reader in MeterProvider._registered or reader in stock:
                raise Exception(  # the SDK's type and text
                    f"MetricReader {reader} has been registered already in other "
                    "MeterProvider instance"
                )
            MeterProvider._registered.add(reader)
            if hasattr(stock, "add"):
                stock.add(reader)
        self._readers.append(reader)
        # The SDK's own annotation of the callback is not what it calls.
        reader._set_collect_callback(self._collector.collect)  # type: ignore[arg-type]

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter | DisabledMeter:
        """The Meter of a scope; the same object for the same scope.

        A disabled SDK, an empty name and a provider that was shut down give a meter that
        measures nothing.
        """
        if self._disabled:
            return DisabledMeter(name, version=version, schema_url=schema_url)
        if self._is_shut_down:
            _sdk_logger.warning("A shutdown `MeterProvider` can not provide a `Meter`")
            return DisabledMeter(name, version=version, schema_url=schema_url)
        if not name:
            _sdk_logger.warning("Meter name cannot be None or empty.")
            return DisabledMeter(name, version=version, schema_url=schema_url)
        scope = InstrumentationScope(name, version, schema_url, attributes)
        with self._lock:
            meter = self._meters.get(scope)
            if meter is None:
                meter = Meter(self.buffer, scope, self._collector.register_observable)
                self._meters[scope] = meter
                self._collector.register_scope(meter.record, scope)
            return meter

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Makes every reader collect and export now.

        In a process that is not the collector there is nothing to send: what it measured is in the
        buffer, and the collector sends it.

        Args:
            timeout_millis: milliseconds for all readers together.

        Raises:
            Exception: readers failed; the text names each.
        """
        errors = self._for_each_reader("force_flush", timeout_millis)
        if errors:
            raise Exception(  # the SDK's type and text
                "MeterProvider.force_flush failed because the following metric readers failed "
                f"during collect:\n{errors}"
            )
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Exports a last time, if this process may, and stops the readers. Only once.

        The process that gets the collector lock exports; if another process holds it and stays, that
        one will. If that one leaves too, this waits for it (at most the timeout), because it may have
        read the slots before this process's last updates; if it had not, there is nothing left to
        export.

        Args:
            timeout_millis: milliseconds for everything together.

        Raises:
            Exception: readers failed; the text names each.
        """
        if self._is_shut_down:
            _sdk_logger.warning("shutdown can only be called once")
            return
        self._is_shut_down = True
        deadline = monotonic() + timeout_millis / 1e3
        if self._readers:
            self._wait_to_leave(deadline)
        try:
            errors = self._for_each_reader("shutdown", (deadline - monotonic()) * 1e3)
        finally:
            self._collector.retire()
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None
        if errors:
            raise Exception(  # the SDK's type and text
                "MeterProvider.shutdown failed because the following metric readers failed during "
                f"shutdown:\n{errors}"
            )

    def _wait_to_leave(self, deadline: float) -> None:
        """Returns when what this process measured is exported, or will be: by whom, is decided."""
        before = self.buffer.last_collection
        self._collector.leave()
        while not self._collector.acquire():
            if self.buffer.collector_stays() or monotonic() >= deadline:
                return
            sleep(_LEAVING_POLL_SECONDS)
        if self.buffer.collector_exported_since(before):
            self._collector.rest()  # one that left at the same time has sent it all

    def _for_each_reader(self, method: str, timeout_millis: float) -> str:
        """Calls each reader with what is left of the time. Returns what failed, a line each."""
        deadline = monotonic() + timeout_millis / 1e3
        errors = []
        for reader in self._readers:
            if not self._collector.may_use(reader):
                continue
            try:
                remaining = (deadline - monotonic()) * 1e3
                if remaining <= 0:
                    raise sdk.MetricsTimeoutError(f"no time left for {method}")
                getattr(reader, method)(timeout_millis=remaining)
            except Exception as error:
                errors.append(f"{type(reader).__name__}: {error!r}")
        return "\n".join(errors)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._collector.after_fork(self._readers)
        for meter in self._meters.values():
            meter.after_fork()


def _check_supported(reader: MetricReader) -> None:
    """Says at once what this version cannot do for a reader."""
    for table, supported, wanted in (
        (
            "_instrument_class_temporality",
            AggregationTemporality.CUMULATIVE,
            "cumulative temporality",
        ),
        ("_instrument_class_aggregation", DefaultAggregation, "default aggregations"),
    ):
        settings = getattr(reader, table, None)
        if not isinstance(settings, dict):
            continue  # a stand-in for a reader
        for kind, setting in settings.items():
            ours = issubclass(
                kind, (sdk.Counter, sdk.UpDownCounter, sdk.ObservableGauge, sdk._Gauge)
            )
            is_gauge = issubclass(kind, (sdk.ObservableGauge, sdk._Gauge))
            if not ours or (is_gauge and wanted == "cumulative temporality"):
                continue
            if setting is not supported and not (
                isinstance(supported, type) and isinstance(setting, supported)
            ):
                raise NotImplementedError(
                    f"this version of otel_shm has {wanted} only, and {type(reader).__name__} asks "
                    f"for {setting} of {kind.__name__.lstrip('_')}"
                )


_all_providers: weakref.WeakSet[MeterProvider] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    MeterProvider._registered_lock = threading.RLock()
    for provider in list(_all_providers):
        provider._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
