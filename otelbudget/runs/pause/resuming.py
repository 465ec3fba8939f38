"""`otelbudget.resume`: the run that goes on from a state that `export_state` gave, in whatever process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import Link, SpanContext, TraceFlags

from otelbudget.admission import admission
from otelbudget.errors import BudgetError, BudgetExceeded, ConfigError
from otelbudget.ledger import ledger
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import NOTHING, RESOURCES, Amounts
from otelbudget.model.budget import RunBudget, Usage
from otelbudget.model.message import REASONS
from otelbudget.model.quota import PRIORITIES
from otelbudget.runs.attempts import Attempt, LogicalCall
from otelbudget.runs.idempotency import Entry, keys_of
from otelbudget.runs.pause import forms
from otelbudget.runs.pause.exporting import FORMAT, VERSION
from otelbudget.runs.pause.parts import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.engine.engine import Engine
    from otelbudget.model.decision import Denial
    from otelbudget.runs.run import BudgetRun

__all__ = ["Paused", "read", "rebuild"]

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Key:
    """What was done under one key; *kind* says which of the others there are."""

    key: str
    kind: str
    payload: Amounts | Usage
    held: Amounts = NOTHING
    state: Any = "released"
    paid: Usage | None = None
    on_unknown: str = "full"
    steps: int = 0
    call: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """An exported state that has been read, field by field as `pausing` writes it."""

    number: int
    links: Sequence[Link]
    owner: dict[str, str | None]
    budget: RunBudget
    limits: tuple[int, ...]
    ordinary_limits: tuple[int, ...]
    max_ns: int | None
    elapsed_ns: int
    used: Amounts
    below: Amounts | None
    quotas: dict[tuple[str, str | None], Amounts]
    outcome: str
    latched: int
    wrapped_up: bool
    ran_out: str | None
    unpriced: str | None
    frozen: str | None
    denials: int
    first_denial: Denial | None
    pending: dict[tuple[str | None, str], BudgetExceeded | None]
    calls: Sequence[tuple[Sequence[str], int]]
    keys: Sequence[_Key]


# --- reading


def read(state: object, on_exhausted: Any) -> Paused:
    """The run that *state* describes.

    Raises:
        ConfigError: It is not what `export_state` gives; the message names the field.
    """
    part = Part(state, "state")
    if part.data.get("format") != FORMAT:
        raise ConfigError(f"state.format must be {FORMAT!r}: this is not what run.export_state() gives")
    version = part.data.get("version")
    if type(version) is not int or version != VERSION:
        raise ConfigError(f"state.version is {version!r}, and this otelbudget reads version {VERSION} only")
    run_id = part.text("run_id")
    if not _RUN_ID.fullmatch(run_id):
        part.refuse("run_id", "32 hexadecimal digits")
    below = part.get("used_below")
    return Paused(
        number=int(run_id, 16),
        links=_links(part),
        owner=_owner(part.part("owner")),
        budget=forms.read_budget(part.part("budget"), on_exhausted),
        **_limits(part),
        elapsed_ns=part.number("elapsed_ns"),
        used=part.amounts("used"),
        below=None if below is None else part.amounts("used_below"),
        quotas={(q.text("scope"), q.optional_text("name")): q.amounts("used") for q in part.parts("quotas")},
        outcome=part.choice("outcome", "completed", "exhausted"),
        latched=_latched(part),
        wrapped_up=part.flag("wrapped_up"),
        ran_out=part.optional_text("ran_out"),
        unpriced=part.optional_text("unpriced"),
        frozen=part.optional_text("frozen"),
        denials=part.number("denials"),
        first_denial=forms.read_denial(part.optional_part("first_denial")),
        pending=dict(map(_pending, part.parts("pending"))),
        **_keys(part),
    )


def _links(part: Part) -> list[Link]:
    parent = part.optional_text("traceparent")
    if parent is None:
        return []
    found = _TRACEPARENT.fullmatch(parent)
    if found is None:
        part.refuse("traceparent", "a W3C traceparent or null")
    trace_id, span_id, flags = (int(digits, 16) for digits in found.groups())
    return [Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)))]


def _owner(part: Part) -> dict[str, str | None]:
    user = part.get("user")
    return {
        "org": part.text("org"),
        "tenant": part.text("tenant"),
        "user": None if user is None else part.text("user"),
        "priority": part.choice("priority", *PRIORITIES),
    }


def _limits(part: Part) -> dict[str, Any]:
    full, ordinary = part.limits("limits"), part.limits("ordinary_limits")
    if any(a > b for a, b in zip(ordinary, full, strict=True)):
        raise ConfigError("state.ordinary_limits must not exceed state.limits")
    max_ns = None if part.get("max_ns") is None else part.number("max_ns")
    return {"limits": full, "ordinary_limits": ordinary, "max_ns": max_ns}


def _latched(part: Part) -> int:
    latched = part.texts("latched")
    if not set(latched) <= set(RESOURCES):
        part.refuse("latched", f"a list of {', '.join(RESOURCES)}")
    return sum(1 << RESOURCES.index(resource) for resource in set(latched))


def _pending(part: Part) -> tuple[tuple[str | None, str], BudgetExceeded | None]:
    key = (part.optional_text("resource"), part.choice("reason", *REASONS))
    return key, forms.read_error(part.optional_part("error"))


def _keys(part: Part) -> dict[str, Any]:
    calls = [(one.texts("names"), one.number("charged")) for one in part.parts("calls")]
    return {"calls": calls, "keys": [_key(one, len(calls)) for one in part.parts("keys")]}


def _key(part: Part, calls: int) -> _Key:
    key, kind = part.text("key"), part.choice("kind", "reserve", "record")
    if kind == "record":
        usage = forms.read_usage(part.part("usage"))
        assert usage is not None
        return _Key(key, kind, usage)
    call = part.number("call")
    if call >= calls:
        part.refuse("call", "the index of one of state.calls")
    return _Key(
        key,
        kind,
        part.amounts("amounts"),
        part.amounts("held"),
        part.choice("state", "committed", "released", "expired"),
        forms.read_usage(part.optional_part("paid")),
        part.choice("on_unknown", "input", "full", "open"),
        part.number("steps"),
        call,
    )


# --- the run itself


def rebuild(engine: Engine, paused: Paused, *, reraise: bool) -> BudgetRun:
    """A run that goes on from *paused*; its time goes on from now.

    Raises:
        BudgetError: That run is open in this process.
    """
    from otelbudget.runs.run import BudgetRun

    owner = engine.owners.owner(**paused.owner)
    live: Any = engine.meters.live
    with engine.lock:
        if any(one.number == paused.number for one in live):
            raise BudgetError(
                f"run {paused.number:032x} is open in this process: leave it before its state is resumed here,"
                f" or it could spend twice what it has left"
            )
        run = BudgetRun(engine, paused.budget, owner, reraise=reraise)
        run.number = paused.number
        _fill_accounts(run, paused)
        run.started_ns = engine.clock_ns() - paused.elapsed_ns
        run.max_ns = paused.max_ns
        for name in ("outcome", "latched", "wrapped_up", "ran_out", "unpriced", "frozen", "denials", "first_denial"):
            setattr(run, name, getattr(paused, name))
        run.pending = {key: (error, run) for key, error in paused.pending.items()} or None
        if paused.keys or paused.calls:
            _fill_keys(run, paused)
        run.refresh()
    receipt = run.receipt()
    for error in paused.pending.values():
        if error is not None:
            error.receipt = receipt
    return run


def _fill_accounts(run: BudgetRun, paused: Paused) -> None:
    account = run.account
    account.used[:] = paused.used
    account.below = None if paused.below is None else list(paused.below)
    ledger.relimit(account, paused.ordinary_limits, paused.limits)  # arms what has not been reached
    for quota in run.accounts[:-1]:
        used = paused.quotas.get((quota.scope, quota.name))
        if used is not None:
            quota.used[:] = used
            ledger.rearm(quota)


def _fill_keys(run: BudgetRun, paused: Paused) -> None:
    keys = keys_of(run)
    calls = [LogicalCall(charged) for _, charged in paused.calls]
    for (names, _), call in zip(paused.calls, calls, strict=True):
        keys.calls.update(dict.fromkeys(names, call))
    for one in paused.keys:
        attempt = None
        if one.kind == "reserve":
            hold = Hold(tuple(admission.payers(run)), one.held, payer=run)
            hold.state, hold.paid = one.state, one.paid
            attempt = Attempt(keys, calls[one.call], hold, one.steps)
        entry = Entry("reserve" if attempt else "record", one.payload, attempt)
        entry.on_unknown = one.on_unknown
        keys.entries[one.key] = entry
