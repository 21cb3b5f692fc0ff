# SPDX-License-Identifier: Apache-2.0
"""The MeterProvider: owns a buffer, its meters and the readers; flush, shutdown and fork."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import Any, ClassVar

from opentelemetry import metrics as api
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from otel_shm import forks, inherited_process, inherited_reader, self_metrics
from otel_shm.buffer import Buffer
from otel_shm.collector import Collector
from otel_shm.disabled import DisabledMeter
from otel_shm.environment import buffer_options
from otel_shm.errors import BufferFullError, BufferSizeError
from otel_shm.exemplars import Exemplars, filter_of
from otel_shm.exits import ExitHandler
from otel_shm.folds import FoldRules
from otel_shm.metadata import with_instance_id
from otel_shm.meter import Meter
from otel_shm.producers import MetricProducer
from otel_shm.reader_settings import ReaderSettings, baselines_key
from otel_shm.registration import Registration
from otel_shm.service import agree_on_resource
from otel_shm.views import Views

_logger = logging.getLogger(__name__)
# The SDK's own logger and texts: what people filter and search for today.
_sdk_logger = logging.getLogger("opentelemetry.sdk.metrics._internal")

_LEAVING_POLL_SECONDS = 0.005

MeterConfigurator = Callable[[InstrumentationScope], Any]


class MeterProvider(api.MeterProvider):
    """An OpenTelemetry MeterProvider whose values live in a shared slot buffer.

    Takes the arguments of `opentelemetry.sdk.metrics.MeterProvider`, in the same order.

    Args:
        metric_readers: any MetricReaders of the SDK. Each process keeps its own; one process at a
            time collects.
        resource: what the metrics are about. Default `Resource.create()`. With a named buffer the
            first process's resource stands for all, without what belongs to one process.
        exemplar_filter: which measurements may become exemplars. Default: what the environment
            variable `OTEL_METRICS_EXEMPLAR_FILTER` names, else those in a sampled span.
        shutdown_on_exit: call `shutdown` when the process exits.
        views: Views of the SDK, or `otel_shm.View`.
        buffer: a path, or a `Buffer`. Default: the environment variable `OTEL_SHM_PATH`, else an
            anonymous buffer that only forked children share.
        series, lanes, record_bytes: sizes of a new buffer, see `Buffer`. Default: the environment
            variables `OTEL_SHM_SERIES`, `OTEL_SHM_LANES`, `OTEL_SHM_RECORD_BYTES`, else `Buffer`'s.
        restart: "resume" or "reset" what was left at the path, see `Buffer`. Default: the environment
            variable `OTEL_SHM_RESTART`, else "resume".
        folds: how many processes become one value, by name of the instrument: see `otel_shm.folds`. After
            them come those of the environment variable `OTEL_SHM_FOLDS`.
        metric_producers: of other metrics, which are joined in when ours are collected.

    Raises:
        OtelShmError: the buffer cannot be used; see `otel_shm.errors`.
        ValueError: an environment variable is no number or names no exemplar filter, or an aggregation
            of a view or reader or a fold rule cannot be used.
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
        restart: str | None = None,
        folds: Mapping[str, str] | None = None,
        metric_producers: Sequence[MetricProducer] = (),
        _meter_configurator: MeterConfigurator | None = None,
    ) -> None:
        matching = Views(views)
        chosen_filter = filter_of(exemplar_filter)
        fold_rules = FoldRules(folds)
        settings = [(reader, ReaderSettings(reader)) for reader in metric_readers]
        for _, asked in settings:
            Registration.check(asked)
        self._disabled = os.environ.get(OTEL_SDK_DISABLED, "").lower().strip() == "true"
        if not isinstance(buffer, Buffer):
            path, options = buffer_options(buffer, series, lanes, record_bytes, restart)
            buffer = Buffer(path, **options)
        self.buffer = buffer
        self._resource = agree_on_resource(
            buffer, with_instance_id(Resource.create({})) if resource is None else resource
        )
        self._exemplars = Exemplars(buffer, chosen_filter)
        self._registration = Registration(buffer, matching, fold_rules, self._exemplars)
        self._collector = Collector(buffer, self._resource, self._exemplars, metric_producers)
        self._meter_configurator = _meter_configurator
        self._meters: dict[InstrumentationScope, Meter] = {}
        self._lock = threading.RLock()
        self._readers: dict[MetricReader, ReaderSettings] = {}
        self._readers_given = 0
        self._is_shut_down = False
        self._at_exit: ExitHandler | None = None
        _all_providers.add(self)
        # The streams suit all readers from the first instrument on, which may be a reader's own.
        for _, asked in settings:
            self._registration.add_reader(asked)
        for reader, asked in settings:
            self._register(reader, asked)
        if self_metrics.is_enabled() and not self._disabled:
            meter = self.get_meter(self_metrics.SCOPE)
            if isinstance(meter, Meter):
                self._collector.duration = self_metrics.observe_buffer(meter, buffer)
        if shutdown_on_exit:
            self._at_exit = ExitHandler(self.shutdown)

    def _register(
        self, reader: MetricReader, settings: ReaderSettings, *, is_late: bool = False
    ) -> None:
        with MeterProvider._registered_lock:
            if self._is_registered(reader):
                raise Exception(  # the SDK's type and text
                    f"MetricReader {reader} has been registered already in other "
                    "MeterProvider instance"
                )
            number = -1
            if settings.delta_kinds:
                number = self._claim_reader(reader)
            self._readers_given += 1
            MeterProvider._registered.add(reader)
            stock = getattr(sdk.MeterProvider, "_all_metric_readers", ())
            if hasattr(stock, "add"):
                stock.add(reader)
        self._readers = {**self._readers, reader: settings}
        self._collector.register_reader(reader, settings, number, is_late=is_late)
        # The SDK's own annotation of the callback is not what it calls.
        reader._set_collect_callback(self._collector.collect)  # type: ignore[arg-type]
        if hasattr(reader, "_set_meter_provider"):  # since 1.41: for its metrics about itself
            reader._set_meter_provider(self)

    @staticmethod
    def _is_registered(reader: MetricReader) -> bool:
        # The SDK's own register too: a reader has one provider, of whatever class.
        stock = getattr(sdk.MeterProvider, "_all_metric_readers", ())
        return reader in MeterProvider._registered or reader in stock

    def _claim_reader(self, reader: MetricReader) -> int:
        """The place of a delta reader's baselines, the same one in all processes."""
        try:
            return self.buffer.claim_reader(baselines_key(self._readers_given, reader))
        except BufferFullError as error:
            raise BufferSizeError(f"reader {reader} wants deltas, but {error}") from None

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Registers one more reader. It gets totals from the beginning, deltas from now on.

        Raises:
            ValueError: a default aggregation of it cannot be used.
        """
        if self._is_registered(metric_reader):
            _sdk_logger.warning("MetricReader '%s' has been registered already!", metric_reader)
            return
        settings = ReaderSettings(metric_reader)
        self._registration.add_reader(settings)
        for meter in list(self._meters.values()):
            meter.suit_readers()
        self._register(metric_reader, settings, is_late=True)

    def remove_metric_reader(self, metric_reader: MetricReader) -> None:
        """Shuts a reader down and forgets it. Nothing more is exported by it."""
        if metric_reader not in self._readers:
            _sdk_logger.warning("MetricReader '%s' has not been registered!", metric_reader)
            return
        settings = self._readers[metric_reader]
        self._readers = {r: s for r, s in self._readers.items() if r is not metric_reader}
        metric_reader._set_collect_callback(None)
        self._collector.forget_reader(metric_reader)
        self._registration.remove_reader(settings)
        metric_reader.shutdown()
        with MeterProvider._registered_lock:
            MeterProvider._registered.discard(metric_reader)
            stock: Any = getattr(sdk.MeterProvider, "_all_metric_readers", set())
            stock.discard(metric_reader)

    def _set_meter_configurator(self, *, meter_configurator: MeterConfigurator) -> None:
        """Decides anew which meters measure; as the SDK's provider."""
        with self._lock:
            self._meter_configurator = meter_configurator
            for scope, meter in self._meters.items():
                meter.enable(self._is_enabled(scope))

    def _is_enabled(self, scope: InstrumentationScope) -> bool:
        if self._meter_configurator is None:
            return True
        try:
            return bool(self._meter_configurator(scope).is_enabled)
        except Exception:
            _sdk_logger.exception(
                "meter configurator failed for scope '%s', using default config", scope.name
            )
            return True

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
                meter = Meter(
                    self._registration,
                    scope,
                    self._collector.register_observable,
                    is_enabled=self._is_enabled(scope),
                )
                self._meters[scope] = meter
                self._collector.catalog.register_scope(meter.record, scope)
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
        forks.notice()
        if self._is_shut_down:
            _sdk_logger.warning("shutdown can only be called once")
            return
        self._is_shut_down = True
        deadline = monotonic() + timeout_millis / 1e3
        if self._readers:
            self._wait_to_leave(deadline)
        exported = False
        try:
            errors = self._for_each_reader("shutdown", (deadline - monotonic()) * 1e3)
            # A reader does not say so when its time was over before its last collection.
            exported = not errors and monotonic() < deadline
        finally:
            self._collector.retire(exported=exported)
        if self._at_exit is not None:
            self._at_exit.cancel()
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
        for reader in list(self._readers):
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

    def _before_fork(self) -> None:
        """Who forks collects, if nobody else does: so children that come and go have nothing to export
        when they go."""
        if self._readers and not self._is_shut_down:
            self._collector.acquire()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._exemplars.after_fork()
        self._collector.after_fork(self._readers)  # which begins to answer with them
        self._registration.after_fork()
        for meter in self._meters.values():
            meter.after_fork()
        if self._at_exit is not None:
            self._at_exit.after_fork()


_all_providers: weakref.WeakSet[MeterProvider] = weakref.WeakSet()


def _before_fork() -> None:
    for provider in list(_all_providers):
        provider._before_fork()


def _after_fork_in_child() -> None:
    MeterProvider._registered_lock = threading.RLock()
    if providers := list(_all_providers):
        inherited_process.renew()  # before one of them begins to answer
    for provider in providers:
        provider._after_fork()


def _restart_readers() -> None:
    for provider in list(_all_providers):
        for reader in provider._readers:
            inherited_reader.restart(reader)


os.register_at_fork(before=_before_fork)
forks.call_in_child(_after_fork_in_child)
forks.call_if_untold(_restart_readers)
