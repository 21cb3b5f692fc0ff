# SPDX-License-Identifier: Apache-2.0
"""Containers that share a volume, each with pids of its own: the first process of each is pid 1.

They are one service: one total, one exporter at a time, and what a killed one had in flight is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from buffers import shm
from commands import told
from namespaces import VOLUME, Container, Containers, Running, containers
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from otlp_collector import Collector, Point, agent, otlp_collector
from processes import PATIENCE, Processes, processes, until

import otel_shm
from otel_shm.command import main
from otel_shm.inspection import Inspection

__all__ = ["containers", "otlp_collector", "processes", "shm"]  # fixtures: found by their names

BUFFER = VOLUME / "buffer"
INTERVAL_MILLISECONDS = 50


def serve(requests: Connection, endpoint: str | None) -> None:
    """A service's process: it counts as many as it is told, each time with one more in flight."""
    readers = []
    if endpoint is not None:
        exporter = OTLPMetricExporter(endpoint)
        readers.append(PeriodicExportingMetricReader(exporter, INTERVAL_MILLISECONDS))
    resource = Resource({"service.name": "test"})
    provider = otel_shm.MeterProvider(readers, resource, buffer=BUFFER, shutdown_on_exit=False)
    meter = provider.get_meter("m")
    hits, in_flight = meter.create_counter("hits"), meter.create_up_down_counter("in_flight")
    requests.send((os.getpid(), provider.buffer.lane))
    while count := requests.recv():
        for _ in range(count):
            hits.add(1, {"route": "/"})
        in_flight.add(1)
        requests.send(None)
    in_flight.add(-1)
    provider.shutdown()


class Service:
    """A container with one process of the service."""

    def __init__(
        self, containers: Containers, container: Container, endpoint: str | None = None
    ) -> None:
        self._requests, its_end = Pipe()
        self.running = containers.start(container, serve, its_end, endpoint)
        its_end.close()
        self.pid, self.lane = self._answer()

    def _answer(self) -> Any:
        assert self._requests.poll(PATIENCE), "the service is stuck"
        try:
            return self._requests.recv()
        except EOFError:
            self.running.result()  # tells what was raised
            raise

    def count(self, count: int) -> None:
        """Has it count, and waits until it has."""
        self._requests.send(count)
        self._answer()

    def end(self) -> None:
        """Shuts it down. It must have had one request."""
        self._requests.send(0)
        self.running.result()


def exported(points: list[Point], name: str) -> list[Point]:
    """Those of an instrument, in the order in which they were collected."""
    found = (point for point in points if point.name == name)
    return sorted(found, key=lambda point: point.time_unix_nano)


def arrived(collector: Collector, name: str, value: int) -> None:
    """Waits until a value is the last one that was collected and arrived."""
    until(lambda: [p.value for p in exported(collector.points(0), name)[-1:]] == [value])


def assert_one_exporter(points: list[Point], total: int) -> None:
    """One series from beginning to end, which never goes back, and nothing lost."""
    hits = exported(points, "hits")
    assert hits[-1].value == total
    assert [point.value for point in hits] == sorted(point.value for point in hits)
    assert len({point.time_unix_nano for point in hits}) == len(hits)
    assert len({point.start_unix_nano for point in hits}) == 1
    assert len({point.resource["service.instance.id"] for point in hits}) == 1


def seen_from_the_host(processes: Processes, path: Path) -> tuple[int, list[int]]:
    """The collector's pid, and those of the processes with a lane."""

    def look() -> tuple[int, list[int]]:
        inspection = Inspection(path)
        return inspection.collector_pid, [lane.pid for lane in inspection.lanes if lane.is_live]

    found: tuple[int, list[int]] = processes.fork(look).result()
    return found


def test_one_total_and_one_exporter(
    containers: Containers, processes: Processes, shm: Path, otlp_collector: Collector
) -> None:
    """Lanes are apart though pids are the same; who is killed is succeeded by another container."""
    services = [
        Service(containers, Container(volume=shm), otlp_collector.http_endpoint) for _ in range(3)
    ]
    assert [service.pid for service in services] == [1, 1, 1]
    assert [service.lane for service in services] == [1, 2, 3]
    for service in services:
        service.count(100)
    arrived(otlp_collector, "hits", 300)
    arrived(otlp_collector, "in_flight", 3)

    pid, pids = seen_from_the_host(processes, shm / "buffer")
    assert pids == [service.running.first for service in services]
    (collects,) = (service for service in services if service.running.first == pid)
    others = [service for service in services if service is not collects]
    collects.running.kill()
    for service in others:
        service.count(100)
    arrived(otlp_collector, "hits", 500)
    arrived(otlp_collector, "in_flight", 4)
    assert seen_from_the_host(processes, shm / "buffer")[0] in pids

    # Its lane is another container's now, which goes on with its sum and not with what was in flight.
    late = Service(containers, Container(volume=shm), otlp_collector.http_endpoint)
    assert (late.pid, late.lane) == (1, collects.lane)
    late.count(100)
    for service in (*others, late):
        service.end()
    assert_one_exporter(otlp_collector.points(0), 600)


