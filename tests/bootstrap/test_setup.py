"""`setup()` and `shutdown()` in one process: once, again, otherwise, wrong, and off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded, Config, ConfigError, RunBudget, semconv
from otelbudget.bootstrap import Facts, facts
from otelbudget.engine import context as contexts

BUDGET = RunBudget(max_steps=5)
CALL = {semconv.GEN_AI_OPERATION: "chat"}
YAML = "budgets:\n  quick:\n    max_steps: 5\ndefault_budget: quick\n"


def setup(config: Any = BUDGET, **options: Any) -> otelbudget.BudgetManager:
    given = {"metrics_port": None, "exporter": "none", "instrument": False}
    return otelbudget.setup(config, **{**given, **options})


def now() -> Facts:
    found = facts()
    assert found is not None
    return found


def names(exporter: InMemorySpanExporter) -> list[str]:
    """Names of the spans exported, without the records of calls whose own span had ended."""
    return [span.name for span in exporter.get_finished_spans() if span.name != semconv.RECORD_SPAN]


# --- again


def test_the_same_again_or_nothing_gives_the_same_manager() -> None:
    manager = setup(tenant="acme")
    assert setup(tenant="acme") is manager
    assert otelbudget.setup() is manager
    assert otelbudget.setup(RunBudget(max_steps=5)) is manager


def test_a_file_read_again_is_the_same_and_a_changed_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(YAML)
    manager = setup(path)
    assert otelbudget.setup(str(path)) is manager
    path.write_text(YAML.replace("5", "6"))
    with pytest.raises(ConfigError, match=r"set up already, with config other than"):
        otelbudget.setup(path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"config": RunBudget(max_steps=6)}, "config"),
        ({"tenant": "other"}, "tenant"),
        ({"exporter": InMemorySpanExporter()}, "exporter"),
        ({"tenant": "other", "metrics_port": 1}, "metrics_port and tenant"),
        ({"enforce": False, "config": RunBudget()}, "config and enforce"),
    ],
)
def test_something_else_the_second_time_is_an_error_that_names_it(options: dict[str, Any], named: str) -> None:
    manager = setup()
    with pytest.raises(ConfigError, match=f"set up already, with {named} other than .*shutdown") as error:
        otelbudget.setup(**options)
    assert "\n" not in str(error.value)
    assert otelbudget.setup() is manager


def test_threads_that_set_up_at_once_get_one_manager() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: setup(), range(8)))) == 1


def test_three_times_in_one_process_each_exporter_sees_its_own_spans_only() -> None:
    for round_ in range(3):
        exporter = InMemorySpanExporter()
        manager = setup(exporter=exporter)
        with otelbudget.run(RunBudget(max_steps=1, name=f"round {round_}")):
            trace.get_tracer("app").start_span(f"call {round_}", attributes=CALL).end()
        assert manager.engine is contexts.active_engine()
        otelbudget.shutdown()
        trace.get_tracer("app").start_span("between", attributes=CALL).end()
        assert names(exporter) == [f"call {round_}", f"otelbudget.run round {round_}"]


def test_a_tracer_made_in_one_round_serves_the_next() -> None:
    setup()
    tracer = trace.get_tracer("app")
    otelbudget.shutdown()
    exporter = InMemorySpanExporter()
    setup(RunBudget(max_steps=1), exporter=exporter)
    tracer.start_span("first", attributes=CALL).end()
    assert names(exporter) == ["first"]


def test_an_exporter_in_memory_can_be_used_for_the_next_round() -> None:
    exporter = InMemorySpanExporter()
    for _ in range(2):
        setup(exporter=exporter)
        trace.get_tracer("app").start_span("work").end()
        otelbudget.shutdown()
    assert names(exporter) == ["work", "work"]


# --- off


def test_shutdown_switches_everything_off_and_can_be_called_at_any_time() -> None:
    otelbudget.shutdown()
    finders = list(sys.meta_path)
    setup(RunBudget(max_steps=0))
    otelbudget.shutdown()
    otelbudget.shutdown()
    assert facts() is None
    assert contexts.active_engine() is None
    assert sys.meta_path == finders
    trace.get_tracer("app").start_span("call", attributes=CALL).end()


def test_a_run_open_across_shutdown_ends_quietly() -> None:
    exporter = InMemorySpanExporter()
    setup(exporter=exporter)
    with otelbudget.run(BUDGET) as run:
        otelbudget.shutdown()
        run.record_call(10)
    assert names(exporter) == []


# --- budgets


def test_without_anything_it_takes_the_file_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text(YAML)
    manager = setup(None)
    assert manager.engine.config["quick"].max_steps == 5
    assert now().budgets.endswith("budgets.yaml")


def test_without_any_configuration_it_warns_that_nothing_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    setup(None)
    assert [record.levelname for record in caplog.records if record.name == "otelbudget"] == ["WARNING"]
    assert "nothing is limited" in caplog.text
    assert "budgets.yaml" in caplog.text


def test_a_configuration_in_code_says_what_every_run_is_held_to() -> None:
    setup(Config({"quick": RunBudget(max_steps=1)}, default_budget="quick"), tenant="acme")
    with otelbudget.run() as run:
        run.record_call(1)
        assert run.remaining()["steps"] == 0
        assert run.tenant == "acme"


def test_without_enforcement_everything_is_counted_and_nothing_refused() -> None:
    exporter = InMemorySpanExporter()
    manager = setup(RunBudget(max_steps=1), exporter=exporter, enforce=False)
    for _ in range(3):
        trace.get_tracer("app").start_span("call", attributes=CALL).end()
    assert names(exporter) == ["call"] * 3
    assert now().enforces == "nothing (enforce=False)"
    assert now().observes == "everything"
    assert not manager.engine.enforce


# --- what it says


def test_one_line_says_what_enforces_and_where_everything_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "otelbudget")
    setup(exporter=InMemorySpanExporter(), metrics_port=0)
    (record,) = [record for record in caplog.records if record.name == "otelbudget"]
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        "otelbudget is on; budgets: the RunBudget given; enforced by: the guard of openai and spans of what has no"
        f" guard; spans go to InMemorySpanExporter; metrics go to {now().metrics_url}"
    )


def test_where_no_exporter_is_named_the_line_says_how_to_get_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "otelbudget")
    setup(exporter="auto")
    assert "spans go to nowhere (set OTEL_EXPORTER_OTLP_ENDPOINT to send them to a collector)" in caplog.text
    otelbudget.shutdown()
    setup(exporter="none")
    assert now().spans == "nowhere"


# --- joining


def test_a_provider_given_is_joined_once_and_keeps_its_exporters_sampler_and_life() -> None:
    theirs, ours = InMemorySpanExporter(), InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider.add_span_processor(SimpleSpanProcessor(theirs))
    sampler = provider.sampler
    for round_ in range(2):
        manager = setup(RunBudget(max_steps=1), tracer_provider=provider, exporter=ours)
        provider.get_tracer("app").start_span(f"call {round_}", attributes=CALL).end()
        with pytest.raises(BudgetExceeded):
            provider.get_tracer("app").start_span("denied", attributes=CALL)
        assert manager.remaining()["steps"] == 0
        otelbudget.shutdown()
        provider.get_tracer("app").start_span("between").end()
    assert names(ours) == ["call 0", "call 1"]
    assert names(theirs) == ["call 0", "between", "call 1", "between"]
    assert provider.sampler is sampler
    assert len(provider._active_span_processor._span_processors) == 2


def test_the_exporters_that_variables_name_are_left_to_who_made_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    setup(tracer_provider=TracerProvider(shutdown_on_exit=False), exporter="auto")
    assert now().spans == "the exporters of the application's tracer provider"


def test_a_provider_whose_sampler_can_drop_is_joined_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    setup(tracer_provider=TracerProvider(ALWAYS_OFF, shutdown_on_exit=False))
    assert "sampler of the tracer provider joined can drop spans" in caplog.text
    caplog.clear()
    otelbudget.shutdown()
    setup(tracer_provider=TracerProvider(shutdown_on_exit=False))
    assert not caplog.records


def test_a_provider_without_span_processors_leaves_enforcement_to_the_guards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup(RunBudget(max_steps=1), tracer_provider=NoOpTracerProvider(), strict=True)
    assert "NoOpTracerProvider takes no span processors, so only guards" in caplog.text
    assert now().enforces == "the guard of openai"
    with Provider() as server, openai.OpenAI(base_url=server.base_url, api_key="none") as client:
        client.embeddings.create(model="demo-embed", input="one")
        with pytest.raises(BudgetExceeded):
            client.embeddings.create(model="demo-embed", input="two")
        assert server.requests == 1


def test_a_service_name_comes_too_late_for_a_provider_that_is_there(caplog: pytest.LogCaptureFixture) -> None:
    setup()
    otelbudget.shutdown()
    setup(service_name="too late")
    assert "service_name is ignored: the tracer provider is there already, as unknown_service" in caplog.text


# --- wrong


class Wrong(Iterable[int]):
    def __iter__(self) -> Any:
        return iter((1,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": 5}, r"setup\(config=...\): expected the path of a budgets.yaml, .*, got 5 \(int\)"),
        ({"config": {"quick": BUDGET}}, r"setup\(config=...\): .*otelbudget\.Config\(budgets=...\), got "),
        ({"config": "missing.yaml"}, r"missing\.yaml"),
        ({"store": "mysql://localhost"}, r"store.url must be memory, sqlite:///path.db or .*, got 'mysql:...'"),
        ({"logger_provider": object()}, r"logger_provider=.*: expected an OpenTelemetry LoggerProvider or None"),
        ({"metrics_port": 65536}, r"setup\(metrics_port=...\): expected a port from 0 .*, got 65536"),
        ({"metrics_port": True}, r"setup\(metrics_port=...\): expected a port"),
        ({"metrics_port": "9464"}, r"setup\(metrics_port=...\): expected a port .*, got '9464' \(str\)"),
        ({"metrics_host": ""}, r"setup\(metrics_host=...\): expected a non-empty string or None"),
        ({"metrics_port": 0, "metrics_host": "no.such.host.invalid"}, r"can't serve metrics on no\.such\.host"),
        ({"tenant": 7}, r"setup\(tenant=...\): expected a non-empty string or None, got 7"),
        ({"service_name": " "}, r"setup\(service_name=...\): expected a non-empty string"),
        ({"service_name": "a", "tracer_provider": TracerProvider(shutdown_on_exit=False)}, r"service_name is for"),
        ({"tracer_provider": "otel"}, r"tracer_provider: expected an OpenTelemetry TracerProvider, got 'otel'"),
        ({"meter_provider": 1}, r"setup\(meter_provider=...\): expected an OpenTelemetry MeterProvider"),
        ({"registry": 1}, r"setup\(registry=...\): expected a prometheus_client CollectorRegistry"),
        ({"exporter": "otlp"}, r"setup\(exporter=...\): expected \"auto\", \"none\" or a SpanExporter, got 'otlp'"),
        ({"exporter": ConsoleSpanExporter}, r"a SpanExporter \(an instance, not the class\)"),
        ({"enforce": "yes"}, r"setup\(enforce=...\): expected True or False, got 'yes'"),
        ({"strict": 1}, r"setup\(strict=...\): expected True or False, got 1"),
        ({"strict": True, "enforce": False}, r"strict=True wants enforcement and enforce=False switches it off"),
        ({"instrument": True}, r"setup\(instrument=...\): expected \"auto\", False or a list of: openai, got True"),
        ({"instrument": "openai"}, r"setup\(instrument=...\): expected \"auto\", False or a list of: openai"),
        ({"instrument": ["opnai"]}, r"instrument: 'opnai' can't be instrumented; did you mean 'openai'\?"),
        ({"instrument": 3}, r"setup\(instrument=...\): expected .*, got 3 \(int\)"),
        ({"instrument": Wrong()}, r"instrument: 1 can't be instrumented"),
    ],
)
def test_what_is_wrong_is_one_message_that_says_where_and_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        setup(**options)
    assert "\n" not in str(error.value)
    assert facts() is None
    assert contexts.active_engine() is None
    setup()
