# SPDX-License-Identifier: Apache-2.0
"""A storm: workers are started, stopped, killed and recycled at random, and what is seen is checked."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from handover import Deltas, Kill, cumulative_faults, one_at_a_time, values_of_the_dead
from ledger import LEAVE, MEASURED, ORDER, PAUSED, RUN, WORKERS, Ledger
from processes import PATIENCE, Process, Processes, until
from storm_model import Model, Moment
from storm_sink import Seen, exports, last_exporter
from storm_workers import Weather, Witness, last_look, work

_SPAWNED = 7  # one in so many is a fresh interpreter, which takes long to start


class _Is(Enum):
    """What became of a worker."""

    RUNNING = 1
    STOPPED = 2
    LEAVING = 3
    GONE = 4


class _Worker:
    """A worker as the test sees it."""

    def __init__(self, number: int, process: Process) -> None:
        self.number = number
        self.process = process
        self.is_now = _Is.RUNNING
        self.gone_since = 0  # by the monotonic clock
        self.ended = 0  # by the wall clock
        self.goes_on_in = 0  # steps, when it is stopped


class Storm:
    """Workers, and what happens to them.

    Args:
        place: a directory on tmpfs of its own.
        processes: starts them.
        seed: decides what happens.
        lanes: of the buffer.
        crowd: most workers at a time.
    """

    def __init__(
        self, place: Path, processes: Processes, seed: int, *, lanes: int, crowd: int
    ) -> None:
        self._weather = Weather(str(place), seed, lanes)
        self._processes = processes
        self._chance = random.Random(seed)
        self._crowd = crowd
        self._ledger = Ledger(self._weather.ledger)
        self._workers: list[_Worker] = []
        self._kills: dict[int, Kill] = {}
        self._pauses = 0
        self._instances: set[str] = set()
        #: How often what happened, for people.
        self.happened: dict[str, int] = {}
        self._witness = Witness(processes.fork, self._weather)
        self._look_at(*self._witness.look())  # it is there, and has a lane, before the workers come

    def logged(self) -> str:
        """What all processes logged."""
        return self._weather.log.read_text()

    # What happens.

    def _note(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    def start(self) -> None:
        """A new worker, forked or spawned."""
        number = len(self._workers) + 1
        assert number < WORKERS
        is_spawned = number % _SPAWNED == 2
        start = self._processes.spawn if is_spawned else self._processes.fork
        process = start(work, self._weather, number, is_spawned)
        self._workers.append(_Worker(number, process))
        self._note("spawned" if is_spawned else "forked")

    def kill(self, worker: _Worker) -> None:
        """At whatever instruction it is."""
        begun = time.time_ns()
        worker.process.kill()
        self._kills[worker.process.pid] = Kill(begun, time.time_ns())
        self._gone(worker)
        self._note("killed")

    def stop(self, worker: _Worker, steps: int) -> None:
        """For so many steps it does nothing, wherever it is."""
        os.kill(worker.process.pid, signal.SIGSTOP)
        options = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        until(lambda: os.waitid(os.P_PID, worker.process.pid, options))
        worker.is_now = _Is.STOPPED
        worker.goes_on_in = steps
        self._note("stopped")

    def go_on(self, worker: _Worker) -> None:
        """It is stopped no more."""
        os.kill(worker.process.pid, signal.SIGCONT)
        worker.is_now = _Is.RUNNING

    def recycle(self, worker: _Worker) -> None:
        """It leaves in order; nobody waits for it yet."""
        self._order(worker, LEAVE)
        worker.is_now = _Is.LEAVING
        self._note("recycled")

    def _gone(self, worker: _Worker) -> None:
        worker.is_now = _Is.GONE
        worker.gone_since = time.monotonic_ns()
        worker.ended = time.time_ns()

    def _order(self, worker: _Worker, order: int) -> None:
        self._ledger.row(worker.number).words[ORDER] = order

    def _those(self, *states: _Is) -> list[_Worker]:
        return [worker for worker in self._workers if worker.is_now in states]

    def _victim(self, *states: _Is) -> _Worker | None:
        """One of those, often the one that exports."""
        candidates, wants_exporter = self._those(*states), self._chance.random() < 0.5
        if not candidates:
            return None
        chosen = self._chance.choice(candidates)
        if wants_exporter:
            pid = last_exporter(self._weather.cumulative)
            chosen = next((c for c in candidates if c.process.pid == pid), chosen)
        return chosen

    def step(self) -> None:
        """Something happens, and then nothing for a moment."""
        for worker in self._those(_Is.STOPPED):
            worker.goes_on_in -= 1
            if worker.goes_on_in <= 0:
                self.go_on(worker)
        what = self._chance.choices(
            ("start", "kill", "stop", "recycle", "nothing"), (5, 3, 2, 2, 1)
        )[0]
        running = len(self._those(_Is.RUNNING))
        if running < 2:
            what = "start"
        if what == "start" and len(self._those(*_Is)) - len(self._those(_Is.GONE)) < self._crowd:
            self.start()
        elif what == "kill" and (victim := self._victim(_Is.RUNNING, _Is.STOPPED, _Is.LEAVING)):
            self.kill(victim)
        elif what == "stop" and (victim := self._victim(_Is.RUNNING)):
            self.stop(victim, self._chance.choice((1, 2, 8)))
        elif what == "recycle" and (victim := self._victim(_Is.RUNNING)):
            self.recycle(victim)
        time.sleep(self._chance.uniform(0, 0.025))

    # What is seen.

    def _moment(self) -> Moment:
        entries = {w.number: self._ledger.entry(w.number) for w in self._workers}
        return Moment(
            entries,
            frozenset(w.number for w in self._those(_Is.RUNNING, _Is.STOPPED)),
            {w.number: w.gone_since for w in self._those(_Is.GONE)},
            frozenset(w.number for w in self._those(_Is.STOPPED)),
        )

    def _look_at(self, instance: str, points: list[Seen]) -> list[Seen]:
        self._instances.add(instance)
        return points

    def under_load(self, steps: int) -> None:
        """While things happen the witness looks: nothing that is seen is impossible."""
        before = self._moment()
        self._witness.ask()
        for _ in range(steps):
            self.step()
        points = self._look_at(*self._witness.answer())
        _nothing(Model(before, self._moment()).faults(points), "under load")
        self._note("looked")

    def quiet(self) -> None:
        """All do nothing, and what is seen is exact."""
        with self._pause(stopped=True):
            self._look_closely()
        if not self._those(_Is.STOPPED):
            size = self._weather.cumulative.stat().st_size
            until(lambda: self._weather.cumulative.stat().st_size > size)  # somebody exports

    def _look_closely(self) -> None:
        deadline = time.monotonic() + PATIENCE
        # Who answers late has its observations in a later collection.
        while faults := self._faults_of_observables():
            assert time.monotonic() < deadline, _listed(faults, "at a quiet point")
            self._note("looked again")
        self._note("quiet")

    def _faults_of_observables(self) -> list[str]:
        """Looks at a quiet point, where all else must be right at once."""
        before = self._moment()
        points = self._look_at(*self._witness.look())
        model = Model(before, self._moment())
        _nothing(model.faults(points), "at a quiet point")
        _nothing(model.quiet_faults(points), "at a quiet point")
        return list(model.quiet_faults_of_observables(points))

    @contextmanager
    def _pause(self, *, stopped: bool) -> Iterator[None]:
        """Nobody leaves any more, perhaps some are stopped, and all others have come to a pause."""
        for worker in self._those(_Is.STOPPED):
            self.go_on(worker)
        for worker in self._those(_Is.LEAVING):
            worker.process.result()
            self._gone(worker)
        while len(self._those(_Is.RUNNING)) < 3:
            self.start()
        if stopped and self._chance.random() < 0.6:
            for _ in range(self._chance.choice((1, 1, 2))):
                victim = self._victim(_Is.RUNNING)
                assert victim is not None
                self.stop(victim, self._chance.choice((1, 8)))
        self._pauses += 1
        paused = self._those(_Is.RUNNING)
        for worker in paused:
            self._order(worker, self._pauses)
        for worker in paused:
            self._wait_for_pause(worker)
        yield
        for worker in paused:
            self._order(worker, RUN)

    def _wait_for_pause(self, worker: _Worker) -> None:
        words, process = self._ledger.row(worker.number).words, worker.process
        until(lambda: words[PAUSED] == self._pauses or process.is_answered)
        if words[PAUSED] != self._pauses:
            process.result()  # which says what was wrong
            raise AssertionError(f"worker {worker.number} has left")

    # The end.

    def end(self) -> None:
        """All leave; what was exported is one stream, and nothing is left behind."""
        with self._pause(stopped=False):
            self._look_closely()
            # Nobody has anything new to observe any more; each measures once more before it leaves.
            self._witness.leave()
            before = self._moment()
            leaving = self._those(_Is.RUNNING)
            self._chance.shuffle(leaving)
            exporter = last_exporter(self._weather.cumulative)
            leaving.sort(key=lambda worker: worker.process.pid != exporter)
            for worker in leaving:
                self.recycle(worker)
                if worker.process.pid == exporter:
                    # Time to begin its last export, which will not have what the others measure yet.
                    time.sleep(self._chance.choice((0.01, 0.02, 0.03)))
                time.sleep(self._chance.choice((0, 0.005)))
            for worker in leaving:
                worker.process.result()
                self._gone(worker)
        instance, points = self._processes.fork(last_look, self._weather).result()
        self._look_at(instance, points)
        moment = self._moment()
        measured = {spec.name for spec in MEASURED}
        _nothing(Model(moment, moment).faults(points), "at the end")
        totals, deltas = exports(self._weather.cumulative), exports(self._weather.delta)
        self._instances |= {export.instance for export in totals + deltas if export.points}
        assert len(self._instances) == 1, self._instances
        _nothing(one_at_a_time(totals, self._kills), "cumulative")
        _nothing(one_at_a_time(deltas, self._kills), "delta")
        _nothing(cumulative_faults(totals, self._weather.lanes), "cumulative")
        ends = {worker.number: worker.ended for worker in self._workers}
        own = {number: ends[number] for number, entry in moment.entries.items() if entry.lane != 0}
        _nothing(values_of_the_dead(totals + deltas, own), "cumulative and delta")
        added = Deltas(deltas, totals, self._kills)
        _nothing(added.faults(), "delta")
        # The last one out has exported what is in the buffer.
        at_the_end = {point.name: point.value for point in points if ".sum." in point.name}
        exported = {point.name: point.value for point in totals[-1].points}
        if len(own) == len(
            moment.entries
        ):  # else what was observed in lane 0 counts for a little longer
            assert at_the_end.keys() <= measured
        missing = [
            f"{name}: {value}, but {exported.get(name)} was exported"
            for name, value in at_the_end.items()
            if name in measured and exported.get(name) != value
        ]
        _nothing(iter(missing), "at the end")
        _nothing(Model(before, moment).faults(totals[-1].points), "in the last export")
        _nothing(added.not_all(totals[-1].points), "delta")
        self.happened["intervals"] = len(deltas)
        self.happened["lost intervals"] = added.lost
        self.happened["exporters"] = len({export.pid for export in totals})
        assert " ERROR " not in self.logged(), self.logged()
        names = {"buffer", "ledger", "cumulative", "delta", "log"}
        assert {path.name for path in Path(self._weather.place).iterdir()} == names


def _nothing(faults: Iterator[str], where: str) -> None:
    found = list(faults)
    assert not found, _listed(found, where)


def _listed(faults: list[str], where: str) -> str:
    return f"{where}:\n" + "\n".join(faults[:20])