def attached_anew() -> int:
    """The lane of a process that wants a new buffer, if nobody uses the one that is there."""
    return otel_shm.Buffer(BUFFER, restart="reset").lane


def test_commands_see_processes_of_other_containers(containers: Containers, shm: Path) -> None:
    """A buffer in use is live and is not removed; what is no pid here is not shown as one."""
    container = Container(volume=shm)
    services = [Service(containers, container) for _ in range(2)]
    for service in services:
        service.count(1)

    status, output, _ = containers.run(container, told, "ls", "--json", "--dir", VOLUME)
    (found,) = json.loads(output)
    assert (status, found["state"], found["service"]) == (0, "live", "test")
    assert found["processes"] == [-1, -1]
    status, output, _ = containers.run(container, told, "ls", "--dir", VOLUME)
    assert " ?,? " in output
    status, output, _ = containers.run(container, told, "dump", BUFFER)
    assert status == 0
    assert "processes   2 live, 2 ever" in output
    status, output, _ = containers.run(container, told, "dump", "--json", BUFFER)
    lanes = json.loads(output)["lanes"]
    assert [(lane["number"], lane["pid"], lane["is_live"]) for lane in lanes] == [
        (1, -1, True),
        (2, -1, True),
    ]
    status, output, _ = containers.run(container, told, "top", "--once", BUFFER)
    assert "2 live: ? ?" in output

    assert containers.run(container, attached_anew) == 3
    in_use = (1, "", f"otel-shm rm: buffer '{BUFFER}' is in use\n")
    assert containers.run(container, told, "rm", BUFFER) == in_use
    assert containers.run(container, told, "rm", "--stale", "--dir", VOLUME) == (0, "", "")
    for service in services:
        assert (shm / "buffer").exists()
        service.running.kill()
    status, output, _ = containers.run(container, told, "ls", "--json", "--dir", VOLUME)
    assert json.loads(output)[0]["state"] == "stale"
    removed = containers.run(container, told, "rm", "--stale", "--dir", VOLUME)
    assert removed == (0, f"{BUFFER}\n", "")
    assert list(shm.iterdir()) == []


def export(endpoint: str, said: int) -> int:
    """`otel-shm export` in this process."""
    sys.stderr = open(said, "w")  # noqa: SIM115
    os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = endpoint
    os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    return main(["export", "--wait", "--interval=0.05", str(BUFFER)])


@contextmanager
def sidecar(
    containers: Containers, container: Container, collector: Collector
) -> Iterator[tuple[Running, Callable[[], str]]]:
    """A container that exports, and what it says next."""
    reader, writer = os.pipe()
    running = containers.start(container, export, collector.http_endpoint, writer)
    os.close(writer)
    with os.fdopen(reader) as says:
        yield running, lambda: says.readline().rstrip("\n")


def test_sidecars(containers: Containers, shm: Path, otlp_collector: Collector) -> None:
    """They export containers without a network; the second one goes on when the first is killed."""
    here = f"otel-shm export: buffer '{BUFFER}' is collected by this process"
    container = Container(volume=shm)
    with (
        sidecar(containers, container, otlp_collector) as (first, first_says),
        sidecar(containers, container, otlp_collector) as (second, second_says),
    ):
        for says in (first_says, second_says):
            assert says() == f"otel-shm export: buffer '{BUFFER}' is waited for"
        services = [Service(containers, Container(volume=shm, is_alone=True)) for _ in range(2)]
        for service in services:
            service.count(100)
        arrived(otlp_collector, "hits", 200)
        if first_says() == here:
            killed, left, left_says = first, second, second_says
        else:
            killed, left, left_says = second, first, first_says
        run = ("run", f"--path={BUFFER}", "true")
        status, _, errors = containers.run(container, told, *run)
        assert status == 2
        assert "is collected by a process of another container (pid namespace) already" in errors
        killed.kill()
        said = left_says()
        assert said == here or said.endswith("by a process of another container (pid namespace)")
        services[0].running.kill()
        services[1].count(100)
        arrived(otlp_collector, "hits", 300)
        arrived(otlp_collector, "in_flight", 2)
        services[1].count(100)
        services[1].end()
        os.kill(left.first, signal.SIGTERM)
        assert left.result() == 0
    assert_one_exporter(otlp_collector.points(0), 400)


def pod(folder: Path) -> list[Point]:
    """Containers with a network in common, a collector among them. Returns: what that got."""
    collector = Collector(agent(), folder)
    try:
        with Processes() as processes:
            inside = Containers(processes)
            services = [
                Service(inside, Container(volume=VOLUME), collector.http_endpoint) for _ in range(2)
            ]
            for service in services:
                service.count(100)
            for service in services:
                service.end()
        return collector.points(2)
    finally:
        collector.stop()


def test_a_pod_with_a_network_of_its_own(containers: Containers, shm: Path, tmp_path: Path) -> None:
    """It has a loopback device only, on which its containers reach their collector."""
    agent()  # or the test is skipped
    points = containers.run(Container(volume=shm, is_alone=True), pod, tmp_path)
    assert_one_exporter(points, 200)
