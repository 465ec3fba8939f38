"""What holds whatever happens in whatever order, over a tree of runs and the quotas of their owners.

``PROPERTY_EFFORT=20 pytest tests/test_budget_properties.py`` tries twenty times as much.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import PRICES, World, opened, reserved_of, used_of

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.admission import closing, settlement
from otelbudget.admission.closing import leave
from otelbudget.calls.model_call import ModelCall, ModelRequest
from otelbudget.ledger.account import Account, Hold, QuotaAccount
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.quota import Quota, Quotas
from otelbudget.model.vector import unpack
from otelbudget.model.windows import window_at
from otelbudget.runs import asking
from otelbudget.runs.reservation import Reservation
from otelbudget.runs.run import BudgetRun
from otelbudget.runs.scope import RunScope

EFFORT = int(os.environ.get("PROPERTY_EFFORT", "1"))
NONE = (0,) * len(RESOURCES)
BEGAN_S = 1_700_000_000.0


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """What other tests have left is not looked through by every collection here, which would take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


TENANT = (Quota(tokens=2000, per="hour", reserve_for={"high": 0.25}), Quota(steps=40, per="run"))
USER = Quota(tokens=1500, per="rolling 1h")
ORG = Quota(tokens=3000, cost_usd=1)
MODEL = Quota(tokens=1200, per="minute")
QUOTAS = Quotas(org=(ORG,), default=TENANT, users={"*": (USER,)}, models={"demo": (MODEL,)})

Key = tuple[Any, ...]


def platform() -> World:
    world = World(config=Config(quotas=QUOTAS, tenants={"acme": "big", "beta": "big"}, prices=PRICES))
    world.wall_s = BEGAN_S
    return world


