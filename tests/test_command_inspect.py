# SPDX-License-Identifier: Apache-2.0
"""`otel-shm ls`, `rm`, `dump` and `top`: what they say of live, stale, foreign and damaged files."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buffers import SMALL
from commands import Commands, commands
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from processes import Gate, Process, Processes, processes, until

import otel_shm
from otel_shm.command import main, top
from otel_shm.inspection import Inspection

__all__ = ["commands", "processes"]  # fixtures: found by their names in this module

Capture = pytest.CaptureFixture[str]


def observe(_options: CallbackOptions) -> Iterator[Observation]:
    """Says who is asked."""
    yield Observation(os.getpid())


def serve(path: Path, ready: Path, gate: Gate | None) -> None:
    """A process of a service with one of everything; it lives until the gate opens."""
    reader = InMemoryMetricReader(
        preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}
    )
    provider = otel_shm.MeterProvider(
        [reader],
        Resource({"service.name": "shop", "odd": "\x1b[31m"}),
        buffer=otel_shm.Buffer(path, **{**SMALL, "series": 64}),
        shutdown_on_exit=False,
        views=[otel_shm.View(instrument_name="renamed", name="new.name")],
    )
    meter = provider.get_meter("scope", "1.2")
    meter.create_counter("orders", "{order}", "Orders \x1b[2J").add(
        3, {"way": "web\n", "ratio": float("nan"), "raw": b"\0\1"}
    )
    meter.create_up_down_counter("in_flight").add(2)
    meter.create_gauge("depth").set(1.5)
    meter.create_gauge("each", fold="each").set(os.getpid())
    meter.create_histogram("latency", "s").record(0.25)
    meter.create_counter("renamed").add(1)
    meter.create_observable_gauge("pid", [observe])
    reader.get_metrics_data()
    ready.touch()
    if gate is not None:
        gate.wait()


@pytest.fixture
def service(tmp_path: Path, processes: Processes) -> Iterator[tuple[Path, Process]]:
    """A live buffer and the process that measures in it; ended after the test."""
    (tmp_path / "buffers").mkdir()
    path, gate = tmp_path / "buffers" / "live", Gate()
    process = processes.fork(serve, path, tmp_path / "ready", gate)
    until((tmp_path / "ready").exists)
    yield path, process
    gate.open()


@pytest.fixture
def stale(tmp_path: Path, processes: Processes) -> Path:
    """A buffer whose process is gone."""
    (tmp_path / "buffers").mkdir(exist_ok=True)
    path = tmp_path / "buffers" / "stale"
    processes.fork(serve, path, tmp_path / "ready too", None).result()
    return path


def listed(capsys: Capture, directory: Path) -> dict[str, Any]:
    """What `ls` says, by the name of the file."""
    assert main(["ls", "--json", "--dir", str(directory)]) == 0
    return {Path(facts["path"]).name: facts for facts in json.loads(capsys.readouterr().out)}


def test_ls(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """Live and stale buffers with what there is to say; other files are none."""
    path, process = service
    (path.parent / "other").write_text("no buffer")
    (path.parent / "directory").mkdir()
    (path.parent / "link").symlink_to(path)
    private = path.parent / "otel_shm-0"
    private.mkdir(mode=0o700)
    otel_shm.Buffer(private / "mine", **SMALL)  # held by nobody, so closed at once
    found = listed(capsys, path.parent)
    assert set(found) == {"live", "stale", "mine"}
    live = found["live"]
    assert live["size"] == path.stat().st_size
    assert live["memory"] == path.stat().st_blocks * 512
    assert (live["service"], live["state"]) == ("shop", "live")
    assert (live["processes"], live["collector"]) == ([process.pid], process.pid)
    assert live["series"] == 7
    gone = found["stale"]
    assert (gone["state"], gone["processes"], gone["collector"]) == ("stale", [], 0)
    assert (found["mine"]["service"], found["mine"]["series"]) == (None, 0)

    assert main(["ls", "--dir", str(path.parent)]) == 0
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["PATH", "SIZE", "MEMORY", "SERVICE"]
    assert str(path) in first
    assert str(process.pid) in first


def test_a_buffer_of_an_earlier_boot(stale: Path, capsys: Capture) -> None:
    """A file that survived a restart of the machine says so."""
    with stale.open("r+b") as file:
        file.seek(64)  # boot_id
        file.write(b"0" * 36)
    assert listed(capsys, stale.parent)["stale"]["why"] == "it is of an earlier boot"


def test_rm(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """What is in use stays, with another status than what is no buffer; force takes it too."""
    live, _ = service
    other = live.parent / "other"
    other.write_text("no buffer")
    assert main(["rm", str(live)]) == 1
    assert capsys.readouterr().err == f"otel-shm rm: buffer '{live}' is in use\n"
    assert main(["rm", str(live), str(other), str(live.parent / "none"), str(stale)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"otel-shm rm: buffer '{live}' is in use",
        f"otel-shm rm: '{other}' is not an otel_shm buffer",
        f"otel-shm rm: buffer '{live.parent / 'none'}': No such file or directory",
    ]
    assert sorted(live.parent.iterdir()) == [live, other]
    assert main(["rm", "--force", str(live)]) == 0
    assert not live.exists()
    assert capsys.readouterr().err == ""


def test_rm_stale(service: tuple[Path, Process], stale: Path, capsys: Capture) -> None:
    """All that nobody has in use, those of other versions too; an empty private directory goes."""
    live, _ = service
    old = stale.parent / "otel_shm-0" / "old"
    old.parent.mkdir()
    old.write_bytes(b"OTEL_SHM" + (1).to_bytes(8, "little") + bytes(1000))
    assert main(["rm", "--stale", "--dir", str(stale.parent)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(old), str(stale)]
    assert sorted(stale.parent.iterdir()) == [live]


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


def test_top_once(service: tuple[Path, Process], capsys: Capture) -> None:
    """One frame with totals, processes and what overflowed."""
    path, process = service
    assert main(["top", "--once", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"1 live: {process.pid}" in text
    assert "overflowed  0 measurements" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["orders"] == ["Counter", "1", "3", "-"]
    assert lines["latency"] == ["Histogram", "1", "1", "0.25", "-"]
    assert lines["new.name"] == ["Counter", "1", "1", "-"]


def test_rates_of_top(buffer_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of the time between two frames: of sums what was added, of histograms how often."""
    clock = [100.0]
    monkeypatch.setattr(top, "monotonic", lambda: clock[0])
    provider = otel_shm.MeterProvider(buffer=buffer_path, shutdown_on_exit=False)
    meter = provider.get_meter("m")
    counter, histogram = meter.create_counter("counter"), meter.create_histogram("histogram")
    gauge = meter.create_gauge("gauge")
    view = top.View(Inspection(buffer_path))

    def rates() -> dict[str, float | None]:
        counter.add(30)
        for _ in range(10):
            histogram.record(7)
        gauge.set(clock[0])
        clock[0] += 2.0
        return {line.name: line.rate for line in view.lines()}

    assert rates() == {"counter": None, "histogram": None, "gauge": None}
    assert rates() == {"counter": 15, "histogram": 5, "gauge": None}
    assert list(rates()) == ["counter", "histogram", "gauge"]  # busiest first


