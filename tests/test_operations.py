"""Every operation at a glance: what it charges, holds and leaves refused, on a run, its parent and a quota.

Each row of the table has its tests under its own name. What leaving a run raises, and whose run a call is: see
`test_run_rules`.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from openai import InternalServerError, OpenAI
from provider import Provider, Reply
from world import PRICES, World, said

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.calls.model_call import ModelCall, ModelRequest, begin
from otelbudget.estimate.tokens import count_input
from otelbudget.guards import GUARDS
from otelbudget.model.amounts import RESOURCES
from otelbudget.model.quota import Quota, Quotas
from otelbudget.runs.run import BudgetRun

#: 40 tokens in at 1,000 nano-USD each, up to 60 out at 2,000.
REQUEST = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)
ROOM = {"leaf": 10_000, "root": 20_000, "quota": 30_000}
Taken = dict[str, int]
NOTHING: Taken = {}


def tokens(given: int, made: int = 0, *, steps: int = 1, cost: int | None = None) -> Taken:
    """Amounts of model calls, at the price of ``demo`` unless *cost* (nano-USD) says otherwise; without zeros."""
    priced = given * 1000 + made * 2000 if cost is None else cost
    found = (steps, given + made, given, made, priced)
    return {name: amount for name, amount in zip(RESOURCES, found, strict=False) if amount}


CALL = tokens(40, 60)


class Bench:
    """A run inside a run of a tenant that has a quota. All have room for everything but *tight*, on *where*."""

    def __init__(
        self, make_world: Callable[..., World], where: str = "", tight: str = "", limit: int = 0, **options: Any
    ) -> None:
        limits = {level: dict.fromkeys(RESOURCES, room) for level, room in ROOM.items()}
        if where:
            limits[where][tight] = limit
        self._options = options
        quotas = Quotas(tenants={"acme": [Quota(name="quota", **limits["quota"])]})
        self.world = make_world(config=Config(prices=PRICES, quotas=quotas, on_unpriced="allow"))
        self.world.activate()
        self.kept: list[Any] = []
        self._stack = ExitStack()
        self.root_scope = self.world.run(self._budget("root", limits), tenant="acme")
        self.root = self.root_scope.__enter__()
        self.leaf_scope = self.world.run(self._budget("leaf", limits))
        self.leaf = self.leaf_scope.__enter__()
        self._before = self._left()

    def _budget(self, level: str, limits: dict[str, dict[str, int]]) -> RunBudget:
        most = {f"max_{resource}": limit for resource, limit in limits[level].items()}
        return RunBudget(name=level, **most, **(self._options if level == "leaf" else {}))  # type: ignore[arg-type]

    def close(self) -> None:
        for one in (self.leaf_scope, self.root_scope):
            with contextlib.suppress(BudgetExceeded):
                one.__exit__(None, None, None)

    def _left(self) -> dict[str, Taken]:
        """What each level has left: of the quota, as a run without limits sees it."""
        with self.world.run(RunBudget(), tenant="acme", mode="detached") as other:
            seen = {"leaf": self.leaf.remaining(), "root": self.root.remaining(), "quota": other.remaining()}
        return {level: {r: _internal(r, left[r]) for r in RESOURCES} for level, left in seen.items()}

    def taken(self) -> dict[str, Taken]:
        """What was charged or is held by now, per level; without zeros."""
        left = self._left()
        return {
            level: {r: was - left[level][r] for r, was in before.items() if was != left[level][r]}
            for level, before in self._before.items()
        }

    def charged(self) -> dict[str, Taken]:
        """What both runs have used, as far as a `Usage` says it."""
        return {"leaf": _used(self.leaf), "root": _used(self.root)}

    def refused(self) -> set[tuple[str | None, str | None, str]]:
        """(budget, resource, reason) of what is refused when the run asks for one of it."""
        found = set()
        for resource in RESOURCES:
            steps = {} if resource == "steps" else {"steps": 0}
            try:
                self.leaf.check(**{resource: 1}, **steps)
            except BudgetExceeded as denied:
                found.add((denied.budget, denied.resource, denied.reason))
        return found


def _internal(resource: str, amount: int | Decimal) -> int:
    return int(amount * 10**9) if resource == "cost_usd" else int(amount)


def _used(run: BudgetRun) -> Taken:
    usage = run.usage
    found = {
        "steps": usage.steps,
        "tokens": usage.tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": _internal("cost_usd", usage.cost_usd or 0),  # type: ignore[arg-type]
        "tool_calls": usage.tool_calls,
    }
    return {name: amount for name, amount in found.items() if amount}


@pytest.fixture
def make_bench(make_world: Callable[..., World]) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*args: Any, **options: Any) -> Bench:
        made.append(Bench(make_world, *args, **options))
        return made[-1]

    yield make
    for bench in reversed(made):
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def client(server: Provider) -> Iterator[OpenAI]:
    GUARDS["openai"].install()
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client
    GUARDS["openai"].uninstall()


CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Say it."}]}
CHAT_INPUT = count_input(CHAT)


# --- operations that are not refused


def made(request: ModelRequest = REQUEST) -> ModelCall:
    call = begin(request)
    assert call is not None
    return call


def reserved(bench: Bench, **amounts: Any) -> Any:
    bench.kept.append(bench.leaf.reserve(**(amounts or {"tokens": 500, "cost_usd": 0.01})))
    return bench.kept[-1]


def left_unsettled(bench: Bench, error: BaseException | None = None, **options: Any) -> None:
    with (
        contextlib.suppress(ZeroDivisionError),
        bench.leaf.reserve(input_tokens=40, output_tokens=60, cost_usd=0.01, **options),
    ):
        if error is not None:
            raise error


def expired(bench: Bench, make: Callable[[], Any]) -> None:
    make()
    gc.collect()
    bench.world.advance(66)
    assert bench.leaf.can_proceed()


def in_tools(bench: Bench, *names: str, fail: bool = False) -> None:
    with contextlib.suppress(ZeroDivisionError), ExitStack() as stack:
        for name in names:
            stack.enter_context(bench.leaf.tool_call(name))
        if fail:
            raise ZeroDivisionError


def grown(bench: Bench) -> None:
    bench.kept.append(made())
    bench.kept[0].grow(61)


class Row(NamedTuple):
    """What an operation comes to on the run, its parent and the tenant's quota alike."""

    operation: str
    do: Callable[[Bench], Any]
    charges: Taken = NOTHING
    holds: Taken = NOTHING


