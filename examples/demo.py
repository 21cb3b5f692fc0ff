# SPDX-License-Identifier: Apache-2.0
"""The demo: gunicorn workers count requests into one shared total; one of them gets killed.

It starts gunicorn with several workers (see demo_app.py) and an OTLP receiver inside this process
(see receiver.py), sends real HTTP requests, kills a worker with SIGKILL half-way, and checks that
the total which arrived over OTLP is exactly the number of requests that were answered.

    python examples/demo.py                            # otel_shm
    python examples/demo.py --compare                  # then the same load with the stock SDK
    python examples/demo.py --endpoint http://127.0.0.1:4318   # export to a real collector
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from receiver import Receiver

METRIC = "http.server.requests"
EXPORT_INTERVAL_MILLIS = 500
CLIENTS = 8  # threads that send requests
HALF_TIME_LIMIT_SECONDS = 8.0  # so that the demo ends soon on a slow machine too


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        provider: ``otel_shm`` or ``stock``.
        answered: requests answered with 200, by the pid of the worker that did.
        failed: requests without an answer, or with another one.
        killed: pid of the worker that got SIGKILL.
        total: sum over all series of what arrived last; None if nothing was read back.
        series: how many series arrived.
        exporters: how many distinct ``service.instance.id`` they came from.
    """

    provider: str
    answered: collections.Counter[int]
    failed: int
    killed: int
    total: int | float | None
    series: int
    exporters: int

    @property
    def is_exact(self) -> bool:
        """Whether all requests were answered and, as far as is known, arrived exactly once."""
        answered = self.answered.total()
        return answered > 0 and self.failed == 0 and self.total in (None, answered)