def test_top_ends_with_the_buffer(stale: Path, commands: Commands) -> None:
    """It says why, and Ctrl-C is no error."""
    live = commands.start("top", "--interval=0.05", stale)
    until(lambda: is_mapped(live.pid, stale))
    stale.unlink()
    status, _, errors = live.end(None)
    assert (status, errors) == (2, f"otel-shm top: buffer '{stale}' was removed\n")


def is_mapped(pid: int, path: Path) -> bool:
    """Whether a process has a file in its memory."""
    return str(path) in Path(f"/proc/{pid}/maps").read_text()


def test_top_without_rich(stale: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install; the other commands do without."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["top", "--once", str(stale)]) == 2
    assert capsys.readouterr().err == (
        "otel-shm top: it needs rich, which comes with: pip install 'otel_shm[cli]'\n"
    )
    assert main(["dump", str(stale)]) == 0


def truncate(path: Path) -> None:
    """Cuts it off behind the header."""
    os.truncate(path, 8192)


def other_version(path: Path) -> None:
    """Makes it one of a layout to come."""
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x63")


def scribble(path: Path) -> None:
    """Makes it something else."""
    path.write_bytes(b"x" * 100_000)


def shorten(path: Path) -> None:
    """Leaves less than a header."""
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "does not have the length its header says: it is truncated or damaged"),
        (other_version, "has another version than this package's (2)"),
        (scribble, "is not an otel_shm buffer"),
        (shorten, "is shorter than a buffer's header: it is truncated, or not a buffer"),
    ],
)
def test_files_that_cannot_be_read(damage: Any, said: str, stale: Path, capsys: Capture) -> None:
    """Each is told in one line, without the advice to remove what was only looked at."""
    damage(stale)
    for command in ("dump", "top"):
        assert main([command, str(stale)]) == 2
        assert capsys.readouterr().err == f"otel-shm {command}: buffer '{stale}' {said}\n"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no/such/file", "No such file or directory"),
        ("/dev", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("/proc/self/exe", "is a symbolic link"),
        ("", "must be a non-empty str"),
    ],
)
def test_paths_that_cannot_be_read(path: str, said: str, capsys: Capture) -> None:
    """Wrong paths have their own words, in each command."""
    for command in (["dump", path], ["top", "--once", path]):
        assert main(command) == 2
        assert said in capsys.readouterr().err
    assert main(["ls", "--dir", "/no/such/directory"]) == 2
    assert capsys.readouterr().err == (
        "otel-shm ls: directory '/no/such/directory': No such file or directory\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's file needs another user")
