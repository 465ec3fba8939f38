"""``otelbudget doctor``: what stops model calls in this environment, what only observes, and where telemetry goes."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from typing import Final, NamedTuple

from opentelemetry.sdk.trace import TracerProvider

from otelbudget.bootstrap.arguments import configuration
from otelbudget.bootstrap.exporters import Signal, named_exporters, variable
from otelbudget.bootstrap.instrumentors import installed
from otelbudget.bootstrap.metrics import page_wanted, push_wanted
from otelbudget.bootstrap.providers import refusals_arrive
from otelbudget.bootstrap.sampler import can_drop
from otelbudget.cli.screen import Mark, Screen
from otelbudget.config import Config
from otelbudget.config.store import concealed
from otelbudget.errors import StoreError
from otelbudget.estimate.tokenizer import tiktoken
from otelbudget.guards import GUARDS, unguarded
from otelbudget.guards.sdks import WHY
from otelbudget.integrations import HOOKS, PROCESS_WIDE, hook_of
from otelbudget.manager import BudgetManager

_MORE: Final = """It looks at the packages installed beside it, the OTEL_* variables and the budgets.yaml, imports the
model SDKs and agent frameworks, asks the store, and calls no model. Exit code 0: what can be stopped is stopped, 1:
something is not."""
_NAME: Final = 44
_STOPS: Final[tuple[Mark, str]] = ("plain", "its spans begin before the call and let a refusal through")
_SWALLOWS: Final[tuple[Mark, str]] = ("plain", "only observes: it swallows a refusal")
#: Instrumentor -> what its spans are good for, where no guard is; see the README's table.
_INSTRUMENTORS: Final[dict[str, tuple[Mark, str]]] = {
    "opentelemetry-instrumentation-genai-openai": _STOPS,
    "opentelemetry-instrumentation-genai-anthropic": _STOPS,
    "opentelemetry-instrumentation-google-genai": _STOPS,
    "opentelemetry-instrumentation-openai": ("plain", "lets a refusal through, but for Responses, which it tells late"),
    "opentelemetry-instrumentation-anthropic": _STOPS,
    "opentelemetry-instrumentation-google-generativeai": _STOPS,
    "opentelemetry-instrumentation-langchain": _SWALLOWS,
    "opentelemetry-instrumentation-genai-langchain": _SWALLOWS,
    "opentelemetry-instrumentation-openai-agents": _SWALLOWS,
    "opentelemetry-instrumentation-genai-openai-agents": _SWALLOWS,
}
#: All of this vendor's.
_OPENINFERENCE: Final = "openinference-instrumentation-"
#: Modules of frameworks.
_FRAMEWORKS: Final = (
    *("langchain", "langgraph", "agents", "pydantic_ai", "crewai", "google.adk", "llama_index.core", "agent_framework"),
    *("autogen_agentchat", "ag2", "smolagents", "instructor", "mcp", "fastmcp", "celery", "fastapi", "starlette"),
    *("flask", "django", "langchain_core"),
)
#: Top module -> packages that have it.
_PACKAGES: Final = packages_distributions()


class Finding(NamedTuple):
    """One thing of this environment, whether it is ``good``, ``warn``, ``bad`` or ``plain``, and what it does."""

    name: str
    version: str
    state: Mark
    says: str


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _MORE
    parser.add_argument("--config", metavar="FILE", help="a budgets.yaml (default as setup() finds it)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Write what was found; gives 1 if something that is said to be stopped is not, else 0."""
    found = examine(configuration(options.config)[0])
    if options.json:
        print(json.dumps({section: [one._asdict() for one in ones] for section, ones in found.items()}, indent=2))
    else:
        _write(found)
    return int(any(one.state == "bad" for ones in found.values() for one in ones))


def _write(found: dict[str, list[Finding]]) -> None:
    screen = Screen()
    for section, ones in found.items():
        screen.heading(section)
        for one in ones:
            name = f"{one.name} {one.version}".strip()
            screen.line((f"{name:<{_NAME}}  ", "plain"), (one.says, one.state), hang=_NAME + 2)
        if not ones:
            screen.line(("none", "dim"))


