"""`SetUp`: one `setup()` in force, and how each part of it is undone."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from otelbudget._version import __version__
from otelbudget.bootstrap import threads
from otelbudget.bootstrap.arguments import DEFAULT_FILE, Arguments, configuration
from otelbudget.bootstrap.exporters import Outlet, make_outlets
from otelbudget.bootstrap.follower import Follower
from otelbudget.bootstrap.guarding import Guarding
from otelbudget.bootstrap.logs import LogRoute, open_log_route
from otelbudget.bootstrap.metrics import MetricsRoute, open_route, page_wanted, push_wanted, unserved
from otelbudget.bootstrap.providers import equip
from otelbudget.bootstrap.summary import Facts
from otelbudget.engine import scope
from otelbudget.engine.engine import Engine
from otelbudget.errors import ConfigError
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

if TYPE_CHECKING:
    from otelbudget.bootstrap.delivery import Closing

__all__ = ["SetUp"]

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")
#: How long closing waits for exporters, in seconds; `shutdown()` as a whole promises 2.
_PATIENCE_S: Final = 1.8


class SetUp:
    """Everything that one call of `setup()` switched on.

    Raises:
        ConfigError: Something can't be switched on; then nothing is.

    Attributes:
        manager: What `setup()` returns.
    """

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._undo = ExitStack()
        self._closings: list[Closing] = []
        self._route: MetricsRoute | None = None
        self._config, self._configured = configuration(arguments.config)
        if arguments.reload_s is not None and self._config.source is None:
            raise ConfigError(
                "setup(reload_s=...) follows the file of the configuration, and this one comes from none: give setup()"
                f" the path of a budgets.yaml, or put a {DEFAULT_FILE} into the working directory"
            )
        with ExitStack() as undo:
            undo.callback(self._wait)
            self._switch_on(undo)
            self._undo = undo.pop_all()
        self._announce()

    def _switch_on(self, undo: ExitStack) -> None:
        arguments = self._arguments
        pushed = push_wanted(arguments.meter_provider)
        self._unserved = unserved(arguments.meter_provider)
        page = page_wanted(
            arguments.metrics_port,
            arguments.metrics_host,
            self._config.telemetry.metrics_port,
            pushed=pushed,
            own_registry=arguments.registry is None,
        )
        self._equipped = equip(arguments.tracer_provider, arguments.service_name)
        self._outlets = self._open_outlets(undo)
        self._logs = self._open_logs(undo)
        engine = Engine(self._config, tenant=arguments.tenant, enforce=arguments.enforce)
        engine.tracer = self._equipped.provider.get_tracer("otelbudget", __version__)
        self.manager = BudgetManager(engine=engine)
        self._route = open_route(
            engine.meters,
            page=page,
            pushed=pushed,
            registry=arguments.registry,
            meter_provider=arguments.meter_provider,
            resource=self._equipped.resource,
        )
        undo.callback(self._end_route, self._route)
        self._connect(undo)
        self._guard(undo)
        self._follow(undo)

    def _open_outlets(self, undo: ExitStack) -> tuple[Outlet, ...]:
        asked = self._arguments.exporter
        # The application that made a provider exports its spans: the variables have been followed there.
        own = asked != "auto" or self._equipped.ours
        outlets = make_outlets(asked) if own and not self._equipped.deaf else ()
        undo.callback(self._end_outlets, outlets)
        return outlets

    def _open_logs(self, undo: ExitStack) -> LogRoute | None:
        asked, given = self._config.telemetry.events, self._arguments.logger_provider
        route = open_log_route(asked, given, self._equipped.resource)
        if route is not None:
            undo.callback(self._end_logs, route)
        return route

    def _connect(self, undo: ExitStack) -> None:
        equipped, manager = self._equipped, self.manager
        if equipped.forwarder is not None:
            equipped.forwarder.connect(manager, self._outlets)
            undo.callback(equipped.forwarder.disconnect)
        if equipped.sampler is not None:
            equipped.sampler.listener = manager
            undo.callback(setattr, equipped.sampler, "listener", None)
        undo.callback(manager.shutdown)
        undo.callback(manager.engine.reset_ambient)  # its totals are told before everything is off
        scope.activate(manager.engine)
        undo.callback(scope.deactivate, manager.engine)
        threads.carry_context()
        undo.callback(threads.stop_carrying)

    def _guard(self, undo: ExitStack) -> None:
        arguments = self._arguments
        self._guarding = Guarding(
            self.manager.engine,
            tracer_provider=self._equipped.provider,
            meter_provider=arguments.meter_provider,
            instrument=arguments.to_instrument,
            demanded=arguments.instrument != "auto",
        )
        undo.callback(self._guarding.end)
        self._guarding.begin()
        if arguments.strict:
            self._guarding.prove()
            self._prove_anything()

    def _prove_anything(self) -> None:
        """Raise unless something is known to enforce: a guard, which `Guarding.prove` has proven."""
        if not self.manager.engine.guarded:
            deaf = self._equipped.deaf
            raise ConfigError(
                f"strict=True: nothing enforces, since {deaf} and no SDK with a guard is installed"
                if deaf
                else "strict=True: no SDK with a guard is installed, and whether instrumentations show their calls in"
                f" time and let a denial through can't be proven; install one of: {', '.join(GUARDS)}, or leave"
                " strict=False to enforce by spans and explicit checks only"
            )

    def _follow(self, undo: ExitStack) -> None:
        if self._arguments.reload_s is not None:
            self.manager.engine.meters.reload_ok = True  # what is in force is what the file says
            undo.callback(Follower(self.manager.reloading.follow, self._arguments.reload_s).stop)

    def again(self, arguments: Arguments) -> BudgetManager:
        """The manager, for a second call of `setup()` that asks for the same.

        Raises:
            ConfigError: It asks for something else.
        """
        differ = self._arguments.differing(arguments)
        if arguments.config is not None and not self._is_ours(arguments.config):
            differ.insert(0, "config")
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

    def take_down(self) -> None:
        """Undo everything, in at most 2 s."""
        self._undo.close()

    def _end_route(self, route: MetricsRoute) -> None:
        self._closings += route.begin_closing()

    def _end_logs(self, route: LogRoute) -> None:
        self._closings += route.begin_closing()

    def _end_outlets(self, outlets: tuple[Outlet, ...]) -> None:
        self._closings += [closing for outlet in outlets if (closing := outlet.close()) is not None]

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        for closing in self._closings:
            closing.wait(deadline_s)
        if self._route is not None:
            self._route.close()

    # --- what it says of itself

    def facts(self) -> Facts:
        """What is switched on now."""
        server = None if self._route is None else self._route.server
        return Facts(
            budgets=self._budgets(),
            enforces=self._enforces(),
            observes=self._observes(),
            spans=self._spans(),
            metrics="nowhere" if self._route is None else self._route.where,
            metrics_url=None if server is None else server.url,
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
        guards = [f"the guard of {sdk}" for sdk in sorted(self.manager.engine.guarded)]
        guards += [f"the guard of {sdk} once it is imported" for sdk in self._guarding.pending()]
        spans = [] if self._equipped.deaf else ["spans of what has no guard"]
        return _and(guards + spans) or "nothing but explicit checks"

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
            _log.warning(
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
                " unseen; let setup() make the provider, or sample in the collector"
            )
        if self._unserved:
            _log.warning(
                "OTEL_METRICS_EXPORTER names %s, which setup() does not serve: it knows otlp, prometheus and none;"
                " pass a meter_provider that has such an exporter",
                _and(self._unserved),
            )
        if named is not None and equipped.service_name not in (None, named):
            _log.warning("service_name is ignored: the tracer provider is there already, as %s", equipped.service_name)


def _and(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
