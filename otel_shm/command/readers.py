# SPDX-License-Identifier: Apache-2.0
"""The readers of `otel-shm run` and `otel-shm export`: those that the standard variables ask for."""

from __future__ import annotations

import os

from opentelemetry import metrics
from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics.export import MetricReader

from otel_shm import autoconfigure
from otel_shm.configurator import OTEL_CONFIG_FILE
from otel_shm.errors import OtelShmError


def readers_from_environment() -> list[MetricReader]:
    """Readers and exporters, as a process of the service makes them.

    Raises:
        OtelShmError: an exporter is not known or cannot be made.
    """
    # Exporters measure themselves, and the variables would make this process one of the service.
    metrics.set_meter_provider(metrics.NoOpMeterProvider())
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return []
    if os.environ.get(OTEL_CONFIG_FILE) and not os.environ.get(OTEL_METRICS_EXPORTER):
        raise OtelShmError(
            f"{OTEL_CONFIG_FILE} is not read here: say with {OTEL_METRICS_EXPORTER} and the variables of "
            "that exporter where to export to"
        )
    try:
        return autoconfigure.readers()
    except OtelShmError:
        raise
    except Exception as error:  # of whatever exporter: a wrong endpoint, a port that is taken
        raise OtelShmError(f"an exporter cannot be made: {error}") from error
