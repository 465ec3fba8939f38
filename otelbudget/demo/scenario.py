"""Who does what in ``otelbudget demo``: tenants, their questions, and what each of them runs into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from otelbudget.demo.server import Request

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
