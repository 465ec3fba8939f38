"""What all runs of one manager share: configuration, store, prices, meters, clock, tracer. No SDK is needed here."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet, ref

from opentelemetry import trace
from opentelemetry.context import Context

from otelbudget import forking
from otelbudget._version import __version__
from otelbudget.admission import closing
from otelbudget.admission import settlement as accounting
from otelbudget.config import Config
from otelbudget.engine import scope
from otelbudget.engine import tenant as tenants
from otelbudget.engine.owner import DEFAULT, Owners
from otelbudget.engine.succession import restarts
from otelbudget.errors import ConfigError
from otelbudget.estimate.learned import Learned
from otelbudget.model.budget import RunBudget, Usage
from otelbudget.runs.run import BudgetRun
from otelbudget.stores.memory import MemoryStore
from otelbudget.telemetry.cells import Meters

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otelbudget.calls.model_call import ModelCall
    from otelbudget.runs.tool_call import ToolCall
    from otelbudget.spans.processor import LiveSpans

__all__ = ["Engine"]

_log = logging.getLogger("otelbudget")
_UNLIMITED_BUDGET: Final = RunBudget()
#: How many charged calls are remembered so that a second report of one is recognised.
_RECENT: Final = 256


class _Settled(NamedTuple):
    run: BudgetRun
    response_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    began_ns: int
    reporter: str | None
    told: set[str | None]


class Engine:
    """The shared inside of a manager.

    Args:
        config: Budgets and prices.
        store: Where accounts live; a new memory store if None.
        tenant: Whose runs these are where a run does not say.
        enforce: False counts and reports everything and refuses nothing.
        clock_ns: Monotonic nanoseconds.

    Attributes:
        tracer: What run spans and the spans of guards are made with.
        owners: Who may spend what, whoever runs.
        learned: What earlier calls say about the next ones.
        live_spans: The open spans, where a span processor listens.
        guarded: Names of the client SDKs whose guard is reached.
        overdue: Called now and then, without the lock, to settle calls that were dropped where nobody could; each
            gives whether there were any.
        explicit_runs: How many runs that somebody opened are open.
        lingering: Runs that ended with calls still open, with the time when their telemetry ends anyway.
        standing: Runs that nobody opens or ends: what `QuotaService` asks through.
        quota_keys: What was done there under idempotency keys, by tenant and key.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: MemoryStore | None = None,
        tenant: str | None = None,
        enforce: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config = config
        self.prices = config.prices
        self.store = MemoryStore() if store is None else store
        self.lock = self.store.lock
        self.tenant = tenant or DEFAULT
        self.enforce = enforce
        self.clock_ns = clock_ns
        self.owners = Owners(
            self.store, config.quotas, config.tenants, tenant=tenant, require_tenant=config.require_tenant
        )
        bounds = config.telemetry
        self.meters = Meters(
            self.store,
            models=self.prices.models,
            tenants=config.named_tenants,
            orgs=config.tenants.values(),
            max_tenants=bounds.max_tenants,
            max_models=bounds.max_models,
            top_runs=bounds.top_runs,
            clock_ns=clock_ns,
        )
        self.tracer: trace.Tracer = trace.get_tracer("otelbudget", __version__)
        self.learned = Learned()
        self.live_spans: LiveSpans | None = None
        self.guarded: set[str] = set()
        self.lingering: deque[tuple[int, BudgetRun]] = deque()
        self.overdue: list[Callable[[], bool]] = []
        self.standing: WeakSet[BudgetRun] = WeakSet()
        self.quota_keys: dict[tuple[str, str], Any] = {}
        self.explicit_runs: int = 0
        self._recent: deque[_Settled] = deque(maxlen=_RECENT)
        self._ambient: BudgetRun | None = None
        self._ambient_lock = forking.fresh(threading.RLock())
        self._ambient_user: object = None
        self._warned: set[str] = set()
        forking.tell(self)

    def reload(self, config: Config) -> None:
        """Go on with another configuration: quotas at once, what was used stays used; budgets for runs that begin.

        Runs in progress keep their limits. A quota that is counted in other windows starts anew, with a warning. Bounds
        of telemetry stay as they were.
        """
        if self.guarded:
            config.prices.load()  # takes 0.4 s where it is installed, now rather than inside the next call
        for restart in restarts(self.config.quotas, config.quotas):
            _log.warning(restart)
        with self.lock:
            self.config = config
            self.prices = config.prices
            self.owners.configure(config.quotas, config.tenants, require_tenant=config.require_tenant)
            self.refresh_runs()

    def refresh_runs(self) -> None:
        """Let the runs in progress see that their quotas have changed."""
        with self.lock:
            runs: Any = (*self.meters.live, *self.standing)
            for run in runs:
                run.refresh()

    def budget(self, wanted: str | RunBudget | None) -> RunBudget:
        """The budget that a run asks for by name, as a value, or by default.

        Raises:
            ConfigError: No budget has that name; the message names those that exist.
        """
        if isinstance(wanted, RunBudget):
            return wanted
        if wanted is None:
            return self.config.default_budget or _UNLIMITED_BUDGET
        if not isinstance(wanted, str):
            raise ConfigError(f"a budget is a name or a RunBudget, got {wanted!r} ({type(wanted).__name__})")
        return self.config.budget(wanted)

    def implicit_budget(self, agent: str | None) -> RunBudget:
        """The budget of a run that an agent's span, or a unit of work, opens: that agent's, else the default."""
        named = None if agent is None else self.config.agents.get(agent)
        return self.budget(None) if named is None else named

    def tenant_here(self, context: Context) -> str | None:
        """The tenant of a run that is opened in *context*, by what the configuration trusts; None if nothing says."""
        if self.config.tenant_from is None:
            return None
        around = [trace.get_current_span(context)] if self.live_spans is None else self.live_spans.around(context)
        return self.tenant_said(around, context)

    def tenant_said(self, spans: Iterable[Any], *contexts: Context) -> str | None:
        """The tenant that one of *spans*, else the baggage of one of *contexts* names, where that is trusted."""
        source = self.config.tenant_from
        return None if source is None else tenants.tenant_said(source, spans, contexts, self.warn_once)

    def run_here(self) -> BudgetRun:
        """The run that a call made here is charged to; the process-wide one outside every run."""
        run = scope.current_run()
        if run is not None:
            return run
        return self.outside()

    def outside(self) -> BudgetRun:
        """The process-wide run, for a call made outside every run; that may be a mistake worth a warning."""
        if self.explicit_runs:
            self.warn_once(
                "outside",
                "a model call was made outside every run while runs are open in this process: its context was lost"
                " (a thread or pool made before setup()?), so it is charged to the process-wide run",
            )
        return self.ambient_run()

    def ambient_run(self) -> BudgetRun:
        """The process-wide run of calls made outside every run; opened at first use."""
        run = self._ambient
        if run is None:
            with self._ambient_lock:
                if self._ambient is None:
                    owner = self.owners.owner(None, None, None, None)
                    self._ambient = BudgetRun(self, self.budget(None), owner, kind="ambient", reraise=False)
                run = self._ambient
        self._watch_ambient()
        return run

    def reset_ambient(self) -> None:
        """Let the next call outside every run begin a new process-wide run."""
        with self._ambient_lock:
            run, self._ambient = self._ambient, None
            self._ambient_user = None
        if run is not None:
            closing.close(run, run.outcome)

    def _watch_ambient(self) -> None:
        if "ambient" in self._warned:
            return
        try:
            user: object = asyncio.current_task()
        except RuntimeError:
            user = None
        # A weak reference: the process-wide run must not keep a task alive, nor take a new one at its address for it.
        user = threading.get_ident() if user is None else ref(user)
        if self._ambient_user is None:
            self._ambient_user = user
        elif self._ambient_user != user:
            self.warn_once(
                "ambient",
                "calls of several threads or tasks share the process-wide run, since they are made outside every run; "
                "open one per request or job with `with otelbudget.run(...):`",
            )

    def warn_once(self, key: str, message: str, *args: object) -> None:
        """Log a warning the first time *key* comes up."""
        if key not in self._warned:
            self._warned.add(key)
            _log.warning(message, *args)

    # --- holds and calls

    def sweep(self, now_ns: int) -> None:
        """Reclaim holds that nobody holds on to any more; called with the lock held."""
        for held, crossed in self.store.sweep(now_ns, accounting.expires):
            if held.payer is not None:  # not a quota's own hold, without a run
                accounting.expired(held.payer, held, crossed)

    def forked(self) -> None:
        """In a forked process the calls in flight, the runs in progress and all that was counted are the parent's.

        What was used stays used, and the runs can go on: the parent ends and reports them.
        """
        with self.lock:
            for held in self.store.abandon():
                if held.payer is not None:
                    accounting.abandoned(held)
            for run in (*self.meters.live, *(run for _, run in self.lingering)):
                run.finished = True  # type: ignore[attr-defined]
            self.lingering.clear()
            self.meters.forked()

    def settled(self, run: BudgetRun, usage: Usage, began_ns: int, reporter: str | None) -> None:
        """Remember a charged call for a moment: another layer may report the same one at its end."""
        charged = _Settled(run, usage.response_id, usage.input_tokens, usage.output_tokens, began_ns, reporter, set())
        self._recent.append(charged)

    def was_settled(self, run: BudgetRun, usage: Usage, start_ns: int, end_ns: int, reporter: str | None) -> bool:
        """Whether a call that a span reports was charged before.

        That is: the same response; or equal tokens within its time, told by another layer, since no instrumentation
        reports one call twice and parallel calls of equal size are several.
        """
        for one in list(self._recent):
            if reporter in one.told:
                continue  # it has stood for another call of that layer
            if usage.response_id is not None and one.response_id is not None:
                if (
                    usage.response_id == one.response_id
                    and one.reporter != reporter
                    and one.run.accounts[0] is run.accounts[0]
                ):
                    return self._claimed(one, reporter)
            elif (
                (one.run is run or run.account in one.run.accounts)
                and one.reporter != reporter
                and start_ns <= one.began_ns <= end_ns
                and (one.input_tokens, one.output_tokens) == (usage.input_tokens, usage.output_tokens)
            ):
                return self._claimed(one, reporter)
        return False

    def _claimed(self, one: _Settled, reporter: str | None) -> bool:
        one.told.add(reporter)
        return True

    # --- what the open spans know; nothing where no span processor listens

    def claim(self, context: Context) -> Span | None:
        """The instrumentor's span for a guarded call made in *context*, or None."""
        return None if self.live_spans is None else self.live_spans.claim(context)

    def is_call(self, span: Span) -> bool:
        """Whether *span* is an open model or tool call."""
        return self.live_spans is not None and self.live_spans.is_call(span)

    def tool_call_around(self, context: Context) -> ToolCall | None:
        """The tool call whose span encloses *context*, or None."""
        return None if self.live_spans is None else self.live_spans.tool_call_around(context)

    def reserved_around(self, context: Context, run: BudgetRun) -> ModelCall | None:
        """What an enclosing model span has reserved for the call made in *context*, or None."""
        return None if self.live_spans is None else self.live_spans.reserved_around(context, run)
