# SPDX-License-Identifier: Apache-2.0
"""`otel-shm dump`: all series of a buffer, and each process's share in them."""

from __future__ import annotations

import json
from pathlib import Path

from inspected import Capture, service, stale
from processes import Process, processes

from otel_shm.command import main

__all__ = ["processes", "service", "stale"]  # fixtures: found by their names in this module


def test_dump_as_json(service: tuple[Path, Process], capsys: Capture) -> None:
    """Everything is there once, with the value of all lanes and each lane's share."""
    path, process = service
    assert main(["dump", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["header"]["version"] == 2
    assert found["header"]["is_of_this_boot"] is True
    assert found["statistics"]["series"] == 7
    assert found["collector"] == {"pid": process.pid, "state": "active"}
    assert found["resource"]["attributes"]["service.name"] == "shop"
    (lane,) = found["lanes"]
    assert (lane["number"], lane["pid"], lane["is_live"]) == (1, process.pid, True)
    assert lane["answers"] is True
    (scope,) = found["scopes"]
    assert (scope["name"], scope["version"]) == ("scope", "1.2")
    instruments = {each["name"]: each for each in scope["instruments"]}
    series = {
        name: one
        for name, each in instruments.items()
        for stream in each["streams"]
        for one in stream["series"]
    }
    assert instruments["orders"]["unit"] == "{order}"
    assert instruments["renamed"]["streams"][0]["name"] == "new.name"
    assert (instruments["in_flight"]["kind"], instruments["in_flight"]["fold"]) == (
        "UpDownCounter",
        "live_sum",
    )
    assert series["orders"]["attributes"] == {"ratio": "NaN", "raw": "AAE=", "way": "web\n"}
    assert (series["orders"]["value"], series["orders"]["lanes"]) == (3, {"1": {"value": 3}})
    assert (series["depth"]["value"], series["depth"]["lanes"]) == (1.5, {"0": {"value": 1.5}})
    assert (series["each"]["value"], series["each"]["lanes"]) == (
        None,
        {"1": {"value": process.pid}},
    )
    assert series["pid"]["value"] == process.pid
    latency = series["latency"]
    assert (latency["count"], latency["sum"], latency["min"], latency["max"]) == (
        1,
        0.25,
        0.25,
        0.25,
    )
    assert latency["buckets"] == [1]
    assert latency["lanes"]["1"]["count"] == 1


def test_dump_of_a_stale_buffer(stale: Path, capsys: Capture) -> None:
    """What counts for the living only is gone, and what a dead one left is still to be seen."""
    assert main(["dump", str(stale)]) == 0
    text = capsys.readouterr().out
    assert "collector   pid -, none" in text
    assert "processes   0 live, 1 ever" in text
    _, _, in_flight = text.partition("UpDownCounter in_flight, fold live_sum\n")
    assert in_flight.splitlines()[1:3] == ["      {}  0", "        lane 1: 2"]
    assert "count 1, sum 0.25, min 0.25, max 0.25" in text


def test_nothing_in_a_buffer_reaches_the_terminal(stale: Path, capsys: Capture) -> None:
    """Names, descriptions and attributes may hold anything; no control character is printed."""
    assert main(["dump", str(stale)]) == 0
    assert main(["top", "--once", "--series", str(stale)]) == 0
    text = capsys.readouterr().out
    assert "Orders \\x1b[2J" in text
    assert r'way="web\n"' in text
    assert all(line.isprintable() for line in text.splitlines())