HELD = tokens(500, cost=10_000_000)

ROWS = [
    Row("can_proceed", lambda b: b.leaf.can_proceed(tokens=5)),
    Row("can_proceed: does not fit", lambda b: b.leaf.can_proceed(tokens=15_000)),
    Row("check allowed", lambda b: b.leaf.check(tokens=5, tool_calls=2)),
    Row("reserve admitted", reserved, holds=HELD),
    Row(
        "commit: actual below the hold", lambda b: reserved(b).commit(Usage(80, 20, cost_usd=0)), tokens(80, 20, cost=0)
    ),
    Row(
        "commit: held but None is charged at its hold",
        lambda b: reserved(b).commit(Usage(80, 20)),
        tokens(80, 20, cost=10_000_000),
    ),
    Row("commit: the hold", lambda b: reserved(b).commit(), HELD),
    Row(
        "commit: over the hold, and what was not held too",
        lambda b: reserved(b, tokens=10).commit(Usage(80, 20, cost_usd=0.05, steps=2, tool_calls=1)),
        {**tokens(80, 20, steps=2, cost=50_000_000), "tool_calls": 1},
    ),
    Row("release", lambda b: reserved(b).release()),
    Row("block left without commit", left_unsettled, tokens(40, 60, cost=10_000_000)),
    Row(
        "block left by exception: full",
        lambda b: left_unsettled(b, ZeroDivisionError()),
        tokens(40, 60, cost=10_000_000),
    ),
    Row(
        "block left by exception: input",
        lambda b: left_unsettled(b, ZeroDivisionError(), on_unknown="input"),
        tokens(40, cost=4_000_000),
    ),
    Row(
        "block left by exception: open, then expired",
        lambda b: expired(b, lambda: left_unsettled(b, ZeroDivisionError(), on_unknown="open")),
    ),
    Row("hold expires: explicit", lambda b: expired(b, lambda: b.leaf.reserve(tokens=500))),
    Row("hold expires: guard", lambda b: expired(b, made), tokens(40)),
    Row("record(usage)", lambda b: b.leaf.record(Usage(7, 3, model="demo")), tokens(7, 3)),
    Row(
        "record(usage): several calls",
        lambda b: b.leaf.record(Usage(10, 5, steps=4)),
        tokens(10, 5, steps=4, cost=0),
    ),
    Row("record_call(n)", lambda b: b.leaf.record_call(10), tokens(10, cost=0)),
    Row("tool_call entered", lambda b: in_tools(b, "look"), {"tool_calls": 1}),
    Row("tool_call entered: kept on failure", lambda b: in_tools(b, "look", fail=True), {"tool_calls": 1}),
    Row("tool_call entered: nested", lambda b: in_tools(b, "a", "b"), {"tool_calls": 2, "nested_tool_calls": 1}),
    Row("guard admitted", lambda b: b.kept.append(made()), holds=CALL),
    Row("guard admitted: answered", lambda b: made().commit(Usage(35, 20)), tokens(35, 20)),
    Row("guard admitted: answered without usage", lambda b: made().commit(), CALL),
    Row("guard admitted: a stream holds more in blocks", grown, holds=tokens(40, 60 + 256)),
    Row("guard failed before sending", lambda b: made().release()),
    Row("guard: HTTP error answer", lambda b: made().failed(), {"steps": 1}),
    Row("guard: HTTP error answer with usage", lambda b: made().failed(Usage(9, 4)), tokens(9, 4)),
    Row("guard: unknown after sending", lambda b: made().unknown(), tokens(40)),
    Row("guard: unknown after sending, output seen", lambda b: made().unknown(15), tokens(40, 15)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
def test_an_operation_charges_and_holds_the_same_at_every_level(bench: Bench, row: Row) -> None:
    row.do(bench)
    spent = {r: row.charges.get(r, 0) + row.holds.get(r, 0) for r in RESOURCES if r in {*row.charges, *row.holds}}
    assert bench.taken() == {"leaf": spent, "root": spent, "quota": spent}
    seen = {name: amount for name, amount in row.charges.items() if name != "nested_tool_calls"}
    assert bench.charged() == {"leaf": seen, "root": seen}
    assert bench.refused() == set()


def test_can_proceed_is_counted_as_a_probe_and_writes_no_event(bench: Bench) -> None:
    bench.leaf.can_proceed()
    bench.leaf.can_proceed(tokens=50_000)
    assert bench.world.counted() == {("probe", "allow", ""): 1, ("probe", "deny", "limit"): 1}
    bench.close()
    assert [event for span in bench.world.spans() for event in said(span)] == []


def test_commit_and_record_go_over_the_limit_and_only_arithmetic_denies_the_next(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("root", "tokens", 100)
    reserved(bench, tokens=60).commit(Usage(90, 30))
    bench.leaf.record(Usage(5, 5))
    assert bench.charged()["root"]["tokens"] == 130
    assert bench.root.receipt().overage == {"tokens": 30}
    assert (bench.root.state, bench.leaf.state) == ("exhausted", "active")
    with pytest.raises(BudgetExceeded) as denied:
        bench.leaf.check(tokens=1)
    assert (denied.value.reason, denied.value.used, denied.value.budget) == ("limit", 130, "root")


def test_a_block_left_without_commit_is_warned_of_once_per_place(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with bench.leaf.reserve(tokens=5):
            pass
    assert caplog.text.count("was never committed") == 1


@pytest.mark.parametrize("way", ["block left without commit", "guard: unknown after sending"])
def test_what_nobody_has_measured_is_flagged_estimated(bench: Bench, way: str) -> None:
    next(row for row in ROWS if row.operation == way).do(bench)
    bench.close()
    records = [dict(event) for span in bench.world.spans() for name, event in said(span) if name == "otelbudget.record"]
    assert [record["otelbudget.estimated"] for record in records] == [True]


# --- operations that are refused: the limit rule


class Refused(NamedTuple):
    """An operation that asks for *resource* where only *limit* of it is left."""

    operation: str
    resource: str
    limit: int
    do: Callable[[Bench], Any]
    #: What the operation does before it is refused.
    first: Callable[[Bench], Any] = lambda bench: None


def full_reservation(bench: Bench) -> None:
    reserved(bench, tokens=10)


def full_stream(bench: Bench) -> None:
    bench.kept.append(made())


REFUSED = [
    Refused("check denied", "steps", 0, lambda b: b.leaf.check()),
    Refused("check denied: money", "cost_usd", 0, lambda b: b.leaf.check(cost_usd=0.01)),
    Refused("reserve denied", "tokens", 9, lambda b: b.leaf.reserve(tokens=10)),
    Refused("tool_call denied", "tool_calls", 0, lambda b: in_tools(b, "look")),
    Refused("tool_call denied: nested", "nested_tool_calls", 0, lambda b: in_tools(b, "b"), lambda b: outer_tool(b)),
    Refused("guard denied", "output_tokens", 59, lambda b: made()),
    Refused("stream extension refused", "output_tokens", 100, lambda b: b.kept[0].grow(61), full_stream),
    Refused("Reservation.extend refused", "tokens", 12, lambda b: b.kept[0].extend(tokens=5), full_reservation),
]


def outer_tool(bench: Bench) -> None:
    tool = bench.leaf.tool_call("outer")
    tool.__enter__()
    bench.kept.append(tool)


@pytest.mark.parametrize("where", ["leaf", "root", "quota"])
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.operation)
def test_a_refused_operation_changes_nothing_and_after_it_only_what_does_not_fit_is_refused(
    make_bench: Callable[..., Bench], case: Refused, where: str
) -> None:
    bench = make_bench(where, case.resource, case.limit)
    case.first(bench)
    taken, charged = bench.taken(), bench.charged()
    with pytest.raises(BudgetExceeded) as denied:
        case.do(bench)
    error = denied.value
    assert (error.reason, error.resource, error.budget) == ("limit", case.resource, where)
    assert error.scope == ("tenant" if where == "quota" else "run")
    assert (bench.taken(), bench.charged()) == (taken, charged)
    assert bench.refused() == ({(where, case.resource, "limit")} if case.limit == 0 else set())
    for kept in bench.kept:
        if hasattr(kept, "__exit__") and not hasattr(kept, "commit"):
            kept.__exit__(None, None, None)
        else:
            kept.release()


@pytest.mark.parametrize("where", ["leaf", "root", "quota"])
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.operation)
def test_a_refused_operation_is_pending_on_its_run_and_on_the_one_that_refused(
    make_bench: Callable[..., Bench], case: Refused, where: str
) -> None:
    bench = make_bench(where, case.resource, case.limit)
    case.first(bench)
    with pytest.raises(BudgetExceeded) as denied:
        case.do(bench)
    if case.first is outer_tool:
        bench.kept[0].__exit__(None, None, None)
    with pytest.raises(BudgetExceeded) as again:
        bench.leaf_scope.__exit__(None, None, None)
    assert again.value is denied.value
    if where == "root":
        with pytest.raises(BudgetExceeded) as once_more:
            bench.root_scope.__exit__(None, None, None)
        assert once_more.value is denied.value
    else:
        bench.root_scope.__exit__(None, None, None)
    for kept in bench.kept:
        if hasattr(kept, "release"):
            kept.release()


def test_a_guards_refused_request_does_not_leave(
    make_bench: Callable[..., Bench], server: Provider, client: OpenAI
) -> None:
    bench = make_bench("root", "steps", 1)
    client.chat.completions.create(**CHAT)
    with pytest.raises(BudgetExceeded, match="steps used 1 of 1"):
        client.chat.completions.create(**CHAT)
    assert server.requests == 1
    assert bench.refused() == {("root", "steps", "limit")}


def test_a_refused_stream_extension_charges_the_input_and_the_output_seen(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("leaf", "output_tokens", 100)
    call = made()
    with pytest.raises(BudgetExceeded) as cut:
        call.grow(61)
    call.unknown(61, cut.value)
    assert bench.taken()["root"] == bench.charged()["root"] == tokens(40, 61)


def test_sdk_internal_retries_are_one_step_and_the_input_of_each_attempt_that_nobody_answered(
    bench: Bench, server: Provider, client: OpenAI
) -> None:
    soon = {"retry-after-ms": "1"}
    answer = Reply(text="it", input_tokens=80, output_tokens=20)
    server.enqueue(Reply(status=500, headers=soon), Reply(fault="reset"), answer)
    client.with_options(max_retries=2).chat.completions.create(**CHAT)
    assert server.requests == 3
    assert bench.charged()["leaf"] == bench.taken()["quota"] == tokens(80 + CHAT_INPUT, 20)
    server.enqueue(Reply(status=500, headers=soon), Reply(status=500))
    with pytest.raises(InternalServerError):
        client.with_options(max_retries=1).chat.completions.create(**CHAT)
    assert bench.taken()["root"] == tokens(80 + CHAT_INPUT, 20, steps=2)


# --- wrap_up, extend, and what passes


def test_a_wrap_up_call_is_charged_its_actual_from_the_part_set_aside_and_a_second_is_denied(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("leaf", "steps", 2, wrap_up={"tokens": 500})
    bench.leaf.record_call(1)
    with pytest.raises(BudgetExceeded) as denied:
        bench.leaf.check()
    assert denied.value.reason == "limit"
    with bench.leaf.wrap_up():
        call = made()
        assert bench.taken()["root"] == {**tokens(41, 60, steps=2, cost=160_000)}
        call.commit(Usage(35, 20))
        with pytest.raises(BudgetExceeded, match=r"wrap_up\(\) admits one model call") as second:
            made()
    assert second.value.reason == "limit"
    assert bench.charged() == {"leaf": (both := tokens(36, 20, steps=2, cost=75_000)), "root": both}
    assert bench.refused() == {("leaf", "steps", "limit")}


def test_wrap_up_passes_no_ancestors_limit_no_quota_and_no_freeze(make_bench: Callable[..., Bench]) -> None:
    for where in ("root", "quota"):
        bench = make_bench(where, "steps", 0, wrap_up={"tokens": 500})
        with pytest.raises(BudgetExceeded):
            bench.leaf.check()
        with bench.leaf.wrap_up(), pytest.raises(BudgetExceeded) as denied:
            made()
        assert (denied.value.budget, denied.value.reason) == (where, "limit")
        bench.close()
    bench = make_bench("leaf", "steps", 1, wrap_up={"tokens": 500})
    with pytest.raises(BudgetExceeded):
        bench.leaf.check()
    bench.root.freeze()
    with bench.leaf.wrap_up(), pytest.raises(BudgetExceeded) as denied:
        made()
    assert (denied.value.budget, denied.value.reason) == ("root", "frozen")


def test_extend_charges_and_holds_nothing_and_raises_the_runs_own_limit_only(bench: Bench) -> None:
    bench.root.extend(tokens=5)
    assert bench.taken() == {"leaf": {}, "root": {"tokens": -5}, "quota": {}}
    assert bench.charged() == {"leaf": {}, "root": {}}


def test_extend_deals_with_the_pending_denial_of_that_resource_only(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("leaf", "steps", 0)
    bench.leaf.extend(to={"tool_calls": 0})
    for asked in ({"steps": 1}, {"tool_calls": 1}):
        with pytest.raises(BudgetExceeded):
            bench.leaf.check(**asked)
    bench.leaf.extend(steps=1)
    assert bench.leaf.check(steps=1)
    with pytest.raises(BudgetExceeded) as pending:
        bench.leaf_scope.__exit__(None, None, None)
    assert pending.value.resource == "tool_calls"


def frozen(bench: Bench) -> None:
    bench.root.freeze(reason="audit")


def busy(bench: Bench) -> None:
    bench.kept.append(bench.root.reserve(steps=1))


def late(bench: Bench) -> None:
    bench.world.advance(10)


PASSING = [
    ("freeze", frozen, "frozen", lambda b: b.root.unfreeze()),
    ("busy", busy, "busy", lambda b: b.kept[0].release()),
    ("deadline", late, "deadline", lambda b: b.leaf.extend(seconds=60)),
]


@pytest.mark.parametrize(("name", "bring", "reason", "end"), PASSING, ids=[row[0] for row in PASSING])
def test_what_passes_leaves_nothing_behind(
    make_bench: Callable[..., Bench],
    name: str,
    bring: Callable[[Bench], None],
    reason: str,
    end: Callable[[Bench], None],
) -> None:
    bench = make_bench("root", "steps", 1, max_seconds=10)
    bring(bench)
    for _ in range(2):
        with pytest.raises(BudgetExceeded) as denied:
            bench.leaf.check(steps=1, tokens=1)
        assert denied.value.reason == reason
        assert (denied.value.retry_after_s is not None) == (reason == "busy")
    end(bench)
    assert bench.leaf.check(steps=1, tokens=1)
    assert bench.refused() == set()


def test_a_quotas_denial_ends_with_its_window(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("quota", "steps", 1)
    bench.leaf.record_call(5)
    for _ in range(3):
        with pytest.raises(BudgetExceeded) as denied:
            bench.leaf.check()
        assert (denied.value.reason, denied.value.scope) == ("limit", "tenant")
    assert denied.value.resets_at is not None
    bench.world.advance(86_400)
    assert bench.leaf.check()
    assert (bench.leaf.state, bench.root.state) == ("active", "active")


@pytest.mark.parametrize("where", ["run", "quota"])
def test_an_account_in_warn_charges_holds_and_flags_and_never_blocks_or_pends(
    make_world: Callable[..., World], where: str
) -> None:
    quota = Quota(steps=1, on_exhausted="warn", name="soft")
    world = make_world(config=Config(prices=PRICES, quotas=Quotas(default=[quota] if where == "quota" else [])))
    world.activate()
    budget = RunBudget(max_steps=1, on_exhausted="warn") if where == "run" else RunBudget()
    with world.run(budget) as run:
        made().commit(Usage(35, 20))
        decision = run.check()
        assert (bool(decision), decision.warned) == (True, True)
        assert decision.denial is not None
        assert (decision.denial.scope, decision.denial.reason) == ("run" if where == "run" else "tenant", "limit")
        with run.reserve(tokens=5) as hold:
            assert hold.held["steps"] == 1
            hold.commit(Usage(5, 0))
        made().commit(Usage(35, 20))
        assert run.usage.steps == 3
        assert run.state == "active"
    assert run.receipt().denials == 0
    assert world.counted()["check", "warn", "limit"] == 1
