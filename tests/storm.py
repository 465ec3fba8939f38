"""The program of `test_storm`: signals and finalizers come at any moment while several threads spend; does it add up?

    python tests/storm.py --seconds 10 --seed 1 [--loop MODULE:NAME] [--calm]

Every call charges the same: one step, 80 + 20 tokens and what those cost; so whatever is charged in part shows at any
level. Prints one JSON object: what does not add up, and how much was done. Only the public API is used.

Allowed to be lost are events, and a hold whose caller never got the reservation, until it expires; so is the share of a
carved child that was interrupted while it was left, as it is still open.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import faulthandler
import gc
import importlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, Final

# Before anything of the package is imported: holds that nobody has any more expire after a minute of this clock.
_real_ns = time.monotonic_ns
_passed_ns = 0
time.monotonic_ns = lambda: _real_ns() + _passed_ns

from prometheus_client import CollectorRegistry  # noqa: E402

import otelbudget  # noqa: E402
from otelbudget import BudgetExceeded, BudgetManager, BudgetRun, QuotaService, Usage  # noqa: E402
from otelbudget.runs.reservation import Reservation  # noqa: E402

#: Nothing ends within a test: windows neither begin nor end, and no limit is reached but that of `small`.
BUDGETS: Final = """
default_budget: {max_tokens: 1B, max_steps: 1B, max_tool_calls: 1B, max_cost_usd: $1M}
budgets: {small: {max_tokens: 250, max_tool_calls: 2}}
prices: {demo-small: {input: $1, output: $2}}
tenants: {acme: {org: globex}}
quotas:
  org: [&all {tokens: 1000B, input_tokens: 1000B, steps: 1B, cost_usd: $1M, tool_calls: 1B, per: lifetime}]
  default:
    - {tokens: 1000B, input_tokens: 1000B, steps: 1B, cost_usd: $1M, tool_calls: 1B, per: lifetime}
    - {tokens: 1000B, input_tokens: 1000B, steps: 1B, cost_usd: $1M, tool_calls: 1B, per: rolling 24h}
  users: {"*": [{tokens: 1000B, input_tokens: 1000B, steps: 1B, cost_usd: $1M, tool_calls: 1B, per: lifetime}]}
