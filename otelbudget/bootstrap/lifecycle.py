"""`setup()` and `shutdown()`: everything switched on in one call, and off again in one."""

from __future__ import annotations

import atexit
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from otelbudget import forking
from otelbudget.bootstrap.arguments import Arguments
from otelbudget.bootstrap.assembly import Facts, SetUp
from otelbudget.guards.boundary import contained
from otelbudget.model.values import spelled

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from otelbudget.config import Config, StoreConfig
    from otelbudget.estimate.tokenizer import Tokenizer
    from otelbudget.manager import BudgetManager
    from otelbudget.model.budget import RunBudget
    from otelbudget.stores.base import Store

_lock = forking.fresh_lock()
_current: SetUp | None = None
_at_exit = False


@spelled
def setup(
    config: str | os.PathLike[str] | Config | RunBudget | None = None,
    *,
    store: str | StoreConfig | Store | None = None,
    metrics_port: int | Literal["auto"] | None = "auto",
    metrics_host: str | None = None,
    tenant: str | None = None,
    service_name: str | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    registry: CollectorRegistry | None = None,
    exporter: Literal["auto", "none"] | SpanExporter = "auto",
    enforce: bool = True,
    instrument: Literal["auto", False] | Iterable[str] = "auto",
    strict: bool = False,
    reload_s: float | None = None,
    tokenizer: Tokenizer | Literal["tiktoken"] | None = None,
) -> BudgetManager:
    """Switch budgets on for this process: guards, hooks of agent frameworks, spans, metrics and the context in threads.

    Calling it again with the same arguments, or without any, returns the same manager. One line at level INFO of the
    logger ``otelbudget`` says what enforces, and where spans and metrics go.

    Example:
        >>> manager = otelbudget.setup(RunBudget(max_steps=5, max_tokens=2000))  # doctest: +SKIP

    Args:
        config: Path of a budgets.yaml, a `Config`, or one `RunBudget` for everything; None takes the file that
            ``OTELBUDGET_CONFIG`` names, else ``./budgets.yaml`` if there is one, else limits nothing and warns.
        store: Where quotas are counted: ``memory`` of this process, ``sqlite:///path.db`` (three slashes from here,
            four from the root) for all processes of this machine that name the same file, ``redis://host:port/db`` for
            those of all machines, or a store of yours; None takes what the configuration says, else memory. An address
            takes the place of the configured one, and nothing else. Only runs with ``shared=True`` are counted there.
        metrics_port: Where ``/metrics`` is, or the next free port; 0 for any, None for no page. "auto" is 9464, or
            ``OTEL_EXPORTER_PROMETHEUS_PORT``; where metrics are pushed or the application serves *registry*, no page.
            Each worker process has a page of its own, a forked one from its first check on; many had better push.
        metrics_host: Address that the page listens on; ``OTEL_EXPORTER_PROMETHEUS_HOST`` or 127.0.0.1 if None.
        tenant: Whose runs these are where a run does not say.
        service_name: For the tracer provider made here; ``OTEL_SERVICE_NAME`` if None.
        tracer_provider: A provider to join; the global one if None, and one made here if there is none.
        meter_provider: Reports metrics through it instead of a page.
        logger_provider: Carries events out as log records where the configuration wants that (``telemetry.events``);
            the global one, or ``OTEL_LOGS_EXPORTER`` and the OTLP endpoints, if None.
        registry: Shows the metrics in this registry of prometheus_client instead of a private one; not in what
            ``PROMETHEUS_MULTIPROC_DIR`` collects, which has no place for them.
        exporter: Where spans go: "auto" follows the ``OTEL_*`` variables, and exports nothing where they say nothing
            or the provider joined has exporters of its own; "none"; or an exporter of yours, shut down with us.
        enforce: False counts and reports everything and refuses nothing.
        instrument: "auto" switches at most one GenAI instrumentor per SDK on; or the SDKs to instrument; or False.
        strict: Raise if a model SDK that is imported, or that *instrument* names, is not guarded (one imported later
            warns), nothing enforces, the SDK keeps refusals from spans of a provider that is joined or the port of
            ``/metrics`` is in use.
        reload_s: Look every so many seconds whether the file of the configuration has changed, and apply it as
            `BudgetManager.reload` does; None does not.
        tokenizer: Counts text instead of estimating it: a function of a text and a model (or None) that gives a number
            of tokens, None where it does not know the model; "tiktoken" (extra ``tokens``) with the vocabularies that
            are in ``TIKTOKEN_CACHE_DIR``.

    Returns:
        The manager of this process.

    Raises:
        ConfigError: An argument, a variable or the file is wrong, or it is set up otherwise already.
        ImportError: What *tokenizer* names is not installed.
    """
    given = dict(locals())  # the arguments, and nothing else yet
    if not isinstance(instrument, str | bool):
        with suppress(TypeError):  # no list: for the check to refuse
            given["instrument"] = tuple(instrument)  # can be compared, and read twice
    arguments = Arguments(**given)
    arguments.check()
    global _current, _at_exit
    with _lock:
        if _current is not None:
            return _current.again(arguments)
        _current = made = SetUp(arguments)
        if not _at_exit:
            _at_exit = True
            atexit.register(shutdown)
        return made.manager


def shutdown() -> None:
    """Switch everything off that `setup()` switched on; runs at exit by itself.

    Delivers what is left for at most 2 s. The tracer provider stays as it is, and `setup()` may be called again.
    """
    global _current
    with _lock:
        current, _current = _current, None
        if current is not None:
            with contained("shutting down"):
                current.take_down()


def facts() -> Facts | None:
    """What is switched on now; None before `setup()` and after `shutdown()`."""
    current = _current
    return None if current is None else current.facts()
