"""The load of ``otelbudget demo``: every tenant's agent in a thread of its own, over HTTP, under its own budget."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import otelbudget
from otelbudget.demo.agent import ResearchAgent
from otelbudget.demo.server import Request
from otelbudget.demo.service import Service, connect

if TYPE_CHECKING:
    import openai

    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.view import Receipt

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_LIMITS = ("limit", "deadline", "busy")
#: The budgets file that ships with the demo.
BUDGETS = Path(__file__).with_name("budgets.yaml")


@dataclass(frozen=True, slots=True)
class Job:
    """What one tenant's agent does, again and again under ``--serve``.

    A *stubborn* job is no research agent but a loop that swallows this many refusals before it gives up.
    """

    tenant: str
    #: Name in the budgets file; None takes the default budget.
    budget: str | None
    documents: int = 3
    model: str = "demo-small"
    #: How long the server takes to answer it.
    latency_s: float = 0.5
    stubborn: int = 0


#: In the order in which ``--tenants N`` takes them: one refusal each for steps, tokens, money and time come first.
JOBS = (
    Job("globex", "support_bot", documents=16),
    Job("initech", "summarizer", documents=16),
    Job("umbrella", "analyst", documents=16, model="demo-large"),
    Job("hooli", "live_chat", documents=16, latency_s=1.2),
    Job("acme", "quick_answer"),
    Job("wonka", "autopilot", latency_s=0.3, stubborn=25),
    Job("stark", "crawler", documents=16),
    Job("wayne", "deep_research", documents=24, latency_s=0.4),
)

#: Asked in turn, each agent beginning with another one.
QUESTIONS = (
    "How can a quota be shared fairly between tenants?",
    "What makes an agent loop forever, and what stops it?",
    "How should a client retry failed requests?",
    "Why do label values matter in metrics?",
    "How do reservations prevent overspending?",
    "What should a limiter do when its store fails?",
    "Why does the slowest request decide how fast a page is?",
    "How are the tokens of a language model counted and priced?",
)


def jobs(number: int, budgets: Collection[str], *, patient: bool = False) -> list[Job]:
    """*number* jobs under *budgets*: those of `JOBS`, then the same for further tenants.

    A job whose budget is not there takes one of those that are, or the default budget if there is none. For *patient*
    watchers deep research takes long enough to be seen while it goes on.
    """
    names = list(budgets)
    made = []
    for i in range(number):
        job, turn = JOBS[i % len(JOBS)], i // len(JOBS)
        budget = job.budget if job.budget in budgets else names[i % len(names)] if names else None
        slower = 8 if patient and job.budget == "deep_research" else 1
        job = replace(job, latency_s=slower * job.latency_s)
        made.append(replace(job, budget=budget, tenant=job.tenant if turn == 0 else f"{job.tenant}-{turn + 1}"))
    return made


def latency(work: Iterable[Job]) -> Callable[[Request], float]:
    """How many seconds the server takes for a request, by whose it is."""
    seconds = {job.tenant: job.latency_s for job in work}
    return lambda request: seconds.get(request.user or "", 0.0)


@dataclass(slots=True)
class Row:
    """One tenant's agent as a screen shows it."""

    job: Job
    #: The run in progress (then it is *working*), or the last one; None before the first.
    run: BudgetRun | None = None
    working: bool = False
    #: What `ResearchAgent.answer` gave last.
    answer: dict[str, Any] | None = None
    #: How many runs ended how: ``completed``, or the resource (else the reason) that stopped them.
    outcomes: Counter[str] = field(default_factory=Counter)
    error: Exception | None = None

    def receipt(self) -> Receipt | None:
        """The receipt of the run in progress, or of the last one."""
        return self.run.receipt() if self.run is not None else None


def stopped_by(receipt: Receipt) -> str | None:
    """What ended a run: a resource, or the reason if it was not a limit; None if nothing was refused."""
    return receipt.resource if receipt.reason in _LIMITS else receipt.reason


class Load:
    """Agents at work, one thread per job, *forever* or for one run each.

    *changed* is called with a row when its run begins and when it has ended; from the row's thread.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        base_url: str,
        *,
        forever: bool = False,
        changed: Callable[[Row], None] = lambda _: None,
    ) -> None:
        self.rows = [Row(job) for job in jobs]
        self._base_url = base_url
        self._forever = forever
        self._changed = changed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(i, row), name=f"agent-{row.job.tenant}", daemon=True)
            for i, row in enumerate(self.rows)
        ]

    def start(self) -> None:
        """Let all agents begin."""
        for thread in self._threads:
            thread.start()

    @property
    def working(self) -> bool:
        """Whether any agent is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Freeze all runs, so that agents end with what they have, and wait for them. Calls in flight still settle."""
        self._stopping.set()
        for row in self.rows:
            if row.run is not None and row.working:
                _end(row.run)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self, number: int, row: Row) -> None:
        try:
            service = Service(self._base_url, "none", row.job.model)
            with connect(service, max_retries=0, default_headers={"x-demo-user": row.job.tenant}) as client:
                for turn in itertools.count(number):
                    self._one_run(row, client, QUESTIONS[turn % len(QUESTIONS)], f"user-{turn % 4}")
                    if not self._forever or self._stopping.wait(_PAUSE_S):
                        return
        except Exception as error:  # noqa: BLE001 - shown on the row and in the exit code; a thread can tell nobody else
            _log.exception("the agent of %s failed", row.job.tenant)
            row.error = error
            row.working = False
            self._changed(row)

    def _one_run(self, row: Row, client: openai.OpenAI, asked: str, user: str) -> None:
        job = row.job
        with otelbudget.run(job.budget, tenant=job.tenant, user=user, reraise=False) as run:
            row.run, row.working, row.answer = run, True, None
            self._changed(row)
            if self._stopping.is_set():  # it began too late for `stop` to see it
                _end(run)
            if job.stubborn:
                self._insist(client, job, asked)
            else:
                row.answer = ResearchAgent(documents=job.documents, model=job.model, client=client).answer(asked)
        receipt = run.receipt()
        row.outcomes[stopped_by(receipt) or receipt.outcome] += 1
        row.working = False
        self._changed(row)

    def _insist(self, client: openai.OpenAI, job: Job, asked: str) -> None:
        """A loop as careless code has it: never done, and any exception is a reason to try again."""
        failures = 0
        while failures < job.stubborn:
            try:
                client.chat.completions.create(
                    model=job.model, messages=[{"role": "user", "content": asked}], max_completion_tokens=100
                )
            except Exception:  # noqa: BLE001 - what such code does
                failures += 1
                if self._stopping.is_set():
                    return


def _end(run: BudgetRun) -> None:
    """Refuse every further call of *run*: whoever makes one has been stopped, whoever makes none has answered."""
    run.freeze(actor="otelbudget demo", reason="the demo is ending")
