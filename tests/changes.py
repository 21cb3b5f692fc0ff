# SPDX-License-Identifier: Apache-2.0
"""Changes of what a provider made of a script, to see whether a comparison notices them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics.export import Buckets
from scenarios import Played
from streams import rescaled

Change = Callable[[Played], Played]


def collections(change: Callable[[int, Any], Any]) -> Change:
    """Changes the data of each collection, which are numbered."""

    def changed(played: Played) -> Played:
        return played._replace(
            collections=[
                each._replace(data=each.data and change(number, each.data))
                for number, each in enumerate(played.collections)
            ]
        )

    return changed


def scopes(change: Callable[[Any], list[Any]]) -> Change:
    """Has other scopes in place of each."""

    def resource(each: Any) -> Any:
        scopes = [new for scope in each.scope_metrics for new in change(scope)]
        return dataclasses.replace(each, scope_metrics=scopes)

    return collections(
        lambda _, data: dataclasses.replace(
            data, resource_metrics=[resource(each) for each in data.resource_metrics]
        )
    )


def metrics(change: Callable[[Any], list[Any]]) -> Change:
    """Has other metrics in place of each."""
    return scopes(
        lambda scope: [
            dataclasses.replace(
                scope, metrics=[new for metric in scope.metrics for new in change(metric)]
            )
        ]
    )


def data_with(**values: Any) -> Change:
    """Sets what the data of a metric has of these."""

    def change(metric: Any) -> list[Any]:
        own = {name: value for name, value in values.items() if hasattr(metric.data, name)}
        return [dataclasses.replace(metric, data=dataclasses.replace(metric.data, **own))]

    return metrics(change)


def points(kind: type | tuple[type, ...], change: Callable[[Any], list[Any]]) -> Change:
    """Has other points in place of each of a kind."""

    def metric(each: Any) -> list[Any]:
        data: Any = each.data
        if not isinstance(data, kind):
            return [each]
        points = [new for point in data.data_points for new in change(point)]
        return [dataclasses.replace(each, data=dataclasses.replace(data, data_points=points))]

    return metrics(metric)


def each_point(kind: type | tuple[type, ...], **change: Callable[[Any], Any]) -> Change:
    """Sets fields of each point of a kind to what is made of their values."""

    def changed(point: Any) -> list[Any]:
        values = {name: make(getattr(point, name)) for name, make in change.items()}
        return [dataclasses.replace(point, **values)]

    return points(kind, changed)


def coarser(by: int) -> Callable[[Any], list[Any]]:
    """A point of an exponential histogram at a smaller scale."""

    def change(point: Any) -> list[Any]:
        counts = enumerate(point.positive.bucket_counts, point.positive.offset)
        merged = rescaled(dict(counts), by)
        buckets = Buckets(
            min(merged), [merged.get(n, 0) for n in range(min(merged), max(merged) + 1)]
        )
        return [dataclasses.replace(point, scale=point.scale - by, positive=buckets)]

    return change
