"""Calls that were charged a moment ago: another layer may report the same one at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from otelbudget.engine.owner import Owner
from otelbudget.model.amounts import Unsaid
from otelbudget.model.usage import Usage

#: How many are remembered.
_KEPT: Final = 256
#: Shorter names of responses are no proof: some servers name all of theirs alike, and Ollama's are a thousand.
_UNIQUE: Final = 20
#: Who tells of a call that its guard or span has told of: `record` and `commit`.
_THE_USER: Final = "otelbudget.record"


class Work(NamedTuple):
    """The run of a call: the accounts of its lineage, whether it is one that nobody opened, and whose it is."""

    accounts: tuple[Any, ...]
    unopened: bool
    owner: Owner

    def paid_by(self, payer: Any) -> bool:
        """Whether *payer*, a run or the quotas of a tenant, was charged for the call."""
        if payer.run is None:
            return bool(payer.owner.includes(self.owner))
        return payer.run.account in self.accounts


class _Settled(NamedTuple):
    work: Work
    usage: Usage
    began_ns: int
    reporter: str | None
    told: dict[str | None, object]  # the other layers that have reported it

    def tells(self, reporter: str | None) -> bool:
        """Note that *reporter* tells of it, in one step for threads; whether it is the first time."""
        mine = object()
        return self.told.setdefault(reporter, mine) is mine

    def same(self, work: Work, usage: Usage, start_ns: int, end_ns: int) -> bool:
        """Whether it is the call that a span reports: by its response, else by equal tokens within its time.

        Spans of a framework may be in a run of their own, which nobody opened, beside that of the calls it makes.
        """
        mine, theirs = self.usage, work.accounts
        unopened = self.work.unopened and work.unopened
        if mine.response_id and usage.response_id:
            return mine.response_id == usage.response_id and (unopened or self.work.accounts[0] is theirs[0])
        tokens = (mine.input_tokens, mine.output_tokens) == (usage.input_tokens, usage.output_tokens)
        return tokens and (unopened or theirs[-1] in self.work.accounts) and start_ns <= self.began_ns <= end_ns

    def recorded(self, payer: Any, usage: Usage) -> bool:
        """Note that a user records it, if *usage* is its: by its response, also if that is recorded again, else by the
        tokens that both of them know, where each stands for one record."""
        mine = self.usage
        if not self.work.paid_by(payer):
            return False
        if mine.response_id and usage.response_id:
            if mine.response_id != usage.response_id:
                return False
            if len(usage.response_id) >= _UNIQUE:
                return self.tells(_THE_USER) or mine.tokens == usage.tokens
        given = (mine.input_tokens, usage.input_tokens)
        same = mine.tokens == usage.tokens and (given[0] == given[1] or any(isinstance(one, Unsaid) for one in given))
        return same and self.tells(_THE_USER)


_last: ContextVar[_Settled | None] = ContextVar("otelbudget-last-call", default=None)


class Recent:
    """The calls that were charged last."""

    def __init__(self) -> None:
        self._settled: deque[_Settled] = deque(maxlen=_KEPT)
        #: Gives the call that was charged last in this context, for `made_since`.
        self.last_here: Callable[[], object] = _last.get

    def settled(self, work: Work, usage: Usage, began_ns: int, reporter: str | None) -> None:
        """Remember a charged call."""
        one = _Settled(work, usage, began_ns, reporter, {})
        self._settled.append(one)
        _last.set(one)

    def was_settled(self, work: Work, usage: Usage, start_ns: int, end_ns: int, reporter: str | None) -> bool:
        """Whether a call that a span reports was charged before, told by another layer."""
        for one in list(self._settled):
            # No layer reports one call twice, so each stands for one call of every other: parallel ones are several.
            seen = reporter not in (*one.told, one.reporter) and one.same(work, usage, start_ns, end_ns)
            if seen and one.tells(reporter):
                return True
        return False

    def was_seen(self, payer: Any, usage: Usage) -> bool:
        """Whether a call that a user records on *payer* was charged to it before: the one with its response, else the
        last one made here, if it used as much. Quotas may be told of a call without its step."""
        if usage.steps not in ((0, 1) if payer.kind == "quota" else (1,)) or usage.tool_calls or not usage.tokens:
            return False
        name, last = usage.response_id, _last.get()
        named = [one for one in list(self._settled) if one.usage.response_id == name] if name else []
        if not named:
            return last is not None and last.recorded(payer, usage)
        named.sort(key=lambda one: _THE_USER in one.told)
        return any(one.recorded(payer, usage) for one in named)

    def made_since(self, before: object, payer: Any, *, answered: bool) -> bool:
        """Whether a call, or one that was *answered*, has been charged to *payer* here since *before* was the last one;
        it is told of by that."""
        last = _last.get()
        if last is None or last is before or not last.work.paid_by(payer):
            return False
        if answered and not last.usage.tokens:
            return False
        return last.tells(_THE_USER)
