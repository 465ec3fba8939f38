"""What only a process of its own shows: the global provider, imports, exit, and a missing SDK."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any, cast

import pytest

Script = Callable[..., "CompletedProcess[str]"]

pytestmark = pytest.mark.slow

#: Bounds with room for a busy machine; the SDK by itself takes 6 s and more where no collector answers.
QUICKLY_S = 1.5
PATIENTLY_S = 3.5

#: Two calls of three, and what came of them.
CALLS = """
import json, sys
import otelbudget
from otelbudget import BudgetExceeded, RunBudget

def calls():
    import openai
    from otelbudget.demo import DemoServer

    with DemoServer() as server, openai.OpenAI(base_url=server.base_url, api_key="none") as client:
        refused = 0
        for _ in range(3):
            try:
                client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])
            except BudgetExceeded:
                refused += 1
        return [server.requests, refused]
"""
#: Measures itself: how long the process lives after its work is done.
EXIT = """
import atexit, time, sys
import otelbudget
from opentelemetry import trace

done = time.monotonic()
atexit.register(lambda: print(time.monotonic() - done))  # runs last
manager = otelbudget.setup(otelbudget.RunBudget(max_steps=5), metrics_port=0)
with otelbudget.run() as run:
    run.record_call(100)
done = time.monotonic()
"""


def outcome(done: CompletedProcess[str]) -> object:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def beside_the_refusal(done: CompletedProcess[str]) -> list[str]:
    """What a script complained of, but for the one refusal that is its point."""
    lines = done.stderr.splitlines()
    complaints = [line for line in lines if not line.startswith("refused (limit): budget 'default' of run ")]
    assert len(complaints) == len(lines) - 1, lines
    return complaints


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield int(silent.getsockname()[1])


def test_setup_does_not_import_the_sdk_and_a_later_import_is_guarded_and_instrumented(script: Script) -> None:
    done = script(
        CALLS
        + """
from otelbudget.bootstrap import facts
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
otelbudget.setup(RunBudget(max_steps=2), exporter=exporter, metrics_port=None)
before = ["openai" in sys.modules, "opentelemetry.instrumentation.genai" in sys.modules, str(facts().enforces)]
made = calls()
scopes = sorted({span.instrumentation_scope.name for span in exporter.get_finished_spans()})
print(json.dumps([before[:2], made, scopes, before[2], str(facts().enforces)]))
"""
    )
    *made, before, after = cast("list[Any]", outcome(done))
    assert made == [[False, False], [2, 1], ["opentelemetry.instrumentation.genai.openai"]]
    assert re.match(r"the guards? of .*openai.* once (it is|they are) imported and spans of what has no guard", before)
    assert after.startswith("the guard of openai")
    assert beside_the_refusal(done) == []


@pytest.mark.parametrize("environment", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_SAMPLER": "always_off"}])
def test_without_spans_the_guard_enforces_and_nothing_is_exported(script: Script, environment: dict[str, str]) -> None:
    done = script(
        CALLS
        + """
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
otelbudget.setup(RunBudget(max_steps=2), exporter=exporter, metrics_port=None, strict=True)
print(json.dumps([calls(), len(exporter.get_finished_spans())]))
""",
        **environment,
    )
    assert outcome(done) == [[2, 1], 0]
    said = "OTEL_SDK_DISABLED is set, so only guards and explicit checks enforce (here: the guard"
    complaints = beside_the_refusal(done)
    assert [line[: len(said)] for line in complaints] == [said] * ("OTEL_SDK_DISABLED" in environment)
    assert all("calls of SDKs without a guard are neither seen nor limited" in line for line in complaints)


def test_the_provider_made_here_is_the_global_one_and_takes_its_name_from_the_call_or_the_environment(
    script: Script,
) -> None:
    source = """
import json, sys
import otelbudget
from opentelemetry import trace
name = sys.argv[1] or None
otelbudget.setup(otelbudget.RunBudget(max_steps=1), metrics_port=None, service_name=name)
resource = trace.get_tracer_provider().resource.attributes
print(json.dumps([resource["service.name"], resource.get("team")]))
"""
    environment = {"OTEL_SERVICE_NAME": "from-env", "OTEL_RESOURCE_ATTRIBUTES": "team=a"}
    assert outcome(script(source, "from-call", **environment)) == ["from-call", "a"]
    assert outcome(script(source, "", **environment)) == ["from-env", "a"]


def test_a_global_provider_that_is_there_is_joined(script: Script) -> None:
    done = script(
        CALLS
        + """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
theirs = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(theirs))
trace.set_tracer_provider(provider)
otelbudget.setup(RunBudget(max_steps=2), metrics_port=None, strict=True)
made = calls()
otelbudget.shutdown()
trace.get_tracer("app").start_span("after").end()
print(json.dumps([made, trace.get_tracer_provider() is provider, [s.name for s in theirs.get_finished_spans()]]))
""",
        OTEL_TRACES_EXPORTER="otlp",  # for the application, which has a provider: not for a second exporter of ours
    )
    assert outcome(done) == [[2, 1], True, ["chat demo-small"] * 3 + ["after"]]
    assert beside_the_refusal(done) == []


@pytest.mark.parametrize("first", ["logfire", "otelbudget"])
def test_logfires_provider_is_joined_and_its_spans_are_kept(script: Script, first: str) -> None:
    pytest.importorskip("logfire")
    done = script(
        CALLS
        + """
import logfire, openai
from logfire.testing import TestExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

def theirs():
    logfire.instrument_openai()

def ours():
    otelbudget.setup(RunBudget(max_steps=2), metrics_port=None, strict=True)

kept = TestExporter()
logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[SimpleSpanProcessor(kept)])
for switch in (theirs, ours) if sys.argv[1] == "logfire" else (ours, theirs):
    switch()
