"""What all runs of one manager share: configuration, ledger, prices, meters, clock, tracer. No SDK is needed here."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import baggage, trace
from opentelemetry.context import Context

from otelbudget import forking
from otelbudget._version import __version__
from otelbudget.config import Config, StoreConfig
from otelbudget.config.store import check_shards
from otelbudget.engine.directory import Directory
from otelbudget.engine.overrides import SharedOverrides
from otelbudget.engine.owner import LONGEST
from otelbudget.engine.recent import Recent
from otelbudget.errors import ConfigError
from otelbudget.estimate.learned import Learned
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.budget import RunBudget
from otelbudget.stores.base import Store
from otelbudget.stores.failure import POLICIES
from otelbudget.stores.lease import Leased
from otelbudget.stores.opening import open_store
from otelbudget.stores.shared import Shared
from otelbudget.telemetry.cells import Meters

_log = logging.getLogger("otelbudget")
#: Of a run that has no limits of its own.
UNLIMITED_BUDGET: Final = RunBudget()


class Engine:
    """The shared inside of a manager. It knows no run: those it keeps are values that it hands back.

    *store*, or what is at its address, counts quotas that others share; None is what the configuration says. *tenant*
    is whose runs are those that don't say it. Without *enforce* all is counted and reported, and nothing refused.
    """

    def __init__(
        self,
        config: Config,
        *,
        ledger: Ledger | None = None,
        store: Store | StoreConfig | str | None = None,
        tenant: str | None = None,
        enforce: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config, self.prices = config, config.prices
        self.ledger = Ledger() if ledger is None else ledger
        # None if quotas are counted in the ledger.
        self.store: Any = self._shared(config.store if store is None else store)
        self.enforce = enforce
        self.clock_ns = clock_ns
        self.directory = Directory(
            self.ledger, config.quotas, config.tenants, tenant=tenant, require_tenant=config.require_tenant
        )
        self._overrides = None if self.store is None else SharedOverrides(self.directory, self.store)
        self.meters = self._meters(config)
        self.tracer: trace.Tracer = trace.get_tracer("otelbudget", __version__)
        self.learned = Learned()
        self.recent = Recent()
        self.spans: Any = None  # what the open spans know, where a span processor listens
        self.guarded: set[str] = set()  # SDKs whose calls a guard sees
        #: Runs that ended with calls still open.
        self.lingering: deque[Any] = deque()
        #: Each settles calls that nobody follows any more, and says whether there were any.
        self.overdue: list[Callable[[], bool]] = []
        self.explicit_runs: int = 0  # that are open
        #: What the idempotency keys of quota services stand for: they are the tenants', whichever service is used.
        self.quota_keys: dict[Any, Any] = {}
        #: The process-wide run, see `runs.ambient`, and the thread or task that uses it.
        self.ambient: Any = None
        self.ambient_user: object = None
        self.warned: set[str] = set()  # keys of `warn_once`
        self.refused: set[object] = set()  # what quota services were refused, so that each is told once per window
        forking.tell(self)

    def _meters(self, config: Config) -> Meters:
        bounds = config.telemetry
        return Meters(
            self.ledger,
            self.directory.standing,
            models=self.prices.models,
            tenants=config.named_tenants,
            orgs=config.tenants.values(),
            max_tenants=bounds.max_tenants,
            max_models=bounds.max_models,
            top_runs=bounds.top_runs,
            shared=self.store,
            clock_ns=self.clock_ns,
        )

    def _shared(self, store: Store | StoreConfig | str) -> Shared | None:
        named = self.config.store.at(store) if isinstance(store, str) else store
        said = named if isinstance(named, StoreConfig) else self.config.store
        check_shards(said, self.config.quotas)
        opened = open_store(named, self.ledger.clock_s) if isinstance(named, StoreConfig) else named
        if opened is None:
            return None
        self.ledger.clock_s = getattr(opened, "server_clock", self.ledger.clock_s)  # windows are the store's
        failure = POLICIES[said.on_error](said.fallback_share, self.ledger.clock_s)
        if said.lease:
            opened = Leased(opened, said.lease, self.ledger.clock_s)
        return Shared(opened, self.ledger.open.trips, failure, self.ledger.add, said)

    def reload(self, config: Config) -> None:
        """Go on with other quotas (what was used stays used), prices, and budgets for runs that begin."""
        if self.store is not None:
            check_shards(self.store.said, config.quotas)
        if self.guarded:
            config.prices.load()  # takes 0.4 s where it is installed, now rather than inside the next call
        self.config, self.prices = config, config.prices
        self.directory.configure(config.quotas, config.tenants, require_tenant=config.require_tenant)

    def budget(self, wanted: str | RunBudget | None) -> RunBudget:
        """The budget that a run asks for by name, as a value, or by default; ConfigError if there is none."""
        if isinstance(wanted, RunBudget):
            return wanted
        if wanted is None:
            return self.config.default_budget or UNLIMITED_BUDGET
        if not isinstance(wanted, str):
            raise ConfigError(f"a budget is a name or a RunBudget, got {wanted!r} ({type(wanted).__name__})")
        return self.config.budget(wanted)

    def tenant_here(self, context: Context) -> str | None:
        """`tenant_said` for a run that is opened in *context*."""
        if self.spans is None:
            return self.tenant_said([trace.get_current_span(context)], context)
        return self.tenant_said((node.span for node in self.spans.tree.around(context)), context)

    def tenant_said(self, spans: Iterable[Any], *contexts: Context) -> str | None:
        """The tenant that one of *spans*, innermost first, else the baggage of one of *contexts* names, where that is
        trusted."""
        source = self.config.tenant_from
        if source is None:
            return None
        key, entry = source.span_attribute, source.baggage
        said: list[tuple[object, str]] = []
        if key:
            said += [((getattr(span, "attributes", None) or {}).get(key), f"span attribute {key!r}") for span in spans]
        if entry:
            said += [(baggage.get_baggage(entry, context), f"baggage {entry!r}") for context in contexts]
        for value, where in said:
            name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
            name = name.strip() if isinstance(name, str) else ""
            if 0 < len(name) <= LONGEST and name.isprintable():
                return name
            if value is not None:
                self.warn_once(
                    "tenant_from",
                    "tenant_from: a %s was ignored, since it is no name of 1 to %d printable characters; such runs"
                    " belong to whoever is asked next, in the end to the default tenant",
                    where,
                    LONGEST,
                )
        return None

    def warn_once(self, key: str, message: str, *args: object) -> None:
        """Log a warning the first time *key* comes up."""
        if key not in self.warned:
            self.warned.add(key)
            _log.warning(message, *args)

    def overriding(self, tenant: str) -> AbstractContextManager[None]:
        """A block that changes what is set for *tenant* while running, for all who share the store, or not at all."""
        return nullcontext() if self._overrides is None else self._overrides.changing(tenant)

    def caught_up(self) -> bool:
        """Whether other processes had set something that is in force here from now on."""
        return self._overrides is not None and self._overrides.catch_up()

    def close(self) -> None:
        """Let go of the store, once what waits for it has been sent."""
        if self.store is not None:
            self.store.close()

    def forked(self) -> None:
        """What is in flight or in progress and all that was counted is the parent's; what was used stays used."""
        self.ledger.forked()
        for run in list(self.meters.live):
            run.forked()
        self.lingering.clear()
        self.meters.forked()
        if self.store is None:
            forking.later(_warn_of_own_accounts)


def _warn_of_own_accounts() -> None:
    _log.warning(
        "process %d was forked and keeps its accounts in memory: it began with a copy of what its parent had used,"
        " and from now on both spend their own, up to the whole limit each (with a store they share quotas)",
        os.getpid(),
    )
