# SPDX-License-Identifier: Apache-2.0
"""A real OTLP collector to export to, the one in the `rotel` package, and the points it got.

The collector prints what arrives as text for people and escapes nothing in it, so two things
cannot be told apart and tests leave them out: a string that imitates the lines of the print-out,
and brackets that do not pair up in a string *inside* an array or a map. A whole number is printed
the same whether it came as an int or as a double.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_SECONDS = 20.0
# A point that arrives twice arrives within this time of the first one: the collector prints
# what it gets at once, and the exporters have had their answer when the tests start to look.
SETTLE_SECONDS = 0.3
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Point:
    """One number data point as the collector got it, with what stood above it.

    `scope` is the scope's name and version with a space between them; `kind` is Sum or Gauge;
    `start_unix_nano` and `time_unix_nano` are nanoseconds since the epoch; a start of 0 means
    that none was sent.
    """

    resource: Mapping[str, Any]
    scope: str
    scope_attributes: Mapping[str, Any]
    name: str
    description: str
    unit: str
    kind: str
    monotonic: bool | None
    temporality: str | None
    attributes: Mapping[str, Any]
    value: int | float
    start_unix_nano: int
    time_unix_nano: int


class Collector:
    """The running collector process; ends with `stop`."""

    def __init__(self, agent: Path, folder: Path) -> None:
        grpc_port, http_port = _free_ports(2)
        self.grpc_endpoint = f"http://127.0.0.1:{grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{http_port}/v1/metrics"
        self._output = folder / "collector.txt"
        with self._output.open("wb") as output:
            # fmt: off
            self._process = subprocess.Popen(
                [
                    agent, "start",
                    "--pid-file", folder / "collector.pid",
                    "--log-file", folder / "collector.log",
                    "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}",
                    "--otlp-http-endpoint", f"127.0.0.1:{http_port}",
                    "--debug-log", "metrics",
                    "--debug-log-verbosity", "detailed",
                    "--exporter", "blackhole",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            # fmt: on
        try:
            for port in (grpc_port, http_port):
                self._wait_until_open(port)
        except BaseException:
            self.stop()
            raise

    def points(self, expected: int) -> list[Point]:
        """Every point that arrived so far, once there are at least `expected` of them.

        Fewer are returned if no more come in time, so that a test can say which are missing.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(self._received()) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(SETTLE_SECONDS)
        return self._received()

    def stop(self) -> None:
        """End the collector process."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _received(self) -> list[Point]:
        return list(parse(self._output.read_text(encoding="utf-8", errors="replace")))

    def _wait_until_open(self, port: int) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = self._output.read_text(errors="replace")
                    if "error while loading shared libraries" in said:
                        pytest.skip(f"the collector cannot run here: {said.strip()}")
                    raise RuntimeError(f"the collector did not start: {said}") from None
                time.sleep(0.02)


def agent() -> Path:
    """The collector's program. Skips the test if it is not installed."""
    package = importlib.util.find_spec("rotel")
    if package is None or package.origin is None:
        pytest.skip("needs the package rotel")
    return Path(package.origin).with_name("rotel-agent")


@pytest.fixture
def otlp_collector(tmp_path: Path) -> Iterator[Collector]:
    """A collector of this test's own, listening on free ports of this machine."""
    collector = Collector(agent(), tmp_path)
    yield collector
    collector.stop()


_PARTS = re.compile(
    r"""
    ^ResourceMetrics[ ]\#\d+\nResource[ ]SchemaURL:[ ].*\n
        (?:Resource[ ]attributes:\n(?P<resource>(?s:.*?))(?=^ScopeMetrics[ ]\#\d+\n))?
  | ^InstrumentationScope[ ](?P<scope>.*)\n
        (?:InstrumentationScope[ ]attributes:\n
            (?P<scope_attributes>(?s:.*?))(?=^Metric[ ]\#\d+\n))?
  | ^Metric[ ]\#\d+\nDescriptor:\n
    [ ]{5}->[ ]Name:[ ](?P<name>.*)\n
    [ ]{5}->[ ]Description:[ ](?P<description>(?s:.*?))\n
    [ ]{5}->[ ]Unit:[ ](?P<unit>.*)\n
    [ ]{5}->[ ]DataType:[ ](?P<kind>.*)\n
    (?:[ ]{5}->[ ]IsMonotonic:[ ](?P<monotonic>.*)\n)?
    (?:[ ]{5}->[ ]AggregationTemporality:[ ](?P<temporality>.*)\n)?
  | ^NumberDataPoints[ ]\#\d+\n
    (?:Data[ ]point[ ]attributes:\n(?P<attributes>(?s:.*?)))?
    ^StartTimestamp:[ ](?P<start>\d+)\n
    Timestamp:[ ](?P<time>\d+)\n
    Value:[ ](?P<value>.+)\n
    """,
    re.VERBOSE | re.MULTILINE,
)
_ATTRIBUTE = re.compile(
    r"^     -> (.*?): (?=(?:Str|Bool|Int|Double|Bytes|Slice|Map)\(|Empty$)", re.MULTILINE
)


def parse(text: str) -> Iterator[Point]:
    """The points in the collector's print-out, in the order they arrived."""
    above: dict[str, Any] = {}
    for part in _PARTS.finditer(text):
        if part["value"]:
            yield Point(
                **above,
                attributes=_attributes(part["attributes"]),
                value=_number(part["value"]),
                start_unix_nano=int(part["start"]),
                time_unix_nano=int(part["time"]),
            )
        elif part["name"]:
            above.update((key, part[key]) for key in ("name", "description", "unit", "kind"))
            above["monotonic"] = part["monotonic"] and part["monotonic"] == "true"
            above["temporality"] = part["temporality"]
        elif part["scope"]:
            above["scope"] = part["scope"]
            above["scope_attributes"] = _attributes(part["scope_attributes"])
        else:
            above["resource"] = _attributes(part["resource"])


def _attributes(text: str | None) -> dict[str, Any]:
    """`     -> key: Kind(value)` lines; a string may run over several of them."""
    # re.split with one group yields: before, key, value, key, value, ...
    _, *parts = _ATTRIBUTE.split(text or "")
    return {key: _value(value[:-1]) for key, value in zip(parts[::2], parts[1::2], strict=True)}


def _value(text: str) -> Any:
    kind, _, inside = text.partition("(")
    inside = inside[:-1]
    match kind:
        case "Empty":
            return None
        case "Bool":
            return inside == "true"
        case "Int":
            return int(inside)
        case "Double":
            return float(inside)
        case "Bytes":
            return bytes(json.loads(inside))
        case "Slice":
            return tuple(_value(item) for item in _items(inside))
        case "Map":
            pairs = (item.partition(":") for item in _items(inside))
            return {key: _value(value) for key, _, value in pairs}
        case _:
            return inside


def _items(text: str) -> Iterator[str]:
    """Split at the commas that stand in no bracket."""
    depth = start = 0
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and text.startswith(", ", at):
            yield text[start:at]
            start = at + 2
    if text:
        yield text[start:]


def _number(text: str) -> int | float:
    # A double is printed with all its digits, so only what fits may be read as an int.
    if text.lstrip("-").isdigit() and int(text) in INT64:
        return int(text)
    return float(text)


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on; all are held until the last is chosen, so they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
