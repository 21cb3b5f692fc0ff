# SPDX-License-Identifier: Apache-2.0
"""Our provider in place of the SDK's one that an OpenTelemetry configurator made.

Under `opentelemetry-instrument` a configurator sets the SDK up: the one that OTEL_PYTHON_CONFIGURATOR
names, else the first found, in whatever order the file system lists the installed packages; every other
one costs a warning in every process. A configurator of ours would be passed over on some machines and
be heard of on all of them, asked for or not. So there is none: whichever there is makes exporters,
readers, resource and views as ever, and a provider of the SDK, which then gives all of it to ours.

configurator
  ├ asks for the global provider, for metrics about spans ──→ autoconfigure.meter_provider
  │                      (SDK 1.41 and later, not always)       └ postpone(): as if none were named
  ├ sets the SDK's provider ──→ _Postponed ──→ take_over(), before anybody had an instrument of it
  ▼
pre_instrument() ──→ take_over(), if that has not happened; instrumentations are loaded only now
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry import metrics as api
from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER
from opentelemetry.metrics import _internal as api_internal
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import _internal as sdk_internal
from opentelemetry.util._once import Once

from otel_shm.provider import MeterProvider

_logger = logging.getLogger(__name__)

NAME = "otel_shm"  # of our entry points, and so what OTEL_PYTHON_METER_PROVIDER says to mean us
OTEL_CONFIG_FILE = "OTEL_CONFIG_FILE"  # the SDK has the name since 1.44 only

# Module and function of everything that sets providers up for others.
_CONFIGURING = {
    ("opentelemetry.instrumentation.auto_instrumentation._load", "_load_configurators"),
    ("opentelemetry.sdk._configuration", "_initialize_components"),
    ("opentelemetry.configuration._sdk", "configure_sdk"),
}


def is_configuring() -> bool:
    """Whether this is called, however deep, by a configurator."""
    frame = sys._getframe()
    while caller := frame.f_back:
        frame = caller
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _CONFIGURING:
            return True
    return False


def postpone() -> api.MeterProvider:
    """Has the API answer as if no provider were named, until the configurator sets one.

    Returns:
        What the API answers then: a provider whose instruments become real ones later.
    """
    api_internal._METER_PROVIDER = api_internal._PROXY_METER_PROVIDER
    api_internal._METER_PROVIDER_SET_ONCE = _Postponed(api_internal._METER_PROVIDER_SET_ONCE)
    return api_internal._PROXY_METER_PROVIDER


class _Postponed(Once):
    """Stands in for what lets the global provider be set once, until somebody really sets one."""

    def __init__(self, once: Once) -> None:
        super().__init__()
        self._once = once
        self._is_answered = False

    def do_once(self, func: Callable[[], None]) -> bool:
        """Sets a provider, and has it taken over if a configurator set it."""
        if not self._is_answered:
            self._is_answered = True  # by `postpone`, and the API is not to keep that
            return False
        self.withdraw()
        is_set = self._once.do_once(func)
        if is_set and is_configuring():
            take_over()
        return is_set

    def withdraw(self) -> None:
        """Leaves everything as if nobody had asked for a provider."""
        api_internal._METER_PROVIDER = None
        api_internal._METER_PROVIDER_SET_ONCE = self._once


def pre_instrument() -> None:
    """What `opentelemetry-instrument` calls after its configurator: an entry point."""
    if os.environ.get(OTEL_PYTHON_METER_PROVIDER) != NAME:
        return
    if isinstance(api_internal._METER_PROVIDER_SET_ONCE, _Postponed):
        api_internal._METER_PROVIDER_SET_ONCE.withdraw()
    if api_internal._METER_PROVIDER is not None:
        take_over()
    elif os.environ.get(OTEL_CONFIG_FILE):
        # A file that describes no meter provider, or disables the SDK, means no metrics. Without a
        # file the API goes on to ask `autoconfigure.meter_provider` when it needs a provider.
        api_internal._METER_PROVIDER = api_internal._PROXY_METER_PROVIDER


def take_over() -> None:
    """Puts a provider of ours in place of the global one, with all that was given to that one.

    A provider that is not the SDK's stays: who sets one means it. If ours cannot be made there are no
    metrics, since each process's own totals are not what was asked for; spans and logs go on.
    """
    stock = api_internal._METER_PROVIDER
    if isinstance(stock, MeterProvider) or not isinstance(stock, sdk.MeterProvider):
        return
    try:
        provider = _successor(stock)
    except Exception:
        _logger.exception("This process has no metrics: otel_shm cannot be set up")
        _set(api.NoOpMeterProvider())
        stock.shutdown()
    else:
        _set(provider)
        atexit.unregister(stock.shutdown)


def _successor(stock: sdk.MeterProvider) -> MeterProvider:
    """A provider of ours with the settings and the readers of one of the SDK's."""
    settings: Any = stock._sdk_config
    has_readers = hasattr(stock, "_metric_readers")  # before 1.43 they were among the settings
    readers = stock._metric_readers if has_readers else settings.metric_readers
    for reader in readers:
        # The SDK's own annotation of the callback is not what it calls.
        reader._set_collect_callback(_nothing)  # type: ignore[arg-type]
        sdk.MeterProvider._all_metric_readers.discard(reader)
    # From 1.41 on; not given, it is a function that configures nothing.
    meter_configurator = getattr(stock, "_meter_configurator", None)
    if meter_configurator is getattr(sdk_internal, "_default_meter_configurator", None):
        meter_configurator = None
    return MeterProvider(
        readers,
        settings.resource,
        settings.exemplar_filter,
        stock._atexit_handler is not None,
        settings.views,
        _meter_configurator=meter_configurator,
    )


def _nothing(*_reader: object, **_timeout: object) -> None:
    """What a reader collects that has lost its provider and may not get ours."""


def _set(provider: api.MeterProvider) -> None:
    """Makes it the global provider and that of all instruments made through the API before."""
    api_internal._METER_PROVIDER = provider
    api_internal._PROXY_METER_PROVIDER.on_set_meter_provider(provider)
