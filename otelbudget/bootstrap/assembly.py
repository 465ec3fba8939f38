"""`SetUp`: one `setup()` in force, and how each part of it is undone."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otelbudget import forking
from otelbudget._version import __version__
from otelbudget.admission import notices
from otelbudget.bootstrap import threads
from otelbudget.bootstrap.arguments import DEFAULT_FILE, Arguments, configuration
from otelbudget.bootstrap.exporters import Outlet, make_outlets
from otelbudget.bootstrap.follower import Follower
from otelbudget.bootstrap.guarding import Guarding
from otelbudget.bootstrap.logs import open_logs
from otelbudget.bootstrap.metrics import MetricsRoute
from otelbudget.bootstrap.providers import equip
from otelbudget.engine import context as contexts
from otelbudget.engine.engine import Engine
from otelbudget.errors import ConfigError
from otelbudget.estimate import tokenizer
from otelbudget.manager import BudgetManager
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otelbudget.bootstrap.delivery import Delivery

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")
#: How long closing waits for exporters, in seconds; `shutdown()` as a whole promises 2.
_PATIENCE_S: Final = 1.8


@dataclass(frozen=True)
class Facts:
    """What is switched on: where budgets come from, what refuses and what is only seen, and where telemetry goes."""

    budgets: str
    enforces: str
    observes: str  # empty if nothing is seen without being refused
    spans: str
    metrics: str
    metrics_url: str | None
    logs: str = ""  # empty if events are on spans only

    def __str__(self) -> str:
        observes = f"; only observed: {self.observes}" if self.observes else ""
        logs = f"; log records of events go to {self.logs}" if self.logs else ""
        return (
            f"budgets: {self.budgets}; enforced by: {self.enforces}{observes};"
            f" spans go to {self.spans}; metrics go to {self.metrics}{logs}"
        )


class SetUp:
    """Everything that one call of `setup()` switched on; on a ConfigError nothing is."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._closings: list[Delivery] = []
        self._config, self._configured = configuration(arguments.config)
        if arguments.reload_s is not None and self._config.source is None:
            raise ConfigError(
                "setup(reload_s=...) follows the file of the configuration, and this one comes from none: give setup()"
                f" the path of a budgets.yaml, or put a {DEFAULT_FILE} into the working directory"
            )
        with ExitStack() as undo:
            last = undo.enter_context(ExitStack())
            undo.callback(self._wait)
            self._switch_on(undo, last)
            #: Undoes everything, in at most 2 s.
            self.take_down = undo.pop_all().close
        self._announce()
        forking.tell(self)

    def forked(self) -> None:
        """In a child: it may be one of multiprocessing, where `atexit` does nothing."""
        forking.later(self._end_with_child)

    def _end_with_child(self) -> None:
        finalizers = sys.modules.get("multiprocessing.util")
        if finalizers is not None:
            finalizers.Finalize(None, self.take_down, exitpriority=0)

    def _switch_on(self, undo: ExitStack, last: ExitStack) -> None:
        arguments = self._arguments
        self._equipped = equip(arguments.tracer_provider, arguments.service_name)
        self._outlets = self._open_outlets()
        undo.callback(self._end, lambda: [closing for outlet in self._outlets if (closing := outlet.close())])
        self._logs = open_logs(self._config.telemetry.events, arguments.logger_provider, self._equipped.resource)
        if self._logs is not None:
            undo.callback(self._end, self._logs.close)
            undo.callback(events.write_to, None)
        engine = Engine(self._config, store=arguments.store, tenant=arguments.tenant, enforce=arguments.enforce)
        undo.callback(engine.close)
        engine.tracer = self._equipped.provider.get_tracer("otelbudget", __version__)
        self.manager = BudgetManager(engine=engine)
        configured_port = self._config.telemetry.metrics_port
        self._route = MetricsRoute(engine.meters, arguments, configured_port, self._equipped.resource)
        last.callback(self._route.close)
        undo.callback(self._end, self._route.begin_closing)
        given = arguments.tokenizer
        undo.callback(tokenizer.use, None)
        tokenizer.use(tokenizer.NAMED[given]() if isinstance(given, str) else given)
        self._connect(undo)
        self._guard(undo)
        self._follow(undo)

    def _open_outlets(self) -> tuple[Outlet, ...]:
        asked = self._arguments.exporter
        # The application that made a provider exports its spans: the variables have been followed there.
        own = asked != "auto" or self._equipped.ours
        return make_outlets(asked) if own and not self._equipped.deaf else ()

    def _connect(self, undo: ExitStack) -> None:
        equipped, manager = self._equipped, self.manager
        if equipped.forwarder is not None:
            equipped.forwarder.connect(manager, self._outlets)
            undo.callback(equipped.forwarder.disconnect)
        if equipped.sampler is not None:
            equipped.sampler.listener = manager
            undo.callback(setattr, equipped.sampler, "listener", None)
        undo.callback(manager.shutdown)
        undo.callback(manager.reset)  # its totals are told before everything is off
        contexts.activate(manager.engine)
        undo.callback(contexts.deactivate, manager.engine)
        threads.carry_context()
        undo.callback(threads.stop_carrying)

    def _guard(self, undo: ExitStack) -> None:
        arguments = self._arguments
        self._guarding = Guarding(
            self.manager.engine,
            tracer_provider=self._equipped.provider,
            meter_provider=arguments.meter_provider,
            wanted=arguments.to_instrument,
        )
        undo.callback(self._guarding.end)
        demanded = arguments.instrument != "auto"
        self._guarding.begin(demanded=demanded)
        if arguments.strict:
            if self._equipped.swallows:
                raise ConfigError(
                    "strict=True: this OpenTelemetry SDK swallows what a span processor raises, so that spans of the"
                    " provider that is joined stop nothing. Let setup() make the provider, or leave strict=False to"
                    " enforce by guards and explicit checks only"
                )
            self._guarding.prove(self._equipped.deaf, named=arguments.to_instrument if demanded else ())

    def _follow(self, undo: ExitStack) -> None:
        if self._arguments.reload_s is not None:
            self.manager.engine.meters.reload_ok = True  # what is in force is what the file says
            undo.callback(Follower(self.manager.reloading.follow, self._arguments.reload_s).stop)

    def again(self, arguments: Arguments) -> BudgetManager:
        """The manager, for a second call of `setup()`; a ConfigError if that asks for something else."""
        other_config = arguments.config is not None and not self._is_ours(arguments.config)
        differ = ["config"] * other_config + self._arguments.differing(arguments)
        if differ:
            raise ConfigError(
                f"otelbudget is set up already, with {_and(differ)} other than in this call of setup()"
                f" (budgets: {self.facts().budgets}); call setup() once, or otelbudget.shutdown() before it"
            )
        return self.manager

    def _is_ours(self, config: Any) -> bool:
        """Whether *config* is what was set up, what is in force by now, or the file that is followed."""
        file = self.manager.reloading.file
        if self._arguments.reload_s is not None and file is not None and isinstance(config, str | os.PathLike):
            return os.path.abspath(config) == file.path
        return configuration(config)[0] in (self._config, self.manager.engine.config)

    def _end(self, begin: Callable[[], Sequence[Delivery]]) -> None:
        self._closings += begin()

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        for closing in self._closings:
            closing.wait(deadline_s)

    # --- what it says of itself

    def facts(self) -> Facts:
        """What is switched on now."""
        return Facts(
            budgets=self._budgets(),
            enforces=self._enforces(),
            observes=self._observes(),
            spans=self._spans(),
            metrics=self._route.where,
            metrics_url=self._route.url,
            logs="" if self._logs is None else self._logs.where,
        )

    def _budgets(self) -> str:
        if not self._configured:
            return "none"
        every_s = self._arguments.reload_s
        followed = f" (looked at every {every_s:g} s)" if every_s is not None else ""
        return f"{self._config.source or f'the {type(self._arguments.config).__name__} given'}{followed}"

    def _enforces(self) -> str:
        if not self._arguments.enforce:
            return "nothing (enforce=False)"
        now, later = sorted(self.manager.engine.guarded), self._guarding.pending()
        spans = "" if self._equipped.deaf else "spans of what has no guard"
        once = " once it is imported" if len(later) == 1 else " once they are imported"
        parts = (_guards(now), _guards(later) + once if later else "", spans)
        return _and([part for part in parts if part]) or "nothing but explicit checks"

    def _observes(self) -> str:
        if not self._arguments.enforce:
            return "everything"
        return _and([f"{', '.join(classes)} of {sdk}" for sdk, classes in self._guarding.unreached.items()])

    def _spans(self) -> str:
        if self._equipped.deaf:
            return f"nowhere, since {self._equipped.deaf}"
        places = [outlet.where for outlet in self._outlets]
        if not self._equipped.ours:
            places.append("the exporters of the application's tracer provider")
        if not places and self._arguments.exporter == "auto":
            return "nowhere (set OTEL_EXPORTER_OTLP_ENDPOINT to send them to a collector)"
        return _and(places) or "nowhere"

    def _announce(self) -> None:
        _log.info("otelbudget is on; %s", self.facts())
        if not self._configured:
            notices.unlimited(
                "nothing is limited: setup() was given no budget and there is no ./%s; give it a RunBudget or the path"
                " of a budgets.yaml",
                DEFAULT_FILE,
            )
        equipped, named = self._equipped, self._arguments.service_name
        if equipped.deaf:
            _log.warning(
                "%s, so only guards and explicit checks enforce (here: %s): spans feed no budget, and calls of SDKs"
                " without a guard are neither seen nor limited",
                equipped.deaf,
                self._enforces(),
            )
        if equipped.drops:
            _log.warning(
                "the sampler of the tracer provider joined can drop spans, so calls of SDKs without a guard may pass"
                " unseen, and requests without a run that it drops share the process-wide one; let setup() make the"
                " provider, or sample in the collector"
            )
        if named is not None and equipped.service_name not in (None, named):
            _log.warning("service_name is ignored: the tracer provider is there already, as %s", equipped.service_name)


def _guards(sdks: list[str]) -> str:
    return f"the guard{'s' if len(sdks) > 1 else ''} of {_and(sdks)}" if sdks else ""


def _and(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