""".replace("&all ", "")
LIMIT: Final = 10**9
USERS: Final = ("ann", "bob")
TOKENS: Final = 100
COST_USD: Final = Decimal("0.00012")
USAGE: Final = Usage(80, 20, model="demo-small")
#: A hold that charges the same when it is charged as a whole.
HELD: Final = {"input_tokens": 80, "output_tokens": 20, "cost_usd": COST_USD}
WORKERS: Final = 3

Operation = Callable[["Actor"], None]


class Interrupted(BaseException):
    """What the signal handler raises."""


class Signals:
    """An interval timer of random length, whose handler raises where the program allows it, or spends by itself.

    Attributes:
        left: How often it may still raise; a second time also into what cleans up after the first.
        raised, spent: How often it has raised, and charged a call to its own run.
    """

    def __init__(self, run: BudgetRun, chance: random.Random) -> None:
        self.left = self.raised = self.spent = 0
        self._run = run
        self._chance = chance

    def start(self) -> None:
        signal.signal(signal.SIGALRM, self._come)
        self._again()

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def _again(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(20e-6, 600e-6))

    def _come(self, number: int, frame: FrameType | None) -> None:
        what = self._chance.random()
        if what < 0.7:
            self._again()
            if self.left and frame is not None and frame.f_code is not Signals.hit.__code__:
                self.left -= 1
                self.raised += 1
                raise Interrupted
        elif what < 0.85:
            self._run.record(USAGE)
            self.spent += 1
        else:
            gc.collect(1)
        self._again()

    def hit(self, operation: Callable[[], object]) -> bool:
        """Call *operation* while signals raise; gives whether one did, perhaps after its last step."""
        self.left = 2
        try:
            operation()
        except Interrupted:
            return True
        finally:
            self.left = 0
        return False


class Actor:
    """A thread that spends; the main one is hit by signals.

    Attributes:
        runs: Every run that it has opened, by its parent; (run, parent or None, whether it has a limit of its own).
        carving: Runs that a child's share was carved out of, whether or not anybody got that child.
        failures: What no operation may raise, as tracebacks.
        sure, maybe: Calls that are certainly charged, and those that may be, as they were interrupted.
    """

    def __init__(self, signals: Signals | None, chance: random.Random) -> None:
        self.signals = signals
        self.chance = chance
        self.runs: list[tuple[BudgetRun, BudgetRun | None, bool]] = []
        self.carving: set[BudgetRun] = set()
        self.failures: list[str] = []
        self.sure = self.maybe = 0
        self.tools_sure = self.tools_maybe = 0
        self.run = self.open()

    def hit(self, operation: Callable[[], object]) -> bool:
        """Call *operation*, in a context of its own; gives whether it was interrupted."""
        inside = contextvars.Context()
        if self.signals is None:
            inside.run(operation)
            return False
        return self.signals.hit(lambda: inside.run(operation))

    def until_done(self, operation: Callable[[], object]) -> None:
        """Repeat what may be repeated until it was not interrupted."""
        while self.hit(operation):
            pass

    def open(self) -> BudgetRun:
        """A root run of one of the users, which nobody leaves."""
        run: BudgetRun = contextvars.Context().run(scope_of(self.chance).__enter__)
        self.runs.append((run, None, False))
        return run


def scope_of(chance: random.Random, budget: str | None = None) -> Any:
    return otelbudget.run(budget, tenant="acme", user=chance.choice(USERS), mode="detached", reraise=False)


# --- what is done again and again


def record(actor: Actor) -> None:
    """An interrupted one happened or not."""
    if actor.hit(lambda: actor.run.record(USAGE)):
        actor.maybe += 1
    else:
        actor.sure += 1


def record_with_key(actor: Actor) -> None:
    """However often it is interrupted and repeated, it is charged once."""
    key = f"{actor.chance.random()}"
    actor.until_done(lambda: actor.run.record(USAGE, idempotency_key=key))
    actor.sure += 1


def reserve_and_commit(actor: Actor) -> None:
    """Whoever has the reservation can settle it, however often that is interrupted."""
    held: list[Reservation] = []
    actor.hit(lambda: held.append(actor.run.reserve(**HELD)))
    for reservation in held:
        actor.until_done(lambda: reservation.commit(USAGE))  # noqa: B023
        actor.sure += 1


def reserve_and_release(actor: Actor) -> None:
    held: list[Reservation] = []
    actor.hit(lambda: held.append(actor.run.reserve(**HELD)))
    for reservation in held:
        actor.until_done(reservation.release)


def reserve_as_block(actor: Actor) -> None:
    """Left by an exception it is charged as a whole, unless that is interrupted as well."""

    def block() -> None:
        with actor.run.reserve(**HELD) as reservation:
            reservation.commit(USAGE)

    if actor.hit(block):
        actor.maybe += 1
    else:
        actor.sure += 1


def tool_call(actor: Actor) -> None:
    def block() -> None:
        with actor.run.tool_call("search"):
            pass

    if actor.hit(block):
        actor.tools_maybe += 1
    else:
        actor.tools_sure += 1


def child(actor: Actor) -> None:
    """What a child spends counts for the run around it."""
    _child(actor, {})


def carved_child(actor: Actor) -> None:
    _child(actor, {"mode": "carve", "carve": {"tokens": 300, "steps": 3}})


def _child(actor: Actor, options: dict[str, Any]) -> None:
    parent = actor.open()
    if "carve" in options:
        actor.carving.add(parent)

    def block() -> None:
        with parent.child(reraise=False, **options) as run:
            actor.runs.append((run, parent, False))
            run.record(USAGE)
            run.reserve(steps=0, input_tokens=1).release()
            with run.child(reraise=False) as inner:
                actor.runs.append((inner, run, False))
                inner.reserve(**HELD).commit(USAGE)

    if actor.hit(block):
        actor.maybe += 2
    else:
        actor.sure += 2


def refused(actor: Actor) -> None:
    """A refusal changes nothing."""

    def block() -> None:
        with scope_of(actor.chance, "small") as run:
            actor.runs.append((run, None, True))
            for _ in range(3):
                with contextlib.suppress(BudgetExceeded):
                    run.reserve(**HELD).commit(USAGE)

    if actor.hit(block):
        actor.maybe += 2
    else:
        actor.sure += 2


def dropped(actor: Actor) -> None:
    """A generator that holds a run and a reservation is left to the garbage collector, which comes at any moment."""

    def holds() -> Generator[None, None, None]:
        with scope_of(actor.chance) as run:
            actor.runs.append((run, None, False))
            with run.reserve(**HELD):
                yield

    def drop() -> None:
        generator = holds()
        circle: list[Any] = [generator]
        circle.append(circle)
        next(generator)

    actor.hit(drop)
    actor.maybe += 1


def looks(actor: Actor) -> None:
    actor.hit(lambda: (actor.run.check(tokens=1), actor.run.remaining(), actor.run.can_proceed()))


OPERATIONS: Final[tuple[Operation, ...]] = (
    record,
    record_with_key,
    reserve_and_commit,
    reserve_and_commit,
    reserve_and_release,
    reserve_as_block,
    tool_call,
    child,
    carved_child,
    refused,
    dropped,
    dropped,
    looks,
)


def spend(actor: Actor, until_s: float, pause_s: float) -> None:
    """One operation after the other, each on one of a few runs."""
    while time.monotonic() < until_s:
        try:
            if actor.chance.random() < 0.02:
                actor.run = actor.open()
            actor.chance.choice(OPERATIONS)(actor)
        except Exception:  # noqa: BLE001 - shown at the end
            actor.failures.append(traceback.format_exc())
        if pause_s:
            time.sleep(pause_s)


# --- does it add up?


class Sums:
    """What every level has, as (tokens, input tokens, steps, nano-USD, tool calls)."""

    NAMES: Final = ("tokens", "input_tokens", "steps", "cost_usd", "tool_calls")

    def __init__(self, manager: BudgetManager, registry: CollectorRegistry) -> None:
        service = QuotaService(store=manager)
        self.levels: dict[str, list[int]] = {}
        self.held: dict[str, Any] = {}
        for user in USERS:
            for line in service.usage("acme", user=user).lines:
                name = user if line.scope == "user" else f"{line.scope} {line.quota}"
                values = self.levels.setdefault(name, [0] * len(self.NAMES))
                values[self.NAMES.index(line.resource)] = units(line.resource, line.used)
                if line.reserved:
                    self.held[f"{name} {line.resource}"] = line.reserved
        users = [self.levels.pop(user) for user in USERS]
        self.levels["users"] = [sum(one) for one in zip(*users, strict=True)]
        found: dict[str, float] = {}
        for family in registry.collect():
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k in ("token_type", "operation", "decision")}
                key = " ".join((sample.name, *labels.values()))
                found[key] = found.get(key, 0) + sample.value
        self.metrics = found

    def counters(self) -> list[int]:
        """The same as the counters have it."""
        put_in, put_out, records, usd, tools = (
            self.metrics[name]
            for name in (
                "otelbudget_tokens_total input",
                "otelbudget_tokens_total output",
                "otelbudget_records_total",
                "otelbudget_cost_usd_total",
                "otelbudget_tool_calls_total",
            )
        )
        return [round(put_in + put_out), round(put_in), round(records), round(usd * 1e9), round(tools)]


def units(resource: str, amount: Any) -> int:
    return round(amount * 10**9) if resource == "cost_usd" else int(amount)


def used(run: BudgetRun) -> list[int]:
    return [units(name, getattr(run.usage, name) or 0) for name in Sums.NAMES]


def total(runs: Iterable[BudgetRun]) -> list[int]:
    return [sum(one) for one in zip([0] * len(Sums.NAMES), *map(used, runs), strict=True)]


def problems(actors: list[Actor], signals: Signals, own: BudgetRun, sums: Sums) -> list[str]:
    """Everything that does not add up, in words."""
    found = [f"error: {failure}" for actor in actors for failure in actor.failures]
    everything = [entry for actor in actors for entry in actor.runs] + [(own, None, False)]
    roots = total(run for run, parent, _ in everything if parent is None)
    whole = sums.levels["users"]
    for name, level in {**sums.levels, "root runs": roots}.items():
        if level != whole:
            found.append(f"level: {name} has {level}, the users {whole}")
    for name, level in {**sums.levels, "root runs": roots}.items():
        calls = level[Sums.NAMES.index("steps")]
        if level[:4] != [TOKENS * calls, 80 * calls, calls, 120_000 * calls]:
            found.append(f"amount: {name} has {level[:4]}, which is no whole number of calls")
    if sums.counters() != whole:
        found.append(f"counter: the counters have {sums.counters()}, the users {whole}")
    tools = sums.metrics["otelbudget_checks_total tool allow"]
    if tools != whole[4]:
        found.append(f"counter: {tools:.0f} tool calls were let pass, {whole[4]} are charged")
    found += [f"held: {what} {amount}" for what, amount in sums.held.items()]
    if still_open := sums.metrics["otelbudget_reservations_open"]:
        found.append(f"held: {still_open:.0f} reservations are open")
    carving = {run for actor in actors for run in actor.carving}
    inside: dict[BudgetRun, list[BudgetRun]] = {}
    for run, parent, _ in everything:
        if parent is not None:
            inside.setdefault(parent, []).append(run)
    for run, parent, bounded in everything:
        below = inside.get(run, [])
        if parent is None and below and used(run) != total(below):
            found.append(f"level: a run has {used(run)}, those inside it {total(below)}")
        left, unused = run.remaining()["tokens"], LIMIT - (run.usage.tokens or 0)
        if parent is None and not bounded and left != unused and run not in carving:
            found.append(f"held: a run that used {run.usage.tokens} holds {unused - left} tokens")
    if used(own)[2] != signals.spent:
        found.append(f"amount: handlers charged {signals.spent} calls, their run has {used(own)[2]}")
    sure = sum(actor.sure for actor in actors) + signals.spent
    most = sure + sum(actor.maybe for actor in actors)
    if not sure <= whole[2] <= most:
        found.append(f"amount: {whole[2]} calls are charged, made were {sure} to {most}")
    tools_sure = sum(actor.tools_sure for actor in actors)
    tools_most = tools_sure + sum(actor.tools_maybe for actor in actors)
    if not tools_sure <= whole[4] <= tools_most:
        found.append(f"amount: {whole[4]} tool calls are charged, made were {tools_sure} to {tools_most}")
    return found


class InALoop:
    """Makes one by one what is to be made by one call: writes, as (object, name, value), or steps that give None."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, writes: Iterable[Any]) -> bool:
        self.calls += 1
        for one in writes:
            if isinstance(one, tuple):
                setattr(*one)
            elif one:
                return True
        return False


