# SPDX-License-Identifier: Apache-2.0
"""Four processes count into one series; one of them is killed; the total is right."""

import os
import signal

from opentelemetry import metrics
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import otel_shm

reader = InMemoryMetricReader()  # any reader and exporter of the SDK
metrics.set_meter_provider(otel_shm.MeterProvider(metric_readers=[reader]))

meter = metrics.get_meter("shop")
orders = meter.create_counter("orders", unit="{order}", description="Orders placed")

for worker in range(4):
    if os.fork() == 0:
        for _ in range(1000):
            orders.add(1, {"channel": "web"})
        if worker == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
for _ in range(4):
    os.wait()
orders.add(1, {"channel": "phone"})

for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                print(metric.name, dict(point.attributes), point.value)