def plus(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


@dataclass
class Node:
    """What the test itself knows of a run."""

    run: BudgetRun
    parent: Node | None
    carved: Sequence[int] | None = None
    used: tuple[int, ...] = NONE
    below: tuple[int, ...] = NONE

    @property
    def lineage(self) -> list[Node]:
        return [self] if self.parent is None else [*self.parent.lineage, self]

    @property
    def root(self) -> Node:
        return self.lineage[0]


@dataclass
class Open:
    """A hold: whose, the quota windows that it was made in, and what will settle it (None once that is lost)."""

    node: Node
    hold: Hold
    windows: list[Key]
    with_model: bool
    holder: Reservation | ModelCall | None
    expired: bool = False


@dataclass
class Books:
    """A second, simple-minded bookkeeping: it adds up again from scratch what the ledger keeps up to date."""

    nodes: list[Node] = field(default_factory=list)
    opened: list[Open] = field(default_factory=list)
    spent: dict[Key, tuple[int, ...]] = field(default_factory=lambda: defaultdict(lambda: NONE))
    rolling: dict[Key, list[tuple[float, Sequence[int]]]] = field(default_factory=lambda: defaultdict(list))
    counted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    total: tuple[int, ...] = NONE
    records: int = 0

    def windows(self, node: Node, wall_s: float, model: str | None) -> list[Key]:
        """The quota windows that a request of now counts in."""
        run = node.run
        whose: list[tuple[Key, Quota]] = [(("org", run.org), ORG)]
        whose += [(("tenant", run.org, run.tenant), quota) for quota in TENANT]
        if run.user is not None:
            whose.append((("user", run.org, run.tenant, run.user), USER))
        if model == "demo":
            whose.append((("model", run.org, "demo"), MODEL))
        return [(*who, q.per, id(node.root) if q.per == "run" else window_at(q.window, wall_s).key) for who, q in whose]

    def charge(
        self, node: Node, amounts: Sequence[int], windows: list[Key], wall_s: float, *, counts: bool = True
    ) -> None:
        for one in node.lineage:
            one.used = plus(one.used, amounts)
            if one is not node:
                one.below = plus(one.below, amounts)
        self.charge_windows(amounts, windows, wall_s)
        self.total = plus(self.total, amounts)
        self.records += counts

    def charge_windows(self, amounts: Sequence[int], windows: list[Key], wall_s: float) -> None:
        for key in windows:
            self.spent[key] = plus(self.spent[key], amounts)
            self.rolling[key].append((wall_s, amounts))

    def held_for(self, node: Node) -> tuple[int, ...]:
        """What *node* holds: for its own calls, its children's, and what is kept for carved ones."""
        held = NONE
        for one in self.opened:
            if one.node is node:
                held = plus(held, one.hold.amounts)
        for child in self.nodes:
            if child.parent is node:
                part = self.held_for(child)
                if child.carved is not None:
                    part = tuple(max(r, c - u) for r, c, u in zip(part, child.carved, child.used, strict=True))
                held = plus(held, part)
        return held

    def held_in(self, key: Key) -> tuple[int, ...]:
        held = NONE
        for one in self.opened:
            if key in one.windows:
                held = plus(held, one.hold.amounts)
        return held


def quota_accounts(world: World, nodes: list[Node]) -> Iterator[tuple[Key, Account]]:
    """Every account of a quota that there is, with the key that it goes by in `Books`."""
    for account in world.engine.directory.accounts:
        if account.buckets is not None:  # let fall out what does
            world.engine.directory.accounts.current(account.where, account.spec, world.wall_s)
        if account.rules:
            yield key_of(account, account.window), account
    for node in nodes:
        if node.parent is None:
            for account in node.run._state.accounts[:-1]:
                assert isinstance(account, QuotaAccount)
                yield key_of(account, id(node)), account


def key_of(account: QuotaAccount, window: Any) -> Key:
    return (account.scope, *account.where.names, account.spec.per, window)


def check_account(account: Account, used: Sequence[int] | None, held: Sequence[int], *, bounded: bool) -> None:
    if used is not None:
        assert tuple(used_of(account)) == tuple(used)
    assert tuple(reserved_of(account)) == tuple(held)
    if bounded:
        check_bounds(account)


def check_bounds(account: Account) -> None:
    for taken, limit in zip(unpack(account.taken), account.rules[0].full, strict=True):
        assert taken <= limit


usages = st.tuples(st.integers(0, 60), st.integers(0, 100), st.integers(0, 3 * 10**7))
picks = st.integers(0, 99)


class Interleavings(RuleBasedStateMachine):
    """Any order of everything. Where an example is strict, all estimates are upper bounds, and no limit is passed."""

    @initialize(strict=st.booleans())
    def begin(self, strict: bool) -> None:
        self.world = platform()
        self.strict = strict
        self.books = Books()
        self.went_back = False
        self.open_run(0, "detached", None, 3000, 0)
        self.open_run(0, "carve", 400, 600, 0)
        self.open_run(1, "shared", None, 600, 0)
        self.open_run(1, "carve", 0.5, 300, 0)

    # --- what happens

    @rule(
        pick=picks,
        mode=st.sampled_from(("shared", "carve", "carve", "detached")),
        carve=st.one_of(st.none(), st.sampled_from((0.25, 0.5, 1.0)), st.integers(1, 400)),
        tokens=st.sampled_from((300, 600, 3000)),
        who=st.integers(0, 3),
    )
    def open_run(self, pick: int, mode: str, carve: Any, tokens: int, who: int) -> None:
        if len(self.books.nodes) > 9:
            return
        parent = None if mode == "detached" else self.node(pick)
        options: dict[str, Any] = {"reraise": False}
        if parent is None:
            tenant, user, priority = [
                ("acme", "eve", None),
                ("acme", None, "low"),
                ("beta", "eve", "high"),
                ("beta", "bob", None),
            ][who]
            options |= {"tenant": tenant, "user": user, "priority": priority, "mode": "detached"}
        else:
            options |= {"parent": parent.run._state, "mode": mode}
        if mode == "carve":
            options["carve"] = {"tokens": carve, "input_tokens": 0} if isinstance(carve, int) else carve
        budget = RunBudget(max_tokens=tokens, max_steps=30, max_cost_usd=0.5, max_tool_calls=9)
        try:
            run = opened(RunScope(lambda: self.world.engine, budget, **options))
        except BudgetExceeded as denied:
            self.count("check" if denied.reason in ("closed", "frozen") else "reserve", "deny", denied.reason)
            return
        carved = None if mode != "carve" else tuple(unpack(run._state.account.floor))
        if carved is not None:
            self.count("reserve")
        self.books.nodes.append(Node(run, parent, carved))

    @rule(pick=picks)
    def close_run(self, pick: int) -> None:
        if pick < 40:
            node = self.node(pick)
            leave(node.run._state, None)
            node.carved = None

    @rule(
        pick=picks,
        usage=usages,
        model=st.sampled_from((None, "demo")),
        on_unknown=st.sampled_from(("input", "full", "open")),
    )
    def reserve(self, pick: int, usage: tuple[int, int, int], model: str | None, on_unknown: Any) -> None:
        node = self.node(pick)
        given, made, nano = usage
        with self.asking("reserve"):
            made_now = node.run.reserve(
                input_tokens=given, output_tokens=made, cost_usd=dollars(nano), model=model, on_unknown=on_unknown
            )
            self.note(node, made_now._hold, model, made_now)

    @rule(pick=picks, given=st.integers(1, 60), made=st.integers(0, 100))
    def call_model(self, pick: int, given: int, made: int) -> None:
        node = self.node(pick)
        request = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=given, max_output_tokens=made)
        call = ModelCall(node.run._state, request)
        with self.asking("call"):
            asking.decide(node.run._state, call.ask())
            self.note(node, call._hold, "demo", call)

    @rule(
        pick=picks,
        share=st.integers(0, 100),
        how=st.sampled_from(("usage", "hold", "over")),
        model=st.sampled_from((None, "demo")),
    )
    def commit(self, pick: int, share: int, how: str, model: str | None) -> None:
        one = self.held(pick)
        if one is None:
            return
        held = one.hold.amounts
        percent = 300 if how == "over" and not self.strict else share
        usage = Usage(
            held.input_tokens * percent // 100,
            held.output_tokens * percent // 100,
            cost_usd=dollars(held.cost_nanousd * percent // 100),
            model=model if one.with_model or not self.strict else None,
        )
        charged = held if how == "hold" else usage.amounts(usage.cost_nanousd or 0)
        if isinstance(one.holder, ModelCall):
            one.holder.commit(None if how == "hold" else usage)
            model = "demo"
        else:
            assert one.holder is not None
            assert not one.holder.commit(None if how == "hold" else usage).replayed
            model = None if how == "hold" else usage.model
        self.settled(one, charged, model)

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        one = self.held(pick)
        if one is None or one.holder is None:
            return
        one.holder.release()
        self.books.opened.remove(one)
        assert one.hold.state == "released"
        if isinstance(one.holder, Reservation):
            assert not one.holder.release()

    @rule(pick=picks)
    @precondition(lambda self: not self.strict)
    def release_and_then_commit(self, pick: int) -> None:
        one = self.held(pick)
        if one is not None and isinstance(one.holder, Reservation):
            one.holder.release()
            one.holder.commit(Usage(7, 7, cost_usd=0))
            self.settled(one, Usage(7, 7).amounts(), None)

    @rule(pick=picks, more=st.integers(0, 100))
    def grow(self, pick: int, more: int) -> None:
        one = self.held(pick)
        if one is None:
            return
        before = one.hold.amounts
        operation = "reserve" if isinstance(one.holder, Reservation) else "call"
        with self.asking(operation, counted=False):
            if isinstance(one.holder, Reservation):
                one.holder.extend(output_tokens=more)
            elif one.holder is not None:
                one.holder.grow(before.output_tokens + more)
            return
        assert one.hold.amounts == before

    @rule(pick=picks)
    def fail(self, pick: int) -> None:
        """The block of a reservation is left by an exception, or nobody knows how a call ended."""
        one = self.held(pick)
        if one is None:
            return
        held = one.hold.amounts
        if isinstance(one.holder, ModelCall):
            one.holder.unknown(held.output_tokens // 2)
            made = held.output_tokens // 2
            cost = (held.input_tokens + 2 * made) * 1000
            usage = Usage(held.input_tokens, made).amounts(cost)
            self.settled(one, usage, "demo")
            return
        assert one.holder is not None
        one.holder.__exit__(ValueError, ValueError(), None)
        if one.holder.on_unknown == "full":
            self.settled(one, held, None)
        elif one.holder.on_unknown == "input":
            output = held.output_tokens
            cost = held.cost_nanousd
            cost = cost * (held.tokens - output) // held.tokens if held.tokens else cost
            self.settled(one, held._replace(tokens=held.tokens - output, output_tokens=0, cost_nanousd=cost), None)

    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        one = self.held(pick)
        if one is not None:
            one.holder = None
            gc.collect(0)

    @rule(pick=picks, usage=usages, model=st.sampled_from((None, "demo")))
    def record(self, pick: int, usage: tuple[int, int, int], model: str | None) -> None:
        node = self.node(pick)
        given, made, nano = usage
        if self.strict and not self.fits(
            node, input_tokens=given, output_tokens=made, cost_usd=dollars(nano), model=model
        ):
            return
        node.run.record(spent := Usage(given, made, cost_usd=dollars(nano), model=model))
        windows = self.books.windows(node, self.world.wall_s, model)
        self.books.charge(node, spent.amounts(nano), windows, self.world.wall_s)

    @rule(pick=picks)
    def call_tool(self, pick: int) -> None:
        node = self.node(pick)
        with self.asking("tool"), node.run.tool_call("look"):
            windows = self.books.windows(node, self.world.wall_s, None)
            self.books.charge(node, (0, 0, 0, 0, 0, 1, 0), windows, self.world.wall_s, counts=False)

    @rule(pick=picks, resource=st.sampled_from(("tokens", "steps", "cost_usd", "tool_calls")), more=st.integers(0, 50))
    def extend(self, pick: int, resource: str, more: int) -> None:
        self.node(pick).run.extend(**{resource: dollars(more * 10**7) if resource == "cost_usd" else more})

    @rule(pick=picks, tokens=st.integers(0, 100))
    @precondition(lambda self: not self.strict)
    def lower(self, pick: int, tokens: int) -> None:
        self.node(pick).run.extend(to={"tokens": tokens})

    @rule(pick=picks, frozen=st.booleans())
    def freeze(self, pick: int, frozen: bool) -> None:
        run = self.node(pick).run
        (run.freeze if frozen and pick < 20 else run.unfreeze)()

    @rule(pick=picks)
    def reset(self, pick: int) -> None:
        node = self.node(pick)
        node.run.reset()
        if node.carved is not None:
            node.carved = tuple(max(0, c - u) for c, u in zip(node.carved, node.used, strict=True))
        node.used = node.below = NONE

    @rule(pick=picks)
    def acknowledge(self, pick: int) -> None:
        self.node(pick).run.acknowledge()

    @rule(seconds=st.integers(0, 80))
    def wait(self, seconds: int) -> None:
        self.world.advance(seconds)

    @rule(off_s=st.integers(-9000, 9000))
    def set_clock(self, off_s: int) -> None:
        before = self.world.wall_s
        self.world.wall_s = BEGAN_S + off_s
        self.went_back |= self.world.wall_s < before

    @rule(pick=picks)
    def what_remains_is_what_fits(self, pick: int) -> None:
        node = self.node(pick)
        run = node.run
        if any(one.run.state in ("closed", "frozen") for one in node.lineage):
            return
        left = run.remaining()["tokens"]
        assert self.fits(node, tokens=left, steps=0)
        assert not self.fits(node, tokens=left + 1, steps=0)

    # --- what is expected

    def node(self, pick: int) -> Node:
        """Any run, mostly one that may still do something, and often the last one opened."""
        nodes = self.books.nodes
        if pick % 5:
            nodes = [one for one in nodes if one.run.state == "active"] or nodes
        return nodes[-1] if pick > 60 else nodes[pick % len(nodes)]

    def held(self, pick: int) -> Open | None:
        here = [one for one in self.books.opened if one.holder is not None]
        return here[pick % len(here)] if here else None

    def count(self, operation: str, decision: str = "allow", reason: str = "") -> None:
        self.books.counted[operation, decision, reason] += 1

    @contextlib.contextmanager
    def asking(self, operation: str, *, counted: bool = True) -> Iterator[None]:
        try:
            yield
        except BudgetExceeded as denied:
            assert denied.reason in ("limit", "busy", "frozen", "closed")  # noqa: PT017 - the program goes on
            self.count(operation, "deny", denied.reason)
            return
        if counted:
            self.count(operation)

    def fits(self, node: Node, **amounts: Any) -> bool:
        fits = node.run.can_proceed(**amounts)
        if fits:
            self.count("probe")
        else:
            self.books.counted["probe", "deny", "*"] += 1
        return fits

    def note(self, node: Node, hold: Hold, model: str | None, holder: Reservation | ModelCall) -> None:
        windows = self.books.windows(node, self.world.wall_s, model)
        self.books.opened.append(Open(node, hold, windows, model is not None, holder))

    def settled(self, one: Open, charged: Sequence[int], model: str | None) -> None:
        self.books.opened.remove(one)
        assert one.hold.state == "committed"
        self.books.charge(one.node, charged, one.windows, self.world.wall_s)
        if not one.with_model and model is not None:
            now = self.books.windows(one.node, self.world.wall_s, model)
            self.books.charge_windows(charged, [key for key in now if key[0] == "model"], self.world.wall_s)

    def note_expiries(self) -> None:
        self.world.engine.ledger.sweep(self.world.now_ns)
        settlement.tell_expired(self.world.engine)
        for one in [one for one in self.books.opened if one.holder is None]:
            due = one.hold.expires_ns <= self.world.now_ns
            assert one.hold.state == ("expired" if due else "open")
            if due:
                self.books.opened.remove(one)
                owed = one.hold.on_expiry
                self.books.charge(one.node, owed, one.windows, self.world.wall_s, counts=any(owed))

    @invariant()
    def both_sets_of_books_agree(self) -> None:
        if not hasattr(self, "books"):
            return
        self.note_expiries()
        for node in self.books.nodes:
            account = node.run._state.account
            check_account(account, node.used, self.books.held_for(node), bounded=self.strict)
            assert tuple(unpack(account.below)) == node.below
            assert node.run._state.account.holds == sum(node in one.node.lineage for one in self.books.opened)
        for key, account in quota_accounts(self.world, self.books.nodes):
            rolling = key[-2] == USER.per
            used = None if rolling else self.books.spent[key]
            check_account(account, used, self.books.held_in(key), bounded=self.strict)
            if rolling and not self.went_back:
                assert self.within(key, 3600) <= used_of(account)[1] <= self.within(key, 3660)
        total = self.books.total
        assert self.world.spent() == (total[2], total[3], total[4], total[5])
        assert self.world.records() == self.books.records

    def within(self, key: Key, seconds: float) -> int:
        return sum(amounts[1] for at_s, amounts in self.books.rolling[key] if at_s > self.world.wall_s - seconds)

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        self.counters_equal_operations()
        for one in self.books.opened:
            one.holder = None
        gc.collect()
        self.world.advance(200)
        self.both_sets_of_books_agree()
        for node in self.books.nodes:
            leave(node.run._state, None)
            node.carved = None
        closing.tend(self.world.engine)
        assert not self.books.opened
        self.both_sets_of_books_agree()
        for node in self.books.nodes:
            assert not any(reserved_of(node.run._state.account))
            assert node.run._state.finished
        assert not any(any(reserved_of(account)) for _, account in quota_accounts(self.world, self.books.nodes))
        assert self.world.engine.ledger.open.age(self.world.now_ns) == (0, 0.0)
        assert [self.world.engine.meters.tenant(name).active for name in ("acme", "beta")] == [0, 0]
        self.world.provider.shutdown()

    def counters_equal_operations(self) -> None:
        counted = Counter(self.world.counted())
        refused_probes = sum(counted.pop(key) for key in list(counted) if key[:2] == ("probe", "deny"))
        expected = Counter(self.books.counted)
        assert refused_probes == expected.pop(("probe", "deny", "*"), 0)
        assert counted == expected


def dollars(nano: int) -> Decimal:
    return Decimal(nano) / 10**9


Interleavings.TestCase.settings = settings(
    max_examples=150 * EFFORT, stateful_step_count=50, suppress_health_check=list(HealthCheck)
)
TestInterleavings = pytest.mark.slow(Interleavings.TestCase)


# --- threads


class Workers:
    """Threads that work on the same runs, each by a program of its own, while another one watches the limits."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = platform()
        engine = self.world.engine
        budget = RunBudget(max_tokens=900, max_steps=35, max_cost_usd=0.5, max_tool_calls=20)

        def run(**options: Any) -> BudgetRun:
            return opened(RunScope(lambda: engine, budget, reraise=False, **options))

        one, two = run(tenant="acme", user="eve"), run(tenant="beta", user="eve")
        left = run(parent=one._state)
        self.runs = [
            one,
            two,
            left,
            run(parent=left._state),
            run(parent=two._state, mode="carve", carve={"tokens": 300}),
        ]
        self.children: list[BudgetRun] = []
        self.counted: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.over = threading.Event()

    def accounts(self) -> list[Account]:
        runs = [account for run in (*self.runs, *self.children) for account in run._state.accounts]
        return [*(one for one in self.world.engine.directory.accounts if one.rules), *runs]

    def watch(self) -> None:
        while not self.over.is_set():
            with self.world.engine.ledger.lock:
                for account in self.accounts():
                    check_bounds(account)
                    assert account.taken >= account.used

    def work(self, number: int) -> None:
        dice = random.Random(self.seed * 1000 + number)
        for _ in range(25):
            with contextlib.suppress(BudgetExceeded):
                self.step(dice, dice.choice(self.runs))

    def step(self, dice: random.Random, run: BudgetRun) -> None:
        what = dice.randrange(8)
        if what == 0:
            with run.tool_call("look"):
                self.counted["tools"] += 1
        elif what == 1:
            scope = run.child(
                RunBudget(max_tokens=100), mode="carve", carve=dice.choice((None, 0.1, {"tokens": 40})), reraise=False
            )
            child = opened(scope)
            try:
                self.children.append(child)
                for _ in range(3):
                    self.spend(dice, child)
            finally:
                leave(child._state, None)
        elif what == 2:
            run.freeze()
            run.unfreeze()
        elif what == 3:
            run.can_proceed(tokens=5)
            run.remaining()
        else:
            self.spend(dice, run)

    def spend(self, dice: random.Random, run: BudgetRun) -> None:
        given, made = dice.randint(0, 20), dice.randint(0, 20)
        model = dice.choice((None, "demo"))
        hold = run.reserve(input_tokens=given, output_tokens=made, cost_usd=0.01, model=model, on_unknown="input")
        end = dice.randrange(5)
        if end == 0:
            hold.release()
            return
        if end == 1:
            self.counted["lost"] += 1
            return
        if end == 2:
            with contextlib.suppress(BudgetExceeded):
                hold.extend(output_tokens=dice.randint(0, 20))
        self.counted["commits"] += 1
        hold.commit(Usage(*hold._hold.amounts[2:4], cost_usd=dice.choice([Decimal("0.01"), Decimal("0.002")])))

    def run_all(self, number: int) -> None:
        def guarded(target: Any, *args: Any) -> None:
            try:
                target(*args)
            except BaseException as error:  # noqa: BLE001 - raised below, in the test
                self.errors.append(error)

        watcher = threading.Thread(target=guarded, args=(self.watch,))
        threads = [threading.Thread(target=guarded, args=(self.work, i)) for i in range(number)]
        for thread in (watcher, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        self.over.set()
        watcher.join()
        for error in self.errors:
            raise error


@pytest.mark.parametrize("number", [2, 8, 32])
@settings(max_examples=4 * EFFORT, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_threads_keep_every_invariant(number: int, seed: int) -> None:
    workers = Workers(seed)
    world = workers.world
    workers.run_all(number)
    gc.collect()
    world.advance(66)
    runs = [*workers.runs, *workers.children]
    for run in reversed(runs):
        run.can_proceed()
        leave(run._state, None)
    closing.tend(world.engine)
    for account in workers.accounts():
        assert account.taken == account.used
    for run in runs:
        assert run._state.account.below == sum(child._state.account.used for child in runs if child.parent == run)
        assert (run._state.account.holds, run._state.finished) == (0, True)
    total = unpack(sum(run._state.account.used for run in runs if run.parent is None))
    assert world.spent() == (total[2], total[3], total[4], total[5])
    assert (world.records(), total[0], total[5]) == (workers.counted["commits"],) * 2 + (workers.counted["tools"],)
    for account in world.engine.directory.accounts:
        if account.scope == "org":
            assert used_of(account) == total
        elif account.scope == "tenant" and account.rules:
            tenant = account.where.get("tenant")
            assert account.used == sum(r._state.account.used for r in runs if r.parent is None and r.tenant == tenant)
    world.provider.shutdown()