def storm(seconds: float, seed: int, in_a_loop: str | None, *, calm: bool = False) -> dict[str, Any]:
    """Set everything up, let it rage, wait until what was lost has expired; gives what was found."""
    global _passed_ns
    logging.disable(logging.CRITICAL)  # contexts that a collected generator can't leave, and the like
    sys.unraisablehook = id  # a signal that raises into a finalizer is nothing to print; this one does nothing else
    sys.setswitchinterval(0.0005)
    if sys.version_info < (3, 12):
        # The collector runs inside of ContextVar.set() there, whose map a finalizer that resets the variable frees: a
        # crash of the interpreter. So only the signal handler collects, that is, between any two instructions.
        gc.disable()
    elif not calm:
        gc.set_threshold(150, 5, 5)
    loop = InALoop()
    if in_a_loop is not None:
        module, name = in_a_loop.split(":")
        setattr(importlib.import_module(module), name, loop)
    registry = CollectorRegistry()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "budgets.yaml")
        file.write_text(BUDGETS, encoding="utf-8")
        manager = otelbudget.setup(file, metrics_port=None, exporter="none", registry=registry, instrument=False)
    chance = random.Random(seed)
    own = contextvars.Context().run(scope_of(chance).__enter__)
    signals = Signals(own, chance)
    until_s = time.monotonic() + seconds
    actors = [Actor(None, random.Random(f"{seed} {n}")) for n in range(WORKERS)]
    workers = [threading.Thread(target=spend, args=(one, until_s, 0.002), daemon=True) for one in actors]
    for worker in workers:
        worker.start()
    actors.append(Actor(signals, random.Random(f"{seed} main")))
    if not calm:
        signals.start()
    try:
        spend(actors[-1], until_s, 0)
    finally:
        signals.stop()
    for worker in workers:
        worker.join(5)
    if any(worker.is_alive() for worker in workers):
        faulthandler.dump_traceback()
        found = ["hang: the threads wait for ever for a lock that an interrupted operation did not let go of"]
        return {"problems": found, "interrupts": signals.raised, "looped": loop.calls}
    for _ in range(3):  # what is collected may have been kept by what is collected after it
        gc.collect()
        _passed_ns += 100 * 10**9
        own.reserve(steps=0, tool_calls=1).release()
    return {
        "problems": problems(actors, signals, own, Sums(manager, registry)),
        "interrupts": signals.raised,
        "handled": signals.spent,
        "calls": sum(actor.sure for actor in actors),
        "runs": sum(len(actor.runs) for actor in actors),
        "looped": loop.calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loop", metavar="MODULE:NAME", help="what to replace by a loop that can be interrupted")
    parser.add_argument("--calm", action="store_true", help="threads only: no signals, and the collector as usual")
    given = parser.parse_args()
    faulthandler.dump_traceback_later(given.seconds + 40, exit=True)
    print(json.dumps(storm(given.seconds, given.seed, given.loop, calm=given.calm)), flush=True)
    os._exit(0)  # what may still wait for a lock shall not be waited for


if __name__ == "__main__":
    main()
