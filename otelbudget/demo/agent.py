"""`ResearchAgent`: answers a question from a small library with the real ``openai`` client, and ends well on a budget.

It has no control over its own spending. What it does about a budget is what any agent should do: let `BudgetExceeded`
end the loop, and make the best of what was found so far.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import otelbudget
from otelbudget.demo.library import Library
from otelbudget.demo.paying import paid_call
from otelbudget.demo.service import connect, find_service
from otelbudget.demo.tools import TOOLS, Tools
from otelbudget.demo.writer import NOTES, cut, synthesis
from otelbudget.errors import BudgetError, BudgetExceeded
from otelbudget.runs.api import current_run

if TYPE_CHECKING:
    import openai

    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.run import BudgetRun

_MAX_OUTPUT_TOKENS = 400
#: Under an unlimited budget nothing else would end a model that never stops to call tools.
_MOST_STEPS = 40
#: For the last call, where the budget does not say, and what of it the prompt around the notes takes.
_SUMMARY_TOKENS = 1500
_OVERHEAD_TOKENS = 80
_SYSTEM = (
    "You answer questions from a library of documents. Search it, read at least {documents} documents, and then answer "
    "in one paragraph from what you have read."
)


@dataclass(eq=False, slots=True)
class ResearchAgent:
    """Searches, reads, and answers in one paragraph.

    With ``OPENAI_API_KEY`` set it talks to that service, else to a server on loopback that needs no key.

    Example:
        >>> ResearchAgent(RunBudget(max_steps=5)).answer("How does a token bucket work?")["exhausted"]
        False

    Args:
        budget: What one answer may spend: a `RunBudget`, a name, or None for the run around the call, else the default.
        documents: How many documents to read before answering.
        model: The model to ask; None takes ``OTELBUDGET_DEMO_MODEL``, else the service's usual one.
        client: An ``openai.OpenAI`` to use instead of an own one.
        tenant, user: Who pays.
        library: Where to search; None takes the documents that ship with otelbudget.

    Raises:
        ImportError: The ``openai`` client is not installed (raised by `answer`).
    """

    budget: RunBudget | str | None = None
    _: KW_ONLY
    documents: int = 3
    model: str | None = None
    client: openai.OpenAI | None = None
    tenant: str | None = None
    user: str | None = None
    library: Library | None = None

    def answer(self, question: str) -> dict[str, Any]:
        """Research *question* and say what it took.

        Returns:
            ``answer`` (text; a partial one if the budget ran out), ``budget_used`` ({resource: amount}, money as
            Decimal USD), ``exhausted`` (whether a limit ended the work), ``reason``, ``resource`` and ``message`` (of
            the refusal, else None) and ``documents`` (ids of what was read).
        """
        denial: BudgetExceeded | None = None
        with contextlib.ExitStack() as stack:
            client, model = self.client, self.model
            if client is None or model is None:
                service = find_service()
                client = client or stack.enter_context(connect(service))
                model = model or service.model
            run = current_run() if self.budget is None else None
            run = run or stack.enter_context(
                otelbudget.run(self.budget, tenant=self.tenant, user=self.user, reraise=False)
            )
            research = _Research(question, client, model, run, Tools(run, self.library or Library.packaged()))
            try:
                text = research.work(self.documents)
            except BudgetExceeded as error:
                denial = error
                text = research.conclude(error)
        return {
            "answer": text,
            "budget_used": dict(run.receipt().used),
            "exhausted": denial is not None,
            "reason": denial and denial.reason,
            "resource": denial and denial.resource,
            "message": denial and str(denial),
            "documents": list(research.tools.read),
        }


@dataclass(frozen=True, slots=True)
class _Research:
    """The work on one question."""

    question: str
    client: openai.OpenAI
    model: str
    run: BudgetRun
    tools: Tools

    def work(self, documents: int) -> str:
        """Ask the model and do what it wants until it answers."""
        messages: list[Any] = [
            {"role": "system", "content": _SYSTEM.format(documents=documents)},
            {"role": "user", "content": self.question},
        ]
        for _ in range(_MOST_STEPS):
            said = self._ask(messages, tools=TOOLS)
            if not said.tool_calls:
                return said.content or ""
            messages.append(said.model_dump(exclude_none=True))
            for call in said.tool_calls:
                content = self.tools.call(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        return self._ask([*messages, {"role": "user", "content": "Answer now."}]).content or ""

    def conclude(self, refusal: BudgetExceeded) -> str:
        """The best answer left after *refusal*: one last call if the budget allows it, else what was read, quoted."""
        self.run.acknowledge()
        # A refused tool leaves model calls allowed; anything else leaves only what the budget set aside.
        tool_refused = refusal.resource in ("tool_calls", "nested_tool_calls")
        set_aside = self.run.budget.wrap_up
        if self.tools.read and (tool_refused or set_aside is not None):
            try:
                with contextlib.nullcontext() if tool_refused else self.run.wrap_up():
                    return self._summary(int((set_aside or {}).get("tokens", _SUMMARY_TOKENS)))
            except BudgetError:
                self.run.acknowledge()
        return self._quotes()

    def _summary(self, tokens: int) -> str:
        """One call without tools and without the long history, so that it fits into *tokens*."""
        output_tokens = min(_MAX_OUTPUT_TOKENS, tokens // 3)
        notes = cut(self._quotes(), max(0, tokens - output_tokens - _OVERHEAD_TOKENS))
        messages = [
            {"role": "system", "content": "Answer in one paragraph from the notes."},
            {"role": "user", "content": self.question},
            {"role": "user", "content": NOTES + notes},
        ]
        return self._ask(messages, max_completion_tokens=output_tokens).content or self._quotes()

    def _ask(self, messages: Sequence[Any], **options: Any) -> Any:
        """The model's message in answer to *messages*."""
        body = {"model": self.model, "messages": messages, "max_completion_tokens": _MAX_OUTPUT_TOKENS, **options}
        with paid_call(self.run, body) as settle:
            response = self.client.chat.completions.create(**body)
            settle(response)
        return response.choices[0].message

    def _quotes(self) -> str:
        texts = [document.text for document in self.tools.read.values()]
        return synthesis(self.question, texts) or "The budget ran out before any document was read."
