"""Guards and instrumentors of SDKs, and hooks of frameworks: put in when one is there, or as soon as it is imported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from otelbudget import forking
from otelbudget.bootstrap.imports import ImportHook
from otelbudget.bootstrap.instrumentors import CANDIDATES, installed, instrument, instrumented, package_of
from otelbudget.errors import ConfigError
from otelbudget.guards import GUARDS, unguarded
from otelbudget.guards.boundary import contained
from otelbudget.guards.sdks import WHY
from otelbudget.guards.watch import settle_dropped
from otelbudget.integrations import PROCESS_WIDE, file_of, hook_of

if TYPE_CHECKING:
    from otelbudget.engine.engine import Engine

_log = logging.getLogger("otelbudget")


class Guarding:
    """The guard of every SDK we know, and at most one instrumentor, which gets *providers*, for each of *wanted*."""

    def __init__(self, engine: Engine, *, wanted: Iterable[str], **providers: Any) -> None:
        self._engine = engine
        self._providers = {name: provider for name, provider in providers.items() if provider is not None}
        self._wanted = wanted
        self._lock = forking.fresh_lock()
        self._hook: ImportHook | None = None
        self._undo_instrumentor: dict[str, Callable[[], None]] = {}
        self._undo_hooks: list[Callable[[], None]] = []
        self._placed: set[str] = set()
        #: SDK -> client classes whose calls go round the guard.
        self.unreached: dict[str, list[str]] = {}
        #: Modules of SDKs without a guard that are imported.
        self.passing: list[str] = []

    def begin(self, *, demanded: bool) -> None:
        """Guard what is imported already now, the rest when it is; *demanded* instrumentors must be installed.

        An SDK that nothing guards is told of when it is imported.
        """
        self._engine.overdue.append(settle_dropped)
        for sdk in self._wanted if demanded else ():
            if not any(map(installed, CANDIDATES[sdk])):
                raise ConfigError(
                    f"instrument: no instrumentor for {sdk} is installed; pip install 'otelbudget[instrument-{sdk}]',"
                    f" or one of: {', '.join(map(package_of, CANDIDATES[sdk]))}"
                )
        guarded = {guard.module: partial(self._imported, sdk) for sdk, guard in GUARDS.items()}
        passing = {module: partial(self._passes, module) for module in unguarded()}
        frameworks = {module: partial(self._framework, module) for module in PROCESS_WIDE}
        hooks = {file_of(module): partial(self._hooked, module) for module in PROCESS_WIDE}
        self._hook = ImportHook({**guarded, **passing, **frameworks, **hooks})

    def prove(self, deaf: str, *, named: Iterable[str]) -> None:
        """Raise unless all model SDKs that are imported, or *named*, are guarded; *deaf*: spans don't help."""
        for sdk in named:
            with suppress(ImportError):  # nobody uses it here
                import_module(GUARDS[sdk].module)
        for sdk, guard in GUARDS.items():
            if guard.module in sys.modules and sdk not in self._engine.guarded:
                classes = ", ".join(self.unreached.get(sdk, ())) or "no client class could be asked"
                raise ConfigError(
                    f"strict=True: the guard of {sdk} is not reached by {classes}. Call otelbudget.setup() before"
                    " other code replaces the client's request method, or leave strict=False to enforce by spans only"
                )
        if self.passing:
            raise ConfigError(
                f"strict=True: nothing guards {', '.join(self.passing)}, which this process has imported. Call its"
                " models through an SDK with a guard, or leave strict=False and hold its calls with run.reserve()"
            )
        if not any(installed(guard.module) for guard in GUARDS.values()):
            raise ConfigError(
                f"strict=True: nothing enforces, since {deaf} and no SDK with a guard is installed"
                if deaf
                else "strict=True: no SDK with a guard is installed, and whether instrumentations show their calls in"
                f" time and let a denial through can't be proven; install one of: {', '.join(GUARDS)}, or leave"
                " strict=False to enforce by spans and explicit checks only"
            )

    def end(self) -> None:
        """Take out everything that was put in."""
        if self._hook is not None:
            self._hook.remove()
        if settle_dropped in self._engine.overdue:
            self._engine.overdue.remove(settle_dropped)
        with self._lock:
            guards = [GUARDS[sdk].uninstall for sdk in self._placed]
            for undo in (*self._undo_instrumentor.values(), *self._undo_hooks, *guards):
                with contained("taking an instrumentor, a hook or a guard out"):
                    undo()
            self._undo_instrumentor.clear()
            self._undo_hooks.clear()
            self._placed.clear()
            self._engine.guarded.clear()

    def pending(self) -> list[str]:
        """SDKs that are installed and not imported yet."""
        return [sdk for sdk in GUARDS if sdk not in self._placed and installed(GUARDS[sdk].module)]

    def _imported(self, sdk: str) -> None:
        with contained(f"guarding {sdk}"), self._lock:
            if sdk in self._placed:  # imported anew: the guard is in classes that nobody uses any more
                GUARDS[sdk].uninstall()
            self._placed.add(sdk)
            with contained("loading the price list"):
                self._engine.prices.load()  # takes 0.4 s where it is installed, now rather than inside the first call
            GUARDS[sdk].install()
            with contained(f"instrumenting {sdk}"):
                if sdk in self._wanted and not instrumented(sdk):
                    self._undo_instrumentor[sdk] = instrument(sdk, self._providers)
            self.unreached.pop(sdk, None)
            self._engine.guarded.add(sdk)
            if around := GUARDS[sdk].unreached():
                self.unreached[sdk] = around
                self._engine.guarded.discard(sdk)
                _log.warning("the guard of %s is not reached by %s", sdk, ", ".join(around))

    def _framework(self, module: str) -> None:
        """A framework is imported, and now its hook, unless that is what imports it: it is put in when it is there."""
        with contained(f"importing the hook of {module}"):
            try:
                import_module(file_of(module))
            except ImportError as error:
                # Programs have folders of their own of such names, `agents` above all, and those are not installed.
                file = getattr(sys.modules.get(module), "__file__", None) or ""
                level = logging.WARNING if "-packages" in file else logging.DEBUG  # in site-packages, dist-packages
                _log.log(level, "no hook is put into %s, whose tools and agents are not held: %s", module, error)

    def _hooked(self, module: str) -> None:
        with contained(f"putting a hook into {module}"), self._lock:
            self._undo_hooks.append(hook_of(module)())

    def _passes(self, module: str) -> None:
        if module not in self.passing:
            self.passing.append(module)
        _log.warning(
            "nothing guards %s%s: its calls are stopped, or counted, only where an instrumentation shows them as spans;"
            " `otelbudget doctor` says what enforces what, and run.reserve() holds a call of any SDK",
            module,
            f" ({WHY[module]})" if module in WHY else "",
        )
