"""What a person reads in the log, a line each: a refusal, a step, a run over its limit, a run that nothing limits.

The logger `otelbudget` tells what wants attention; `otelbudget.steps`, at INFO, each record.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from otelbudget.ledger.account import Account
from otelbudget.model.amounts import COST, INPUT, OUTPUT, RESOURCES, STEPS, TOKENS, TOOLS, UNLIMITED, shown
from otelbudget.model.decision import Denial
from otelbudget.model.message import amount, message, whose
from otelbudget.model.vector import lane

if TYPE_CHECKING:
    from otelbudget.admission.cost import Price
    from otelbudget.admission.payer import Payer

_log = logging.getLogger("otelbudget")
#: Who wants a line per record switches this one on.
RECORDS: Final = logging.getLogger("otelbudget.steps")
#: Reasons that somebody or something else lifts: no matter for a warning.
_LIFTED: Final = ("busy", "frozen")
#: How many refusals of quota services are remembered.
_KEPT: Final = 4096
_unlimited_told = False


def _tell(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    with contextlib.suppress(Exception):  # a handler that fails is no matter of the call that it hears of
        logger.log(level, text, *args)


# --- a process without limits


def unlimited(text: str, *args: object) -> None:
    """Warn that nothing is limited; no run says so once more."""
    global _unlimited_told
    _unlimited_told = True
    _tell(_log, logging.WARNING, text, *args)


def unlimited_run(payer: Payer) -> None:
    """Warn, once per process, that nothing limits the run of *payer*."""
    if not _unlimited_told:
        unlimited(
            "nothing limits %s: it was given no budget, there is no default_budget, and no quota binds it. Give setup()"
            " a RunBudget or a budgets.yaml, or run() a budget; run(RunBudget()) says that no limit is meant."
            " This is said once per process",
            _who(payer),
        )


# --- refusals, and what they failed to prevent


def refused(payer: Payer, denial: Denial, blocker: Any, times: int) -> None:
    """Tell of a denial by the budget of *blocker* (None: by a quota), the first time that its run, or its tenant in
    that window, meets it."""
    if times > 1 or (payer.run is None and _told_before(payer, denial)):
        return
    level = logging.INFO if denial.reason in _LIFTED else logging.WARNING
    of_blocker = denial.where is None and blocker is not None
    to = "" if payer.run is None or (of_blocker and blocker is payer.run) else f" to run {payer.run_id[:8]}"
    text = " ".join(message(denial, blocker.run_id[:8] if of_blocker else None).split())
    _tell(_log, level, "refused (%s)%s: %s", denial.reason, to, text)


def _told_before(payer: Payer, denial: Denial) -> bool:
    told = payer.engine.refused
    key = (payer.owner.names, denial.reason, denial.resource, denial.where, denial.resets_at)
    if key in told:
        return True
    if len(told) >= _KEPT:
        told.clear()
    told.add(key)
    return False


def unpriced(payer: Payer, model: str | None) -> None:
    """Warn, once per model, that a cost limit does not see what was charged."""
    what = "what was recorded without a cost or a model" if model is None else f"model {model!r}"
    payer.engine.warn_once(
        f"unpriced {model}",
        "no price is known for %s, so no cost limit counts what %s has spent; pass cost_usd, or a model with a price"
        " (`prices:` in budgets.yaml)",
        what,
        _who(payer),
    )


def dropped(payer: Payer) -> None:
    """Warn, once, of a reservation that nobody has settled."""
    payer.engine.warn_once(
        "dropped",
        "a reservation of %s was dropped without commit() or release(): it held its amounts until it expired, and"
        " nothing is charged; use it as a block, `with run.reserve(...) as held:`",
        _who(payer),
    )


def recorded_again(payer: Payer) -> None:
    """Warn, once, of a call that was recorded although a guard or a span had charged it."""
    payer.engine.warn_once(
        "recorded again",
        "%s recorded a call that was charged already, by its guard or its span; it is charged once. What is guarded"
        " needs no record(), no commit() and no consume_quota()",
        _who(payer),
    )


def overage(denial: Denial) -> None:
    """Tell of a run that ended over a limit of its own, although nothing was refused."""
    _tell(_log, logging.WARNING, "ended (overage): %s", message(denial, (denial.run_id or "")[:8]))


# --- records


def step(
    payer: Payer, charged: Sequence[int], model: str | None, owner: Any, cost: Price, flags: Sequence[str] = ()
) -> None:
    """Tell what was charged; to be called only if `RECORDS` is enabled."""
    how = ", ".join(flag.rpartition(".")[2] for flag in flags)
    what = (", ".join(_amounts(charged)) or "nothing") + (f" ({how})" if how else "")
    of = "" if model is None else f" of model {model!r}{' (no price known)' if cost.unpriced else ''}"
    fullest = _fullest(payer.binding(model, owner).accounts)
    _tell(RECORDS, logging.INFO, "charged %s%s to %s; %s", what, of, _who(payer), fullest)


def _amounts(charged: Sequence[int]) -> list[str]:
    said = [f"{charged[i]} {one if charged[i] == 1 else f'{one}s'}" for i, one in _COUNTED if charged[i]]
    if charged[TOKENS]:
        split = f" ({charged[INPUT]} in, {charged[OUTPUT]} out)" if charged[INPUT] and charged[OUTPUT] else ""
        said.append(f"{charged[TOKENS]} tokens{split}")
    if charged[COST]:
        said.append(amount("cost_usd", shown(COST, charged[COST])))
    return said


_COUNTED: Final = ((STEPS, "step"), (TOOLS, "tool call"))


def _fullest(accounts: Sequence[Account]) -> str:
    """The limit of which the greatest part is used."""
    rows = [
        (lane(account.used, i) / limit if limit else 1.0, account, rule.name, i, limit)
        for account in accounts
        for rule in account.rules
        for i, limit in enumerate(rule.full)
        if limit < UNLIMITED
    ]
    if not rows:
        return "no limit"
    _, account, name, i, limit = max(rows, key=lambda row: row[0])
    used, most = (amount(RESOURCES[i], shown(i, value)) for value in (lane(account.used, i), limit))
    of = f"quota {name!r} of {whose(account.where)}" if account.where else f"budget {name!r}" if name else "budget"
    return f"{RESOURCES[i]} used {used} of {most} ({of})"


def _who(payer: Payer) -> str:
    user = "" if payer.owner.user is None else f", user {payer.owner.user!r}"
    tenant = f"tenant {payer.tenant!r}{user}"
    return tenant if payer.run is None else f"run {payer.run_id[:8]} ({tenant})"
