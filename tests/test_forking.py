from __future__ import annotations

import faulthandler
import json
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from world import World

from otelbudget import BudgetExceeded, BudgetRun, RunBudget, forking
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.model.usage import Usage
from otelbudget.runs.ambient import ambient_run

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="nothing forks here")


def in_child(work: Callable[[], Any], *, at_most_s: float = 10) -> Any:
    """What *work* gives in a forked process; one that hangs is killed after a while, and its stacks are shown."""
    with tempfile.TemporaryFile() as stacks:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                faulthandler.dump_traceback_later(at_most_s, file=stacks)
                try:
                    said = work()
                except BaseException as error:  # noqa: BLE001 - shown by the parent
                    said = repr(error)
                with open(writes, "wb") as pipe:
                    pickle.dump(said, pipe)
            finally:
                os._exit(0)
        os.close(writes)
        answers, _, _ = select.select([reads], [], [], at_most_s + 1)
        if not answers:
            os.kill(child, signal.SIGKILL)
        with open(reads, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        if not answers:
            stacks.seek(0)
            pytest.fail(f"the child hung:\n{stacks.read().decode()}")
    return pickle.loads(said)


def forks(number: int, sampler: str) -> None:
    """Let a process whose threads are busy fork so often; see the program."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COV_"))}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("forks.py")), "--forks", str(number)],
        env={**clean, "OTEL_TRACES_SAMPLER": sampler},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, f"it ended with {done.returncode}:\n{done.stderr}"
    outcome = json.loads(done.stdout)
    assert not outcome["failed"], "\n".join(outcome["failed"])
    assert outcome["forks"] == number


@contextmanager
def busy(work: Callable[[], Any], threads: int = 4) -> Iterator[None]:
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    workers = [threading.Thread(target=loop) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.parametrize("sampler", ["always_off", "always_on"])
def test_children_forked_while_threads_work_go_on_and_their_accounts_are_whole(sampler: str) -> None:
    forks(10, sampler)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["always_off", "always_on"])
def test_a_hundred_children_forked_while_threads_work_go_on(sampler: str) -> None:
    forks(100, sampler)


@pytest.mark.parametrize("lock", ["_lock", "_events._lock", "_attributes._lock"])
def test_a_child_does_not_wait_for_a_thread_of_its_parent_that_wrote_to_the_runs_span(world: World, lock: str) -> None:
    with world.run(RunBudget(max_steps=10)) as run:
        held, done = threading.Event(), threading.Event()
        of_span = attrgetter(lock)(trace.get_current_span())

        def writes() -> None:
            with of_span:
                held.set()
                done.wait(20)

        def child() -> int:
            run.check()
            run.record_call(10)
            run.reserve().commit()
            run.extend(steps=10)
            for _ in range(10):
                run.record_call(10)
            return run.usage.steps

        thread = threading.Thread(target=writes)
        thread.start()
        assert held.wait(20)
        try:
            assert in_child(child, at_most_s=2) == 12
        finally:
            done.set()
            thread.join()


def test_a_child_forked_while_threads_call_models_can_call_one_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A log file that a thread is just writing to keeps its lock in the child for ever, which is Python's own matter.
    monkeypatch.setattr(logging.getLogger("otelbudget"), "disabled", True)
    world.activate()
    request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=10, max_output_tokens=None)

    def child() -> int:
        # The exporter to memory locks as well, and is the test's own: a thread may have held it.
        world.exporter._lock = threading.Lock()
        return call()

    def call() -> int:
        with world.tracer.start_as_current_span("job"):
            made = begin(request)
            assert made is not None
            made.commit(Usage(9, 5, model="demo"))
            return BudgetRun(ambient_run(world.engine)).usage.steps

    with busy(call, threads=3):
        for _ in range(5):
            assert isinstance(in_child(child), int)


def test_open_holds_stay_the_parents(world: World) -> None:
    with world.run(RunBudget(max_steps=3)) as run:
        hold = run.reserve(steps=2)

        def child() -> tuple[Any, bool, int, Any]:
            free = run.remaining()["steps"]
            return free, hold.settled, world.engine.meters.snapshot().reservations_open, hold.release()

        assert in_child(child) == (3, True, 0, False)
        assert (run.remaining()["steps"], hold.settled, run._state.account.holds) == (1, False, 1)
        hold.commit()
        assert run.usage.steps == 2


def test_what_was_used_limits_the_child_which_counts_from_zero_and_ends_nothing_of_its_parent(world: World) -> None:
    opened = world.run(RunBudget(max_steps=3), reraise=False)
    with opened as run:
        run.record_call(10)
        run.record_call(10)

        def child() -> Any:
            begins = (world.counted(), world.spent(), world.records())
            run.check()
            run.record_call(7)
            try:
                run.check()
            except BudgetExceeded as denied:
                reason = denied.reason
            opened.__exit__(None, None, None)
            counted = world.counted()
            return begins, reason, counted, world.spent(), [span.name for span in world.spans()]

        before, reason, counted, spent, spans = in_child(child)
        assert before == ({}, (0, 0, 0, 0), 0)
        assert reason == "limit"
        assert counted == {("check", "allow", ""): 1, ("check", "deny", "limit"): 1}
        assert (spent, spans) == ((7, 0, 0, 0), [])
        assert (world.spent(), world.records()) == ((20, 0, 0, 0), 2)
    (cell,) = world.engine.meters.snapshot().tenants
    assert (cell.active, {outcome for _, outcome in cell.runs}) == (0, {"completed"})


def test_the_child_says_once_that_its_budgets_are_its_own_when_it_first_spends(world: World) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    handler = Kept()
    logging.getLogger("otelbudget").addHandler(handler)
    try:

        def child() -> list[int]:
            told = [len(kept)]
            for _ in range(2):
                with world.run(RunBudget(max_steps=3)) as run:
                    run.check()
                told.append(len(kept))
            return [*told, f"process {os.getpid()} was forked and keeps its accounts in memory" in kept[0]]

        with world.run(RunBudget(max_steps=3)) as run:
            run.check()
        assert in_child(child) == [0, 1, 1, True]
        assert kept == []
    finally:
        logging.getLogger("otelbudget").removeHandler(handler)


def test_a_fork_while_another_thread_asks_on_exhausted_leaves_the_child_free_to_ask(world: World) -> None:
    asked, answer = threading.Event(), threading.Event()
    parent = os.getpid()

    def more(denial: Any, run: Any) -> bool:
        if os.getpid() == parent:
            asked.set()
            answer.wait(20)
        run.extend(steps=1)
        return True

    with world.run(RunBudget(max_steps=0, on_exhausted=more)) as run:
        asking = threading.Thread(target=run.check)
        asking.start()
        assert asked.wait(20)
        assert in_child(lambda: bool(run.check())) is True
        answer.set()
        asking.join()


def test_a_callback_that_forks_is_answered_in_both(world: World) -> None:
    said: list[Any] = []

    def more(denial: Any, run: Any) -> bool:
        run.extend(steps=1)
        said.append(in_child(lambda: bool(run.check())))
        return True

    with world.run(RunBudget(max_steps=0, on_exhausted=more)) as run:
        assert run.check()
    assert said == [True]


def test_a_lock_that_is_not_let_go_of_does_not_stop_a_fork_and_is_free_in_the_child(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "_PATIENCE_S", 0.01)
    held, done = threading.Event(), threading.Event()

    def holds() -> None:
        with world.engine.ledger.lock:
            held.set()
            done.wait(20)

    with world.run(RunBudget(max_steps=3)) as run:
        thread = threading.Thread(target=holds)
        thread.start()
        assert held.wait(20)
        assert in_child(lambda: bool(run.check())) is True
        done.set()
        thread.join()
        assert run.check()


def test_forking_with_the_lock_held_leaves_it_held_once_in_both(world: World) -> None:
    lock: Any = world.engine.ledger.lock

    def child() -> bool:
        lock.release()
        return bool(lock._is_owned())

    with lock:
        assert in_child(child) is False
        assert lock._is_owned()
    assert not lock._is_owned()
