"""What earlier calls say about the next one: how long a model's answers are, how far counted input is off, and how
much is kept of a conversation by its provider.

Pure but for its own lock: it knows only what `learn` is told, and forgets the model not asked about for longest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otelbudget import forking
from otelbudget.model.amounts import CEILING
from otelbudget.model.names import undated

if TYPE_CHECKING:
    from otelbudget.model.usage import Usage

#: How many answers of a model must have been seen before they say how long the next one is, and how many count.
AFTER: Final = 5
WINDOW: Final = 100
#: Share of the newest call in the averages of actual to counted input, and the bounds of what a call may say.
WEIGHT: Final = 0.2
LOWEST: Final = 0.5
HIGHEST: Final = 3.0
#: Models remembered; their names come from callers, so their number has no other bound.
MODELS: Final = 256
#: Answers and conversations remembered, the newest of them.
KEPT: Final = 10_000
_MILLION: Final = 1_000_000


@dataclass(slots=True)
class _Seen:
    """What was seen of one model: lengths of answers, actual to counted input and its deviation, and costs per million
    tokens."""

    outputs: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    ratio: float = 1.0
    deviation: float = 0.0
    corrected: bool = False
    rates: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    reports: bool | None = None


class Learned:
    """What is known of models, each by its provider and its name without a date. Any thread may ask and tell.

    Example:
        >>> from otelbudget.model import Usage
        >>> learned = Learned()
        >>> learned.learn("openai", "gpt-4o", Usage(150, 30), counted_input=100)
        >>> learned.input_tokens("openai", "gpt-4o-2024-08-06", 1_001)
        1502
    """

    def __init__(self) -> None:
        # Re-entrant, since the garbage collector may settle a dropped call while this thread holds it.
        self._lock = forking.fresh_lock()
        self._models: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        self._kept: OrderedDict[tuple[str, str], int] = OrderedDict()

    def input_tokens(self, provider: str, model: str | None, counted: int) -> int:
        """*counted* input tokens, corrected by how far counts of this model were off, rounded up to a whole token.

        The factor is the moving average of actual to counted input, each bounded to 0.5 to 3, and on top of it that of
        how far they are from it, as in RFC 6298; in thousandths, and 1 until a call was seen.
        """
        with self._lock:
            seen = self._seen(provider, model)
            return -(-counted * round((seen.ratio + seen.deviation) * 1_000) // 1_000)

    def keep(self, provider: str, name: str | None, tokens: int) -> None:
        """Remember that the provider keeps *tokens*, input and output, under *name*; the most that was ever seen."""
        if name is None:
            return
        with self._lock:
            self._kept[provider, name] = max(tokens, self._kept.pop((provider, name), 0))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def kept_tokens(self, provider: str, name: str | None) -> int:
        """What the next turn takes along of the answer or conversation *name*; 0 if it was not seen here."""
        return self._kept.get((provider, name or ""), 0)

    def output_tokens(self, provider: str, model: str | None) -> int | None:
        """A quarter more than the longest of its last 100 answers; None before the fifth."""
        with self._lock:
            outputs = self._seen(provider, model).outputs
            return None if len(outputs) < AFTER else -(-max(outputs) * 5 // 4)

    def reports_cost(self, provider: str | None, model: str | None) -> bool | None:
        """Whether the last response said what it cost; None if none was seen."""
        with self._lock:
            return self._seen(provider, model).reports

    def cost_nanousd(self, provider: str | None, model: str | None, tokens: int) -> int | None:
        """What *tokens* cost at the dearest of the costs per token that its responses reported, rounded up.

        None before the first of them, and after a response that reported none.
        """
        with self._lock:
            dearest = max(self._seen(provider, model).rates, default=None)
        return None if dearest is None else min(-(-tokens * dearest // _MILLION), CEILING - 1)

    def learn(
        self,
        provider: str,
        model: str | None,
        usage: Usage,
        *,
        counted_input: int | None = None,
        answers: int | None = 1,
        cost_nanousd: int | None = None,
    ) -> None:
        """Take in what one call used.

        Nothing is learned from an estimate, of a call without a model, or from one that should have an output and
        has none, since that may be a total without its split.

        Args:
            counted_input: Its input as it was counted before, uncorrected; None if nobody could.
            answers: How many answers share the output; None if it says nothing of how long answers are.
            cost_nanousd: What the response says it cost, 0 if it does not say; None if nobody looked.
        """
        if usage.estimated or not model or (answers is not None and not usage.output_tokens):
            return
        with self._lock:
            seen = self._seen(provider, model)
            self._models[provider, undated(model)] = seen
            if len(self._models) > MODELS:
                self._models.popitem(last=False)
            if counted_input and usage.input_tokens:
                now = min(HIGHEST, max(LOWEST, usage.input_tokens / counted_input))
                off = now - seen.ratio if seen.corrected else 0.0
                seen.deviation += WEIGHT * (abs(off) - seen.deviation)
                seen.ratio = seen.ratio + WEIGHT * off if seen.corrected else now
                seen.corrected = True
            if answers is not None and usage.output_tokens:
                seen.outputs.append(-(-usage.output_tokens // answers))
            if cost_nanousd is not None:
                seen.reports = cost_nanousd > 0
                if not cost_nanousd:
                    seen.rates.clear()
                elif usage.tokens:
                    seen.rates.append(-(-cost_nanousd * _MILLION // usage.tokens))

    def _seen(self, provider: str | None, model: str | None) -> _Seen:
        """What was seen of a model, moved to the end of those to be forgotten; nothing of one not seen yet."""
        key = (provider or "", undated(model or ""))
        if key not in self._models:
            return _Seen()
        self._models.move_to_end(key)
        return self._models[key]
