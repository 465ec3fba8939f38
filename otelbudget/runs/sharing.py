"""`Sharing`: what keeps a shared run in step with the other processes that work on it.

What they use is counted in their store, trip by trip. What else there is to know (limits by now, a freeze, the end) is
the state of the run's record there: whoever changes it writes it, and the others look every `LOOK_S`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry import baggage
from opentelemetry.context import Context

from otelbudget import forking, semconv
from otelbudget.admission import trips
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import LONGEST, Owner
from otelbudget.errors import BudgetError, StoreError
from otelbudget.ledger.account import SharedAccount
from otelbudget.model.amounts import NANOS
from otelbudget.model.budget import RunBudget
from otelbudget.runs import controls, resume
from otelbudget.stores.lease import Leased
from otelbudget.stores.records import RUN_S, RunRecord
from otelbudget.stores.shared import Shared

T = TypeVar("T")
#: How often a process looks what others have changed, seconds.
LOOK_S: Final = 2.0
#: What the baggage of requests says of a shared run.
CARRIED: Final = (semconv.RUN_ID, semconv.TENANT, semconv.USER)


def root(engine: Engine, budget: RunBudget, owner: Owner, *, reraise: bool) -> RunState:
    """A run to be shared; an ordinary one, which a warning tells, where no other process could find it."""
    run = RunState(engine, budget, owner, reraise=reraise, shared=engine.store is not None)
    if engine.store is not None:
        run.sharing = Sharing(run, opener=True)
        return run
    engine.warn_once(
        "shared",
        "run(shared=True): accounts are kept in the memory of this process, so no other one can continue the run;"
        " name a store that processes share, store: {url: ...}",
    )
    return run


def carry(run: RunState, context: Context) -> Context:
    """*context*, in whose baggage requests carry the run that *run* is part of, if that is shared, and no other one."""
    root = run.lineage[0]
    if root.sharing is None and baggage.get_baggage(semconv.RUN_ID, context) is None:
        return context
    said = (root.run_id, root.tenant, root.owner.user) if root.sharing is not None else (None, None, None)
    for name, value in zip(CARRIED, said, strict=True):
        removed = baggage.remove_baggage(name, context)
        context = baggage.set_baggage(name, value, removed) if is_name(value) else removed
    return context


def is_name(value: object) -> bool:
    """Whether it can travel in baggage, and is believed on arrival."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()


