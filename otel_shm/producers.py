# SPDX-License-Identifier: Apache-2.0
"""MetricProducers: metrics from elsewhere that are joined in when ours are collected."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource

_logger = logging.getLogger(__name__)


class MetricProducer(ABC):
    """A bridge to metrics that are not made with OpenTelemetry.

    Specification, metrics SDK, "MetricProducer". Given to the MeterProvider; the process that collects
    asks it at each collection, and joins what it produces with its own.
    """

    @abstractmethod
    def produce(self, timeout_millis: float = 10_000) -> Iterable[ScopeMetrics] | MetricsData:
        """The metrics now: of the provider's resource, or as MetricsData with resources of their own.

        Args:
            timeout_millis: milliseconds that are left of the collection.
        """


def produced(
    producers: Sequence[MetricProducer], resource: Resource, timeout_millis: float
) -> list[ResourceMetrics]:
    """What all of them produce. One that fails is logged, and left out."""
    everything: list[ResourceMetrics] = []
    for producer in producers:
        try:
            made = producer.produce(timeout_millis=timeout_millis)
            if isinstance(made, MetricsData):
                resources = list(made.resource_metrics)
            else:
                resources = [ResourceMetrics(resource, list(made), resource.schema_url)]
            join(resources)  # raises where something is no metrics
            everything.extend(resources)
        except Exception:
            _logger.exception("%s failed to produce metrics.", type(producer).__name__)
    return everything


def join(resource_metrics: Iterable[ResourceMetrics]) -> MetricsData | None:
    """One MetricsData with each resource, and in it each scope, once, as exporters need it.

    Returns: None where there are no metrics at all.
    """
    resources: dict[Resource, tuple[str | None, dict[object, ScopeMetrics]]] = {}
    for one in resource_metrics:
        _, scopes = resources.setdefault(one.resource, (one.schema_url, {}))
        for scope_metrics in one.scope_metrics:
            if not scope_metrics.metrics:
                continue
            known = scopes.get(scope_metrics.scope)
            metrics = [*(known.metrics if known else ()), *scope_metrics.metrics]
            scopes[scope_metrics.scope] = ScopeMetrics(
                scope=scope_metrics.scope, metrics=metrics, schema_url=scope_metrics.schema_url
            )
    joined = [
        ResourceMetrics(
            resource=resource, scope_metrics=list(scopes.values()), schema_url=schema_url or ""
        )
        for resource, (schema_url, scopes) in resources.items()
        if scopes
    ]
    return MetricsData(resource_metrics=joined) if joined else None