def test_files_of_other_users(stale: Path, processes: Processes, commands: Commands) -> None:
    """They are not to be read, listed or removed; the superuser may look at anybody's."""
    for directory in (stale.parent, *stale.parent.parents[:-1]):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)

    def stranger() -> list[int]:
        os.setuid(65534)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return [
            main(["dump", str(stale)]),
            main(["rm", str(stale)]),
            main(["ls", "--dir", str(stale.parent)]),
            main(["rm", "--stale", "--dir", str(stale.parent)]),
        ]

    assert processes.fork(stranger).result() == [2, 2, 0, 0]
    assert stale.exists()
    os.chown(stale, 65534, -1)
    status, output, _ = commands.run("dump", stale)
    assert (status, "orders" in output) == (0, True)


def test_a_buffer_whose_records_are_damaged(stale: Path, capsys: Capture) -> None:
    """What can be read of it is printed."""
    content = stale.read_bytes()
    places = [found.start() for found in re.finditer(b"in_flight", content)]
    assert len(places) == 2  # of the instrument and of its stream
    with stale.open("r+b") as file:
        for at in places:
            file.seek(at - 2)
            file.write(b"\xff" * 11)
    assert main(["dump", str(stale)]) == 0
    text = capsys.readouterr().out
    assert "Counter orders" in text
    assert "UpDownCounter (unreadable)" in text
    assert main(["top", "--once", str(stale)]) == 0


def test_whatever_a_file_holds(stale: Path, processes: Processes) -> None:
    """No command is killed by it or ends with a traceback."""
    content = stale.read_bytes()
    filled = [at for at in range(16, len(content)) if content[at]]  # behind magic and version

    def look(seed: int) -> set[int]:
        chance = random.Random(seed)
        file = os.open(stale, os.O_RDWR)
        for _ in range(chance.choice([1, 5, 50])):
            os.pwrite(file, bytes([chance.randrange(256)]), chance.choice(filled))
        os.close(file)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return {
            main(["dump", "--json", str(stale)]),
            main(["top", "--once", "--series", str(stale)]),
            main(["ls", "--dir", str(stale.parent)]),
        }

    for seed in range(30):
        assert processes.fork(look, seed).result() <= {0, 2}
        stale.write_bytes(content)


def test_usage(capsys: Capture) -> None:
    """Without a command, or with nonsense, it says how it is used."""
    for arguments in (
        [],
        ["nonsense"],
        ["dump"],
        ["top", "x", "--interval=0"],
        ["export", "x", "--interval=nan"],
        ["run", "--grace=-1", "true"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "usage: otel-shm" in capsys.readouterr().err
    assert main(["rm"]) == 2
    assert "give the PATH" in capsys.readouterr().err