print(json.dumps([calls(), len([s for s in kept.exported_spans if s.name.startswith("Chat")]) > 0]))
""",
        first,
    )
    assert outcome(done) == [[2, 1], True]


def test_a_script_without_a_collector_ends_at_once_and_prints_nothing(script: Script) -> None:
    done = script(EXIT)
    assert done.returncode == 0
    assert done.stderr == ""
    assert float(done.stdout) < QUICKLY_S


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_script_whose_collector_is_not_there_ends_quickly_and_says_so_in_one_line(
    script: Script, closed_port: int, protocol: str
) -> None:
    endpoint = f"http://127.0.0.1:{closed_port}"
    done = script(EXIT, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert done.returncode == 0
    assert done.stderr == f"the last telemetry was not delivered: OTLP at {endpoint} does not answer\n"
    assert float(done.stdout) < QUICKLY_S


def test_a_script_whose_collector_hangs_ends_within_two_seconds(script: Script, silent_port: int) -> None:
    endpoint = f"http://127.0.0.1:{silent_port}"
    done = script(
        EXIT,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == done.stderr.count("was not delivered") == 2  # spans and metrics
    assert float(done.stdout) < PATIENTLY_S


def test_a_script_that_shuts_down_by_itself_at_exit_ends_as_well(script: Script) -> None:
    done = script("import atexit, otelbudget\natexit.register(otelbudget.shutdown)\n" + EXIT)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_denial_that_ends_the_program_is_exported_on_the_way_out(script: Script) -> None:
    done = script(
        """
import otelbudget
from opentelemetry import trace
otelbudget.setup(otelbudget.RunBudget(max_steps=0), metrics_port=None)
trace.get_tracer("app").start_span("call", attributes={"gen_ai.operation.name": "chat"})
""",
        OTEL_TRACES_EXPORTER="console",
    )
    assert done.returncode == 1
    assert "otelbudget.BudgetExceeded: " in done.stderr
    assert '"status_code": "ERROR"' in done.stdout
    assert '"otelbudget.decision": "deny"' in done.stdout


def test_without_the_sdk_of_opentelemetry_it_says_what_to_install(script: Script) -> None:
    done = script(
        """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "opentelemetry.sdk":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import otelbudget
try:
    otelbudget.setup(otelbudget.RunBudget(max_steps=1))
except otelbudget.ConfigError as error:
    print(error)
"""
    )
    assert done.stdout == (
        "otelbudget.setup() needs the OpenTelemetry SDK, and only its API is installed: pip install opentelemetry-sdk\n"
    ), done.stderr


@pytest.mark.parametrize("strict", [True, False])
def test_with_neither_spans_nor_a_guarded_sdk_strict_refuses(script: Script, strict: bool) -> None:
    done = script(
        """
import importlib.util, sys
real = importlib.util.find_spec
from otelbudget.guards import GUARDS
sdks = [guard.module.partition(".")[0] for guard in GUARDS.values()]
importlib.util.find_spec = lambda name, package=None: None if name in sdks else real(name, package)
import otelbudget
try:
    otelbudget.setup(otelbudget.RunBudget(max_steps=1), metrics_port=None, strict=sys.argv[1] == "True")
    from otelbudget.bootstrap import facts
    print(facts().enforces)
except otelbudget.ConfigError as error:
    print(error)
""",
        str(strict),
        OTEL_SDK_DISABLED="true",
    )
    assert done.stdout == (
        "strict=True: nothing enforces, since OTEL_SDK_DISABLED is set and no SDK with a guard is installed\n"
        if strict
        else "nothing but explicit checks\n"
    ), done.stderr


def test_strict_is_not_content_with_spans_that_nobody_may_make(script: Script) -> None:
    done = script(
        """
import importlib.util
real = importlib.util.find_spec
from otelbudget.guards import GUARDS
sdks = [guard.module.partition(".")[0] for guard in GUARDS.values()]
importlib.util.find_spec = lambda name, package=None: None if name in sdks else real(name, package)
import otelbudget
for strict in (True, False):
    try:
        otelbudget.setup(otelbudget.RunBudget(max_steps=1), metrics_port=None, strict=strict)
        print(otelbudget.bootstrap.facts().enforces)
    except otelbudget.ConfigError as error:
        print(error)
"""
    )
    refused, enforces = done.stdout.splitlines()
    assert refused.startswith("strict=True: no SDK with a guard is installed, and whether instrumentations show")
    assert "install one of: openai, anthropic, groq, together, cerebras, mistralai," in refused
    assert enforces == "spans of what has no guard"


def test_runs_and_quotas_need_only_the_api(script: Script) -> None:
    done = script(
        """
import sys

class NoSdk:
    def find_spec(self, name, path=None, target=None):
        if name == "opentelemetry.sdk" or name.startswith("opentelemetry.sdk."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoSdk())
import otelbudget
from otelbudget import BudgetExceeded, QuotaService, RunBudget

with otelbudget.run(RunBudget(max_steps=1), reraise=False) as run:
    run.check()
    run.record_call(5)
    with run.child(RunBudget()) as child, otelbudget.current_run().tool_call("x"):
        pass
    try:
        run.check()
    except BudgetExceeded as error:
        print(error.reason, run.usage.tokens)
service = QuotaService(10)
service.consume_quota("acme", 4)
print(service.remaining("acme"))
try:
    from otelbudget import BudgetManager
except ImportError as error:
    print(error)
"""
    )
    assert done.stdout.splitlines() == [
        "limit 5",
        "6",
        "BudgetManager is a span processor of the OpenTelemetry SDK, and only its API is installed: pip install"
        " opentelemetry-sdk (otelbudget.run() and QuotaService work without it)",
    ], done.stderr
