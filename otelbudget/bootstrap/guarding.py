"""Guards and instrumentors of client SDKs: put in place when an SDK is there, or as soon as it is imported."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from otelbudget import forking
from otelbudget.bootstrap.imports import ImportHook
from otelbudget.bootstrap.instrumentors import CANDIDATES, Instrumented, active_instrumentor, installed, instrument
from otelbudget.errors import ConfigError
from otelbudget.guards import GUARDS, guard
from otelbudget.guards.boundary import contained
from otelbudget.guards.watch import settle_dropped

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine

__all__ = ["Guarding"]

_log = logging.getLogger("otelbudget")


class Guarding:
    """The guard of every SDK we know, and at most one instrumentor for each of those named.

    Args:
        engine: Its ``guarded`` says which guards are reached.
        tracer_provider, meter_provider: For the instrumentors.
        instrument: SDKs to instrument where nobody does.
        demanded: Whether a named SDK without any instrumentor is an error.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tracer_provider: Any,
        meter_provider: Any = None,
        instrument: Iterable[str] = (),
        demanded: bool = False,
    ) -> None:
        self._engine = engine
        self._providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
        self._wanted = frozenset(instrument)
        self._demanded = demanded
        self._lock = forking.fresh(threading.RLock())
        self._hooks: list[ImportHook] = []
        self._ours: dict[str, Instrumented] = {}
        self._placed: set[str] = set()
        #: SDK -> client classes whose calls go round the guard.
        self.unreached: dict[str, list[str]] = {}

    def begin(self) -> None:
        """Guard what is imported already now, the rest when it is imported.

        Raises:
            ConfigError: An SDK is to be instrumented by name and no instrumentor for it is installed.
        """
        self._engine.overdue.append(settle_dropped)
        for sdk in GUARDS:
            self._demand_instrumentor(sdk)
            self._hooks.append(ImportHook(sdk, partial(self._imported, sdk)))

    def prove(self) -> None:
        """Import every SDK that is installed, and make sure that its guard is reached.

        Raises:
            ConfigError: A client class goes round the guard.
        """
        for sdk in GUARDS:
            if not installed(sdk):
                continue
            importlib.import_module(sdk)
            if sdk not in self._engine.guarded:
                classes = ", ".join(self.unreached.get(sdk, ())) or "no client class could be asked"
                raise ConfigError(
                    f"strict=True: the guard of {sdk} is not reached by {classes}. Call otelbudget.setup() before"
                    " other code replaces the client's request method, or leave strict=False to enforce by spans only"
                )

    def end(self) -> None:
        """Take out everything that was put in."""
        for hook in self._hooks:
            hook.remove()
        if settle_dropped in self._engine.overdue:
            self._engine.overdue.remove(settle_dropped)
        with self._lock:
            for instrumented in self._ours.values():
                with contained("switching an instrumentor off"):
                    instrumented.remove()
            self._ours.clear()
            for sdk in self._placed:
                with contained("taking a guard out"):
                    guard(sdk).uninstall()
            self._placed.clear()
            self._engine.guarded.clear()

    def pending(self) -> list[str]:
        """SDKs that are installed and not imported yet."""
        return [sdk for sdk in GUARDS if sdk not in self._placed and installed(sdk)]

    def _imported(self, sdk: str) -> None:
        with contained(f"guarding {sdk}"), self._lock:
            if sdk in self._placed:  # imported anew: the guard is in classes that nobody uses any more
                guard(sdk).uninstall()
            self._placed.add(sdk)
            with contained("loading the price list"):
                self._engine.prices.load()  # takes 0.4 s where it is installed, now rather than inside the first call
            guard(sdk).install()
            with contained(f"instrumenting {sdk}"):
                self._instrument(sdk)
            around = guard(sdk).unreached()
            if around:
                self.unreached[sdk] = around
                self._engine.guarded.discard(sdk)
                _log.warning("the guard of %s is not reached by %s", sdk, ", ".join(around))
            else:
                self.unreached.pop(sdk, None)
                self._engine.guarded.add(sdk)

    def _instrument(self, sdk: str) -> None:
        if sdk in self._wanted and active_instrumentor(sdk) is None:
            ours = instrument(sdk, **self._providers)
            if ours is not None:
                self._ours[sdk] = ours

    def _demand_instrumentor(self, sdk: str) -> None:
        if self._demanded and sdk in self._wanted and not _any_installed(sdk):
            raise ConfigError(
                f"instrument: no instrumentor for {sdk} is installed; pip install 'otelbudget[instrument-{sdk}]',"
                f" or one of: {', '.join(candidate.package for candidate in CANDIDATES[sdk])}"
            )


def _any_installed(sdk: str) -> bool:
    return any(installed(candidate.module) for candidate in CANDIDATES[sdk])