def examine(config: Config) -> dict[str, list[Finding]]:
    """Section -> what was found. Imports every SDK that is installed; sends nothing to any of them."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network when it is imported
    return {
        "budgets": [_budgets(config)],
        "model SDKs": [*_guarded(), *_passing()],
        "instrumentations": list(_instrumentors()),
        "frameworks": list(_frameworks()),
        "spans": list(_spans()),
        "metrics and events": list(_telemetry(config)),
        "store": [_store(config)],
        "prices and estimates": list(_prices(config)),
    }


def _budgets(config: Config) -> Finding:
    if config.source is None:
        return Finding("budgets.yaml", "", "plain", "none here: a budget has to come from code")
    return Finding(str(config.source), "", "good", f"budgets: {', '.join(config) or 'none by name'}")


def _guarded() -> Iterator[Finding]:
    for sdk, guard in GUARDS.items():
        if not installed(guard.module):
            continue
        try:
            import_module(guard.module)
            guard.install()
        except Exception as error:  # noqa: BLE001 - whatever a broken SDK raises
            yield Finding(sdk, _version(guard.module), "warn", f"can't be imported: {error}")
            continue
        around = guard.unreached()
        guard.uninstall()
        says = f"the guard is not reached by {', '.join(around)}" if around else "stopped by its guard before sending"
        yield Finding(sdk, _version(guard.module), "bad" if around else "good", says)


def _passing() -> Iterator[Finding]:
    for module in filter(installed, dict.fromkeys([*unguarded(), *WHY])):
        by_spans = "stopped and counted only by spans that let a refusal through, or by run.reserve()"
        yield Finding(module, _version(module), "warn", f"no guard: {WHY.get(module, by_spans)}")


def _instrumentors() -> Iterator[Finding]:
    dists = {point.dist.name: point.dist for point in entry_points(group="opentelemetry_instrumentor") if point.dist}
    for name, dist in sorted(dists.items()):
        state_says = _SWALLOWS if name.startswith(_OPENINFERENCE) else _INSTRUMENTORS.get(name)
        if state_says is not None:
            yield Finding(name, dist.version, *state_says)


def _frameworks() -> Iterator[Finding]:
    for module in filter(installed, _FRAMEWORKS):
        hook = HOOKS.get(module)
        says = f"; otelbudget.integrations.{hook} ends well there" if hook else ""
        state, held = _held(module)
        yield Finding(module, _version(module), state, f"its model calls stop where their SDK does{held}{says}")


def _held(framework: str) -> tuple[Mark, str]:
    """What `setup()` does in a framework, found by putting its hook in and out."""
    module = next((one for one in PROCESS_WIDE if one == framework or one.startswith(f"{framework}.")), None)
    if module is None:
        return "plain", ""
    try:
        taken_out = hook_of(module)()
        taken_out()
    except Exception as error:  # noqa: BLE001 - whatever a broken framework raises
        return "warn", f"; setup() can't hook it: {error}"
    missing = ", ".join(getattr(taken_out, "missing", ()))
    return ("warn", f"; setup() can't hook its {missing}") if missing else ("plain", "; setup() hooks it")


def _spans() -> Iterator[Finding]:
    provider = TracerProvider(shutdown_on_exit=False)
    if variable("OTEL_SDK_DISABLED").lower() == "true":
        yield Finding("SDK", "", "warn", "OTEL_SDK_DISABLED is set: only guards and explicit checks enforce")
        return
    if refusals_arrive():
        yield Finding("refusals", _dist("opentelemetry-sdk"), "good", "a span processor's refusal reaches the caller")
    else:
        says = "this SDK swallows what a span processor raises: spans stop calls only where setup() makes the provider"
        yield Finding("refusals", _dist("opentelemetry-sdk"), "bad", says)
    drops = can_drop(provider.sampler)
    says = "can drop spans: under an application's own provider calls without a guard may pass unseen"
    name = variable("OTEL_TRACES_SAMPLER") or "the default"
    yield Finding("sampler", "", "warn" if drops else "good", f"{name} {says if drops else 'drops nothing'}")
    yield Finding("exporters", "", "plain", _places("TRACES") or "none (set OTEL_EXPORTER_OTLP_ENDPOINT)")


def _telemetry(config: Config) -> Iterator[Finding]:
    pushed = push_wanted(None)
    page = page_wanted("auto", None, config.telemetry.metrics_port, pushed=pushed, own_registry=True)
    where = [] if page is None else ["http://{}:{}/metrics".format(*page)]
    yield Finding("metrics", "", "plain", " and ".join(where + [_places("METRICS")] * pushed) or "nowhere")
    events = config.telemetry.events
    logs = _places("LOGS") or "the application's logger provider"
    yield Finding("events", "", "plain", events if events == "span" else f"{events}, log records to {logs}")


def _places(signal: Signal) -> str:
    return " and ".join(where for _, where in named_exporters(signal))


def _store(config: Config) -> Finding:
    said = config.store
    name = concealed(said.url)
    if said.url == "memory":
        return Finding(name, "", "plain", "quotas are counted by each process for itself")
    manager = BudgetManager(config)
    try:
        manager.engine.store.store.read("default", ())
        return Finding(name, "", "good", f"it answers; should it not, {said.on_error}")
    except StoreError as error:
        return Finding(name, "", "bad", f"it does not answer ({error}), so now: {said.on_error}")
    finally:
        manager.shutdown()


def _prices(config: Config) -> Iterator[Finding]:
    named = len(config.prices.models)
    listed = config.prices.load()
    says = "lists models, offline" if listed else "not used: install 'otelbudget[prices]' for the prices of most models"
    yield Finding("genai-prices", _dist("genai-prices"), "good" if listed else "plain", says)
    yield Finding("prices", "", "plain", f"{named} model{'s' * (named != 1)} priced by name in the configuration")
    yield _tokenizer()


def _tokenizer() -> Finding:
    """What counts text here where ``setup()`` is told ``tokenizer="tiktoken"``, and where it is told nothing."""
    built_in = "built in: an estimate that needs no vocabulary and learns from answers"
    if not installed("tiktoken"):
        return Finding("tokenizer", "", "plain", built_in)
    found = "has its vocabularies" if tiktoken() else "has no vocabulary on this machine, so it would not be used"
    return Finding("tokenizer", "", "plain", f"{built_in}; setup(tokenizer='tiktoken') {found}")


def _version(module: str) -> str:
    """Of the package that has *module*."""
    dashed = f"{module.replace('.', '-').replace('_', '-')}-"
    names = _PACKAGES.get(module.partition(".")[0], ())
    return _dist(next((name for name in names if dashed.startswith(f"{name.replace('_', '-')}-")), (*names, "")[0]))


def _dist(name: str) -> str:
    try:
        return version(name) if name else ""
    except PackageNotFoundError:
        return ""