class Load:
    """Threads that send requests to the service and note who answered.

    Args:
        address: host and port of the service.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._pids: list[int] = []
        self._failures: list[str] = []
        self._stopped = False

    @property
    def sent(self) -> int:
        """Requests answered with 200 so far."""
        return len(self._pids)

    @property
    def answered(self) -> collections.Counter[int]:
        """Requests answered with 200 so far, by the pid of the worker that did."""
        return collections.Counter(self._pids)

    @property
    def failures(self) -> list[str]:
        """What went wrong with each request that was not answered with 200."""
        return list(self._failures)

    def send(self, requests: int, while_waiting: Callable[[], None]) -> None:
        """Sends requests from all threads and returns when the last one is answered.

        Args:
            requests: how many; fewer if ``HALF_TIME_LIMIT_SECONDS`` is over.
            while_waiting: called several times a second.
        """
        deadline = time.monotonic() + HALF_TIME_LIMIT_SECONDS
        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [
                # Together the shares make up exactly the number asked for.
                threads.submit(self._client, (requests + client) // CLIENTS, deadline)
                for client in range(CLIENTS)
            ]
            try:
                while wait(clients, timeout=0.1).not_done:
                    while_waiting()
            except BaseException:
                self._stopped = True  # Ctrl-C: leaving this block would wait for the clients
                raise

    def _client(self, requests: int, deadline: float) -> None:
        """Sends one request after the other, each over a connection of its own."""
        for _ in range(requests):
            if self._stopped or time.monotonic() > deadline:
                return
            connection = HTTPConnection(*self._address, timeout=20)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise HTTPException(f"status {response.status}")
                self._pids.append(int(response.headers["X-Worker-Pid"]))
            except (OSError, HTTPException) as error:
                self._failures.append(repr(error))
                time.sleep(0.05)  # a service that is down should not be hammered
            finally:
                connection.close()


class Terminal:
    """Prints a status line: refreshed in place on a terminal, once a second elsewhere."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._next_status = 0.0

    def status(self, text: str) -> None:
        """Shows how things stand."""
        if self._in_place:
            # A line that wraps could not be refreshed.
            text = text[: shutil.get_terminal_size().columns - 3]
            print(f"\r\x1b[K  {text}", end="", flush=True)
        elif time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + 1.0
            print(f"  {text}", flush=True)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\r\x1b[K{text}" if self._in_place else text, flush=True)


@contextmanager
def gunicorn(
    workers: int, preload: bool, environment: dict[str, str], log: Path
) -> Iterator[tuple[str, int]]:
    """Runs the service under gunicorn and ends it with SIGTERM.

    Args:
        workers: number of worker processes.
        preload: import the app in gunicorn's master, before it forks.
        environment: environment variables of the service, on top of our own.
        log: file that takes what gunicorn prints.

    Yields:
        Host and port of the service.
    """
    # gunicorn inherits a socket that listens already: no port has to be guessed, and requests
    # sent before the workers are up wait in its queue.
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        address = listener.getsockname()
        command = [sys.executable, "-m", "gunicorn", "demo_app:app"]
        command += [f"--bind=fd://{listener.fileno()}", f"--workers={workers}"]
        command += ["--worker-class=sync", "--timeout=60", "--graceful-timeout=5"]
        command += ["--log-level=warning", "--no-control-socket"]
        command += ["--preload"] if preload else []
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,  # python -m looks for demo_app there
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
    try:
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(options: argparse.Namespace, provider: str) -> Outcome:
    """Runs the whole story once.

    Args:
        options: the command line.
        provider: ``otel_shm`` or ``stock``.
    """
    terminal = Terminal()
    with ExitStack() as stack:
        receiver = None
        endpoint = options.endpoint
        if endpoint is None:
            receiver = stack.enter_context(Receiver(grpc=options.protocol == "grpc"))
            http = options.protocol == "http"
            endpoint = receiver.endpoint if http else receiver.grpc_endpoint
        # /dev/shm is memory; the buffer works from any other folder too.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-otel_shm", dir=memory)))
        environment = {
            "DEMO_PROVIDER": provider,
            "OTEL_SHM_PATH": str(folder / "buffer"),
            "OTEL_SERVICE_NAME": "demo",
            "OTEL_METRIC_EXPORT_INTERVAL": str(EXPORT_INTERVAL_MILLIS),
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": options.protocol,
        }
        terminal.say(f"{provider}: gunicorn with {options.workers} workers exports to {endpoint}")

        log = folder / "gunicorn.log"
        with gunicorn(options.workers, options.preload, environment, log) as address:
            load = Load(address)

            def show() -> None:
                terminal.status(f"sent {load.sent:,}{describe(receiver)}")

            load.send(options.requests // 2, while_waiting=show)
            # All requests are answered and none is under way, so what the kill must not change
            # is known exactly.
            killed = choose_victim(load.answered, receiver)
            if killed:
                os.kill(killed, signal.SIGKILL)
                terminal.say(
                    f"  SIGKILL to worker {killed} after it answered {load.answered[killed]:,}"
                )
            load.send(options.requests - options.requests // 2, while_waiting=show)

        # gunicorn has ended, so the last export has been made; it may still be under way here.
        if receiver is not None:
            receiver.wait_for(lambda: receiver.total(METRIC) == load.sent, timeout_seconds=2)
        terminal.say(f"  sent {load.sent:,}{describe(receiver)}")
        outcome = Outcome(
            provider=provider,
            answered=load.answered,
            failed=len(load.failures),
            killed=killed,
            total=receiver.total(METRIC) if receiver else None,
            series=len(receiver.latest(METRIC)) if receiver else 0,
            exporters=count_exporters(receiver) if receiver else 0,
        )
        if provider != "stock" and not outcome.is_exact:
            log_lines = log.read_text(errors="replace").splitlines()
            print(*load.failures[:3], "gunicorn printed last:", *log_lines[-12:], sep="\n")
        return outcome


def choose_victim(answered: collections.Counter[int], receiver: Receiver | None) -> int:
    """The worker to kill: the one that exports for all if there is such a one, else the busiest.

    Returns:
        A pid; 0 when no worker has answered anything.
    """
    if receiver is not None and count_exporters(receiver) == 1:
        exporter = exporting_pid(receiver)
        if exporter in answered:
            return exporter
    return max(answered, key=answered.__getitem__, default=0)


def exporting_pid(receiver: Receiver) -> int:
    """Pid of the process that made the last export; 0 when it did not tell (see demo_app.py)."""
    requests = receiver.requests
    return int(requests[-1].headers.get("x-exporter-pid", 0)) if requests else 0


def count_exporters(receiver: Receiver) -> int:
    """How many different ``service.instance.id`` the series come from."""
    series = receiver.latest(METRIC)
    return len({point.resource_attributes.get("service.instance.id") for point in series})


def describe(receiver: Receiver | None) -> str:
    """What has arrived, as the second part of the status line."""
    if receiver is None:
        return ""
    series, exporters = len(receiver.latest(METRIC)), count_exporters(receiver)
    text = f" | received total {receiver.total(METRIC):,} in {series} series from "
    if exporters != 1:
        return f"{text}{exporters} exporters"
    return f"{text}1 exporter, pid {exporting_pid(receiver) or 'unknown'}"


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Prints the table, with a column for each run."""

    def row(name: str, *cells: object) -> None:
        print(f"  {name:<32}" + "".join(f"{cell:>14}" for cell in cells))

    def received(number: float | None) -> str:
        return "not read" if number is None else f"{number:,}"

    print()
    row("", *(outcome.provider for outcome in outcomes))
    row("requests answered with 200", *(f"{o.answered.total():,}" for o in outcomes))
    row("requests failed", *(o.failed for o in outcomes))
    row("total received over OTLP", *(received(o.total) for o in outcomes))
    if outcomes[0].total is not None:
        row("series", *(o.series for o in outcomes))
        row("exporters (service.instance.id)", *(o.exporters for o in outcomes))
    row("worker processes that answered", *(len(o.answered) for o in outcomes))
    row("worker killed with SIGKILL", *(o.killed for o in outcomes))
    print()


def print_verdict(outcome: Outcome, stock: Outcome | None) -> None:
    """Prints whether the check passed, and what the stock SDK made of the same load."""
    if outcome.total is None:
        print("CHECK skipped: what the collector at --endpoint received cannot be read from here")
    elif outcome.is_exact:
        print(f"CHECK passed: every one of the {outcome.total:,} requests arrived exactly once")
    else:
        print("CHECK failed: what was received differs from what was answered")
    if stock is not None and stock.total is not None:
        print(
            f"The stock SDK under the same load, just now: {stock.series} series from "
            f"{stock.exporters} exporters, total {stock.total:,} of {stock.answered.total():,}"
        )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4, help="gunicorn workers (default: 4)")
    parser.add_argument("--requests", type=int, default=24_000, help="to send (default: 24000)")
    parser.add_argument("--preload", action="store_true", help="import the app before the fork")
    parser.add_argument("--protocol", choices=["http", "grpc"], default="http", help="of OTLP")
    parser.add_argument("--endpoint", metavar="URL", help="a real OTLP collector to export to")
    parser.add_argument("--compare", action="store_true", help="run the stock SDK as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Returns:
        Exit status: 0 when all went well, 1 when the check failed.
    """
    options = parse_options(arguments)
    # Ended by a signal or a closed terminal, it still ends gunicorn and removes the buffer.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    outcome = run(options, "otel_shm")
    stock = run(options, "stock") if options.compare else None
    print_summary([outcome, stock] if stock else [outcome])
    print_verdict(outcome, stock)
    return 0 if outcome.is_exact else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
