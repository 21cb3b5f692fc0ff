# SPDX-License-Identifier: Apache-2.0
"""Everything that is in a buffer, in plain types: what `otel-shm dump` prints."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from google.protobuf.message import DecodeError

from otel_shm import buffer as numbers
from otel_shm import folds
from otel_shm.command.texts import KINDS
from otel_shm.errors import OtelShmError
from otel_shm.inspection import INSTRUMENT, SCOPE, STREAM, Inspection, Record
from otel_shm.metadata import instrument_from_key, scope_from_key
from otel_shm.readings import Row

AGGREGATIONS: dict[int, str] = {
    numbers.AGGREGATION_SUM: "sum",
    numbers.AGGREGATION_LAST: "last value",
    numbers.AGGREGATION_EXPLICIT: "explicit bucket histogram",
    numbers.AGGREGATION_EXPONENTIAL: "exponential histogram",
}
_UNREADABLE = (OtelShmError, DecodeError, ValueError)


def contents(inspection: Inspection) -> dict[str, Any]:
    """The whole buffer. What is damaged is left out."""
    header = inspection.header._asdict()
    statistics = asdict(header.pop("statistics"))
    return {
        "path": inspection.path,
        "header": header,
        "statistics": statistics,
        "collector": {
            "pid": inspection.collector_pid,
            "state": header.pop("collector_state") if inspection.collector_pid else "none",
        },
        "resource": _resource(inspection),
        "lanes": [lane._asdict() for lane in inspection.lanes],
        "delta_readers": [reader._asdict() for reader in inspection.delta_readers],
        "scopes": _scopes(inspection),
    }


def _resource(inspection: Inspection) -> dict[str, Any] | None:
    try:
        resource = inspection.resource
    except _UNREADABLE:
        return None
    if resource is None:
        return None
    return {"attributes": dict(resource.attributes), "schema_url": resource.schema_url}


def _scopes(inspection: Inspection) -> list[dict[str, Any]]:
    children: dict[int, list[Record]] = defaultdict(list)
    scopes = []
    for record in inspection.records():
        children[record.parent].append(record)
        if record.type == SCOPE:
            scopes.append(record)
    series = _series(inspection)
    described = []
    for record in scopes:
        try:
            scope = scope_from_key(record.key)
        except _UNREADABLE:
            continue
        described.append(
            {
                "name": scope.name,
                "version": scope.version,
                "schema_url": scope.schema_url,
                "attributes": dict(scope.attributes or {}),
                "instruments": [
                    _instrument(inspection, child, children, series)
                    for child in children[record.position]
                    if child.type == INSTRUMENT
                ],
            }
        )
    return described


def _instrument(
    inspection: Inspection,
    record: Record,
    children: dict[int, list[Record]],
    series: dict[int, list[dict[str, Any]]],
) -> dict[str, Any]:
    name, unit, description = "", "", ""
    try:
        name, unit, description = instrument_from_key(record.key)
        advised = inspection.buffer.boundaries(record.position)
    except _UNREADABLE:
        advised = []
    return {
        "name": name,
        "kind": KINDS[record.kind],
        "unit": unit,
        "description": description,
        "fold": folds.NAMES[record.fold],
        "advised_boundaries": advised,
        "streams": [
            _stream(inspection, child, series)
            for child in children[record.position]
            if child.type == STREAM and inspection.catalog.stream(child.position) is not None
        ],
    }


def _stream(
    inspection: Inspection, record: Record, series: dict[int, list[dict[str, Any]]]
) -> dict[str, Any]:
    stream = inspection.catalog.stream(record.position)
    assert stream is not None
    identity = stream.identity
    how, keep = identity.aggregated, identity.keep
    count, limit = inspection.series_of(record.position)
    return {
        **identity.metric._asdict(),
        "aggregation": AGGREGATIONS[record.aggregation],
        "fold": folds.NAMES[record.fold],
        "is_default": identity.is_default,
        "boundaries": list(how.boundaries),
        "max_size": how.max_size,
        "max_scale": how.max_scale,
        "attribute_keys": None if keep is None or keep.excludes else sorted(keep.keys),
        "excluded_attribute_keys": sorted(keep.keys) if keep and keep.excludes else None,
        "series_count": count,
        "series_limit": limit,
        "series": series[record.position],
    }


def _series(inspection: Inspection) -> dict[int, list[dict[str, Any]]]:
    """The series that were ever measured, by stream."""
    rows = inspection.scan()
    shares: dict[tuple[int, int], dict[str, Any]] = defaultdict(dict)
    for lane in range(len(inspection.lanes) + 1):
        for share in filter(_has_share, inspection.scan_lane(lane)):
            shares[share.series, share.generation][str(lane)] = _value(share)
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.start_time_unix_nano != 0:
            found[row.stream].append(
                {
                    "attributes": inspection.catalog.attributes(row.series, row.generation),
                    "start_time_unix_nano": row.start_time_unix_nano,
                    **_value(row),
                    "lanes": shares[row.series, row.generation],
                }
            )
    return found


def _has_share(row: Row) -> bool:
    if row.value is None:
        return False
    return row.aggregation == numbers.AGGREGATION_LAST or row.value != 0 or row.measurements > 0


def _value(row: Row) -> dict[str, Any]:
    """What is to be said of a row's value, by its aggregation."""
    if row.aggregation < numbers.AGGREGATION_EXPLICIT:
        return {"value": row.value}
    value: dict[str, Any] = {
        "count": row.measurements,
        "sum": row.value,
        "min": row.minimum,
        "max": row.maximum,
    }
    if row.aggregation == numbers.AGGREGATION_EXPLICIT:
        return {**value, "buckets": row.buckets}
    return {
        **value,
        "scale": row.scale,
        "zero_count": row.zero_count,
        "offset": row.offset,
        "buckets": row.buckets,
        "negative_offset": row.negative_offset,
        "negative_buckets": row.negative_buckets,
    }