class Sharing:
    """The record of *run* in the store of its engine, as this process knows it."""

    def __init__(self, run: RunState, *, opener: bool) -> None:
        self.opener = opener  # it was opened here, so it ends for all when it is left here
        self.over = False  # it has ended
        self._run = run
        self._store: Shared = run.engine.store
        self._place = (self._store.shard(run.owner), run.run_id)
        self._opened = ""
        self._changes = 0
        self._since_s: float | None = None  # its time counts from here, by the store's clock
        self._counted_s: float | None = None  # and here, as far as that has come about
        self._ends_s: int | None = None
        self._ending = False
        self._look_s = 0.0
        self._lock = forking.fresh_lock()

    def open(self) -> None:
        """Write the record, with what others need to continue the run; StoreError if nothing is admitted without it."""
        opened = self._opened = json.dumps(resume.form(self._run))
        try:
            record = self._store.store.run(*self._place, RunRecord(opened, self._state()))
        except StoreError:
            if self._store.failure.name == "fail_closed":
                raise
            record = None
        now_s = self._run.engine.ledger.clock_s()
        self.begin(record or RunRecord(opened, self._state(), 0, now_s, now_s))  # else written when it is back

    def begin(self, record: RunRecord) -> None:
        """Count in the store from now on, and be what *record* says."""
        self._obey(record)
        self._look_s = time.monotonic() + LOOK_S

    def follow(self) -> None:
        """Look what others change, until `close`."""
        self._store.watched.add(self)

    def change(self, change: Callable[[], T]) -> T:
        """What *change* gives, which changes the run from what it is by now; others obey within `LOOK_S` or so.

        Raises:
            StoreError: The store can't be reached; its message says if it may have been changed all the same.
            BudgetError: The run is not there any more.
        """
        while True:
            with self._lock:
                made = self._tried(change)
            if made is not None:
                return made[0]

    def _tried(self, change: Callable[[], T]) -> tuple[T] | None:
        """The same, unless somebody else's change comes in between: then None, and nothing has changed."""
        if not self._caught_up():
            raise BudgetError(f"run {self._run.run_id} is not in its store any more")
        before = self._state()
        try:
            done = change()
            by = secrets.token_hex(8)  # or the same change of somebody else would pass for this one
            wanted = RunRecord("", self._state(by=by), self._changes + 1)
            kept = self._store.store.run(*self._place, wanted)
        except StoreError as error:
            self._put(json.loads(before))
            raise StoreError(
                f"{error}; whether run {self._run.run_id} was changed is not known: it may have been, or be yet. Look"
                " when the store is back, or make a change that may be made twice: extend(to=...), freeze(), reset()"
            ) from error
        except BaseException:
            self._put(json.loads(before))
            raise
        if kept is None or kept.state != wanted.state:
            self._put(json.loads(before))
            return None
        self._changes = kept.changes
        return (done,)

    def forget(self) -> int:
        """Begin anew for all: nothing used, the clock at zero. Gives what was used."""
        run = self._run
        trips.refresh(run)  # after what is still to be sent
        used = run.account.used
        assert isinstance(run.account, SharedAccount)
        now_s = run.engine.ledger.clock_s()
        self.change(partial(setattr, self, "_since_s", now_s))
        trips.forget(run, run.account)
        self._count(now_s)
        return used

    def learn(self) -> None:
        """Ask the store what all have used, for what is told as the run is left."""
        self._let_go()
        if asyncio._get_running_loop() is None:
            with suppress(StoreError):
                trips.refresh(self._run)

    async def alearn(self) -> None:
        """`learn` for coroutines."""
        self._let_go()
        with suppress(StoreError):
            await trips.arefresh(self._run)

    def _let_go(self) -> None:
        """Let the others know what was spent here with the next trip, within a second, not as its leases end."""
        if isinstance(self._store.store, Leased) and self._run.account.there is not None:
            self._store.store.let_go(self._place[0], self._run.account.there[0])

    def close(self) -> None:
        """The run was left here: it has ended for all if it was opened here, at the latest when the store is back."""
        if not self.opener:
            self._store.watched.drop(self)
        if self not in self._store.watched:  # or it was never opened
            return
        self._ending = True
        if asyncio._get_running_loop() is None:  # else the store's thread does it
            with suppress(StoreError):
                self.catch_up()

    def catch_up(self) -> None:
        """Tell the others that the run has ended, if it has; else, if it is time to, look what they have changed."""
        if self._ending:
            try:
                self.change(partial(setattr, self, "over", True))
            except StoreError:
                raise
            except BudgetError:  # nobody knows it any more
                pass
            self._store.watched.drop(self)
        elif time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_S
            with self._lock:
                self._caught_up()

    def _caught_up(self) -> bool:
        """Be what the record says by now; False if there is none, and the run can't go on."""
        record = self._store.store.run(*self._place)
        if record is None and self.opener and self._run.engine.ledger.clock_s() < (self._ends_s or 0):
            record = self._store.store.run(*self._place, RunRecord(self._opened, self._state()))
        if record is None:
            self.over, self._changes = True, -1
            self._run.refresh()
            return False
        if record.changes != self._changes:
            self._obey(record)
        return True

    def _obey(self, record: RunRecord) -> None:
        said = json.loads(record.state)
        said["since_s"] = record.opened_s if said["since_s"] is None else said["since_s"]
        said["ends_s"] = said["ends_s"] or int(record.opened_s) + RUN_S
        self._changes = record.changes
        self._put(said, record.now_s)

    # --- the state of the run, to and fro

    def _state(self, by: str = "") -> str:
        run = self._run
        said = {"full": run.account.rule.full, "max_ns": run.max_ns, "frozen": run.frozen, "over": self.over}
        return json.dumps({**said, "since_s": self._since_s, "ends_s": self._ends_s, "by": by})

    def _put(self, said: dict[str, Any], now_s: float = 0.0) -> None:
        run = self._run
        if self._ends_s != said["ends_s"]:
            self._ends_s = said["ends_s"]
            trips.share(run, said["ends_s"])
        run.engine.ledger.locked(partial(self._put_limits, said))
        self._since_s = said["since_s"]
        if self._counted_s != self._since_s:
            self._count(now_s)
        run.refresh()
        run.engine.ledger.after(room=True)

    def _put_limits(self, said: dict[str, Any]) -> None:
        run = self._run
        for i, full in enumerate(said["full"]):
            if full != run.account.rule.full[i]:
                controls.limit(run, i, full)
        run.max_ns, run.frozen, self.over = said["max_ns"], said["frozen"], said["over"]

    def _count(self, now_s: float) -> None:
        """Nothing used any more, and its time counted from where it counts by now."""
        run, account = self._run, self._run.account
        assert isinstance(account, SharedAccount)
        self._counted_s = self._since_s
        run.started_ns = run.engine.clock_ns() - int(max(0.0, now_s - (self._since_s or 0.0)) * NANOS)
        run.engine.ledger.forget(account.tally)
        run.engine.ledger.mirror((account,), [(0, 0)])
