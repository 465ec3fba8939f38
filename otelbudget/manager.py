"""`BudgetManager`: the whole of otelbudget behind one object, which is also an OpenTelemetry span processor."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from os import PathLike
from typing import Any, Unpack

from opentelemetry.context import Context, get_current

from otelbudget import forking
from otelbudget.admission import closing
from otelbudget.config import Config, load_budget_config
from otelbudget.config.watching import WatchedFile
from otelbudget.engine import context as contexts
from otelbudget.engine.engine import Engine
from otelbudget.errors import ConfigError
from otelbudget.model.budget import OnExhausted, RunBudget
from otelbudget.model.decision import Decision
from otelbudget.model.keywords import AmountKeywords
from otelbudget.model.usage import Usage
from otelbudget.model.values import spelled
from otelbudget.runs import continuing
from otelbudget.runs.ambient import ambient_run, reset_ambient
from otelbudget.runs.continuing import ContinueOptions, Headers
from otelbudget.runs.run import BudgetRun
from otelbudget.runs.scope import RunOptions, RunScope
from otelbudget.spans.processor import LiveSpans

try:
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
except ModuleNotFoundError as missing:
    raise ImportError(
        "BudgetManager is a span processor of the OpenTelemetry SDK, and only its API is installed:"
        " pip install opentelemetry-sdk (otelbudget.run() and QuotaService work without it)"
    ) from missing

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


@spelled
class BudgetManager(SpanProcessor):
    """Budgets for everything this process does; ``provider.add_span_processor(manager)`` makes spans count too.

    Outside every run its methods mean the process-wide run, so the classic form needs nothing else:

    Example:
        >>> manager = BudgetManager(RunBudget(max_steps=5, max_tokens=2000))
        >>> manager.record_call(350)
        >>> manager.remaining()["tokens"]
        1650

    Args:
        budget: The default budget; or a whole `Config`, or the path of a budgets.yaml; None limits nothing.
        tenant: Whose runs these are where a run does not say.
        enforce: False counts and reports everything and refuses nothing.
        engine: The inside of another manager to share; then no other argument.

    Raises:
        ConfigError: The budget or the file is wrong.
    """

    def __init__(
        self,
        budget: RunBudget | Config | str | PathLike[str] | None = None,
        *,
        tenant: str | None = None,
        enforce: bool = True,
        engine: Engine | None = None,
    ) -> None:
        self.engine = Engine(_config(budget), tenant=tenant, enforce=enforce) if engine is None else engine
        self._owns_engine = engine is None
        # Managers of one engine may listen to several providers, but a run's spans are one tree.
        self.live_spans: LiveSpans = self.engine.spans or LiveSpans(self.engine)
        self.engine.spans = self.live_spans
        self.reloading = Reloading(self.engine)

    def __repr__(self) -> str:
        engine = self.engine
        does = "" if engine.enforce else ", only counting"
        return f"<BudgetManager: {engine.budget(None)!r} by default, {len(engine.meters.live)} runs open{does}>"

    # --- the run here

    def current(self) -> BudgetRun:
        """The run that a call made here is charged to; the process-wide one outside every run."""
        context = get_current()
        run = contexts.run_in(context)
        run = run if run is not None and run.engine is self.engine else None
        return BudgetRun(self.live_spans.runs.at(context, run) or ambient_run(self.engine))

    def check(self, **amounts: Unpack[AmountKeywords]) -> Decision:
        """`BudgetRun.check` of the run here."""
        return self.current().check(**amounts)

    def can_proceed(self, **amounts: Unpack[AmountKeywords]) -> bool:
        """`BudgetRun.can_proceed` of the run here."""
        return self.current().can_proceed(**amounts)

    def record(self, usage: Usage) -> None:
        """`BudgetRun.record` of the run here."""
        self.current().record(usage)

    def record_call(self, tokens: int = 0) -> None:
        """`BudgetRun.record_call` of the run here."""
        self.current().record_call(tokens)

    def remaining(self) -> dict[str, Any]:
        """`BudgetRun.remaining` of the run here."""
        return self.current().remaining()

    def reset(self) -> None:
        """Let the next call outside every run begin a new process-wide run."""
        reset_ambient(self.engine)

    def reload(self, config: RunBudget | Config | str | PathLike[str] | None = None) -> bool:
        """Put another configuration in force: quotas, prices and policies at once, budgets for runs that begin.

        Runs in progress keep their limits, what was used of quotas stays used, and what the configuration says about
        telemetry keeps until the process starts anew.

        Args:
            config: As for the manager; None reads the file again that it came from.

        Returns:
            False if the file is wrong: what is wrong is logged, and the last good configuration stays.

        Raises:
            ConfigError: It is no configuration, or there is no file to read again.
        """
        if config is None or isinstance(config, str | PathLike):
            return self.reloading.reread(config)
        self.reloading.apply(_config(config))
        return True

    def run(self, budget: str | RunBudget | None = None, **options: Unpack[RunOptions]) -> RunScope:
        """`otelbudget.run` on this manager."""
        return RunScope(lambda: self.engine, budget, **options)

    def resume(
        self, state: Mapping[str, Any], *, on_exhausted: OnExhausted | None = None, reraise: bool = True
    ) -> RunScope:
        """`otelbudget.resume` on this manager."""
        return continuing.resumed(self.engine, state, on_exhausted, reraise=reraise)

    def continue_run(self, headers_or_id: str | Headers, **options: Unpack[ContinueOptions]) -> RunScope:
        """`otelbudget.continue_run` on this manager."""
        return continuing.continued(self.engine, headers_or_id, options)

    # --- the span processor

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Admit what the span stands for.

        Raises:
            BudgetExceeded: It is a model or tool call that can't be paid for. The span carries its check event and is
                not ended.
        """
        self.live_spans.started(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Charge what an unguarded span used."""
        self.live_spans.ended(span)

    def must_hear(self, parent_context: Context | None, name: str, attributes: Mapping[str, Any] | None) -> bool:
        """For a sampler: whether a span that it drops has to be recorded, unexported, so that budgets hold."""
        return self.live_spans.must_hear(parent_context, name, attributes)

    def shutdown(self) -> None:
        """Finish the runs that ended with calls still open, and close the store once it has heard of all."""
        closing.tend(self.engine, everything=True)
        if self._owns_engine:
            self.engine.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Finish the runs whose open calls are never heard of again."""
        closing.tend(self.engine)
        return True


def _config(budget: RunBudget | Config | str | PathLike[str] | None) -> Config:
    if isinstance(budget, Config):
        return budget
    if budget is None or isinstance(budget, RunBudget):
        return Config(default_budget=budget)
    if isinstance(budget, str | PathLike):
        return load_budget_config(budget)
    raise ConfigError(f"BudgetManager takes a RunBudget, a Config or the path of a budgets.yaml, got {budget!r}")


class Reloading:
    """Puts other configurations in force on an engine, one at a time; `Meters.reload_ok` says whether the last was."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = forking.fresh_lock()
        source = engine.config.source
        #: That is followed. Its path is absolute, since the process may go elsewhere before it looks again.
        self.file = None if source is None else WatchedFile(os.path.abspath(source), engine.config)

    def reread(self, path: str | PathLike[str] | None = None) -> bool:
        """Apply what the file says, or from now on that at *path*; False if it is wrong, ConfigError without a file."""
        with self._lock:
            file = self.file if path is None else WatchedFile(os.path.abspath(path))
            if file is None:
                raise ConfigError("there is nothing to read again: the configuration came from no file; pass another")
            read = self._read(file, force=True)
            self.file = file if read else self.file
            return read

    def follow(self) -> None:
        """Apply what the file says if it has changed; what is wrong with it is logged once."""
        with self._lock:
            if self.file is not None:
                self._read(self.file)

    def apply(self, config: Config) -> None:
        """Put *config* in force. A file that is followed takes over again when it changes."""
        with self._lock:
            self._apply(config, "another configuration")

    def _read(self, file: WatchedFile, *, force: bool = False) -> bool:
        look = file.look(force=force)
        if look == "refused":
            self._engine.meters.reload_ok = False
            _log.error("the configuration was not reloaded, and the last good one stays in force:\n%s", file.error)
        elif look == "loaded" and file.config is not None:
            self._apply(file.config, file.path)
        return look == "loaded"

    def _apply(self, config: Config, source: str) -> None:
        engine, before = self._engine, self._engine.config
        if config != before:
            engine.reload(config)
            _log.info("the configuration was reloaded from %s; runs in progress keep their limits", source)
            for what in ("telemetry", "store"):
                if getattr(config, what) != getattr(before, what):
                    said = "what the configuration says about %s changes only when the process starts anew"
                    _log.warning(said, what if what == "telemetry" else "the store")
        engine.meters.reload_ok = True
