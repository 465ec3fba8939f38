"""Guards and instrumentors of the OpenAI SDK are switched on and off, and nobody else's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.resources.embeddings import Embeddings
from openai.resources.responses import Responses
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otelbudget
from otelbudget import BudgetExceeded, ConfigError, RunBudget, integrations
from otelbudget.bootstrap import facts, instrumentors
from otelbudget.demo import DemoServer
from otelbudget.guards import GUARDS
from otelbudget.guards.sdks import Sdk
from otelbudget.guards.stainless import StainlessGuard

OFFICIAL = "opentelemetry.instrumentation.genai.openai"
OPENINFERENCE = "openinference.instrumentation.openai"
OPENLLMETRY = "opentelemetry.instrumentation.openai"
#: OpenLLMetry's own, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Support for class-based `config`")


def instrumentor(module: str) -> object:
    return importlib.import_module(module).OpenAIInstrumentor()


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer() as server:
        yield server


@pytest.fixture
def client(server: DemoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])


def attributes() -> dict[tuple[type, str], object]:
    """Everything on the SDK's classes that guards and instrumentors replace."""
    resources = (Completions, AsyncCompletions, Embeddings, Responses)
    classes = (openai.OpenAI, openai.AsyncOpenAI, SyncAPIClient, AsyncAPIClient, *resources)
    return {(cls, name): value for cls in classes for name, value in vars(cls).items()}


def state() -> dict[tuple[type, str], tuple[int, object]]:
    """The same by identity, since a wrapper calls itself equal to what it wraps, and with the code that is run."""
    return {key: (id(value), getattr(value, "__code__", None)) for key, value in attributes().items()}


@pytest.fixture
def _restored() -> Iterator[None]:
    """The SDK's classes are put back, where an instrumentor of the application does not do that itself."""
    before = attributes()
    yield
    for (cls, name), value in attributes().items():
        if (cls, name) not in before:
            delattr(cls, name)
        elif before[cls, name] is not value:
            setattr(cls, name, before[cls, name])
    for cls, name, wrapper in instrumentors._wrappers("openai"):
        setattr(cls, name, wrapper.__wrapped__)


def setup(**options: object) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    otelbudget.setup(RunBudget(max_steps=2), exporter=exporter, metrics_port=None, **options)  # type: ignore[arg-type]
    return exporter


def scopes(exporter: InMemorySpanExporter) -> set[str]:
    return {
        span.instrumentation_scope.name
        for span in exporter.get_finished_spans()
        if span.instrumentation_scope is not None
    }


def spend_all(client: openai.OpenAI, server: DemoServer) -> None:
    before = server.requests
    for _ in range(2):
        ask(client)
    with pytest.raises(BudgetExceeded):
        ask(client)
    assert server.requests == before + 2


def test_the_official_instrumentor_is_switched_on_and_off_and_the_sdk_is_as_it_was(
    client: openai.OpenAI, server: DemoServer
) -> None:
    before = state()
    exporter = setup()
    assert instrumentor(OFFICIAL).is_instrumented_by_opentelemetry  # type: ignore[attr-defined]
    spend_all(client, server)
    assert scopes(exporter) == {OFFICIAL}
    otelbudget.shutdown()
    assert state() == before
    assert not instrumentor(OFFICIAL).is_instrumented_by_opentelemetry  # type: ignore[attr-defined]
    ask(client)


@pytest.mark.parametrize(
    ("candidates", "scope"),
    [((1, 2), OPENINFERENCE), ((2,), "opentelemetry.instrumentation.openai.v1"), ((), "otelbudget")],
)
def test_where_the_official_one_is_missing_the_next_is_taken_and_the_guard_opens_spans_without_any(
    client: openai.OpenAI,
    server: DemoServer,
    monkeypatch: pytest.MonkeyPatch,
    candidates: tuple[int, ...],
    scope: str,
) -> None:
    known = instrumentors.CANDIDATES["openai"]
    if candidates:
        pytest.importorskip(known[candidates[0]], reason="it has no release for this Python")
    monkeypatch.setitem(instrumentors.CANDIDATES, "openai", tuple(known[i] for i in candidates))
    before = state()
    exporter = setup()
    spend_all(client, server)
    assert scopes(exporter) == {scope}
    otelbudget.shutdown()
    assert state() == before


def test_a_candidate_that_is_not_installed_or_does_not_work_is_passed_over(
    client: openai.OpenAI, server: DemoServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = instrumentors.CANDIDATES["openai"]
    monkeypatch.setitem(instrumentors.CANDIDATES, "openai", ("no_such_package.instrumentor", "json", *known))
    exporter = setup()
    spend_all(client, server)
    assert scopes(exporter) == {OFFICIAL}
    assert "json can't be switched on, trying the next" in caplog.text
    assert "no-such-package" not in caplog.text


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("module", [OFFICIAL, OPENINFERENCE, OPENLLMETRY])
def test_an_instrumentor_that_is_active_stays_the_only_one_and_stays_on(
    client: openai.OpenAI, server: DemoServer, module: str
) -> None:
    pytest.importorskip(module, reason="it has no release for this Python")
    theirs = instrumentor(module)
    theirs.instrument()  # type: ignore[attr-defined]
    try:
        assert instrumentors.instrumented("openai")
        exporter = setup()
        spend_all(client, server)
        assert len(scopes(exporter)) == 1
        otelbudget.shutdown()
        assert theirs.is_instrumented_by_opentelemetry  # type: ignore[attr-defined]
    finally:
        theirs.uninstrument()  # type: ignore[attr-defined]


def test_one_that_somebody_else_switched_off_meanwhile_is_left_alone(
    client: openai.OpenAI, server: DemoServer, caplog: pytest.LogCaptureFixture
) -> None:
    setup()
    instrumentor(OFFICIAL).uninstrument()  # type: ignore[attr-defined]
    spend_all(client, server)
    otelbudget.shutdown()
    assert "already uninstrumented" not in caplog.text


@pytest.mark.parametrize("instrument", [False, []])
def test_nothing_is_instrumented_where_that_is_not_wanted(
    client: openai.OpenAI, server: DemoServer, instrument: object
) -> None:
    exporter = setup(instrument=instrument)
    spend_all(client, server)
    assert scopes(exporter) == {"otelbudget"}


def test_an_sdk_named_without_an_instrumentor_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(instrumentors.CANDIDATES, "openai", ("no_such_package.instrumentor",))
    with pytest.raises(ConfigError, match=r"instrument: no instrumentor for openai.*pip install 'otelbudget\["):
        setup(instrument=["openai"])
    assert facts() is None
    setup(instrument="auto")


def test_strict_is_content_where_the_guard_is_reached(client: openai.OpenAI, server: DemoServer) -> None:
    setup(strict=True)
    spend_all(client, server)


def test_strict_passes_over_an_sdk_that_is_there_and_can_t_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_an_sdk.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(GUARDS, "half", StainlessGuard(Sdk("half", "half_an_sdk", "half", ())))
    setup(strict=True)


def test_a_client_class_that_goes_round_the_guard_is_named_and_strict_refuses_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Detour(openai.OpenAI):
        def request(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            return None

    try:
        setup()
        now = facts()
        assert now is not None
        assert "Detour" in now.observes
        assert "is not reached by" in caplog.text
        assert otelbudget.setup().engine.guarded == set()
        otelbudget.shutdown()
        with pytest.raises(ConfigError, match=r"strict=True: the guard of openai is not reached by .*Detour"):
            setup(strict=True)
        assert facts() is None
    finally:
        Detour.request = openai.OpenAI.request  # type: ignore[method-assign,assignment] # it may outlive this test
    setup(strict=True)


@pytest.fixture
def _unguarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An SDK that calls models and has no guard can be imported."""
    (tmp_path / "xai_sdk.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("xai_sdk", None)


@pytest.mark.usefixtures("_unguarded")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_sdk_that_nothing_guards_is_told_of_when_it_is_imported(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    if when == "before":
        importlib.import_module("xai_sdk")
    setup()
    assert ("nothing guards xai_sdk: " in caplog.text) is (when == "before")
    importlib.import_module("xai_sdk")
    assert caplog.text.count("nothing guards xai_sdk: ") == 1


@pytest.mark.usefixtures("_unguarded")
def test_one_that_got_a_guard_is_not_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(GUARDS, "xai", StainlessGuard(Sdk("xai", "xai_sdk.inside", "xai", ())))
    setup()
    importlib.import_module("xai_sdk")
    assert "nothing guards" not in caplog.text


@pytest.mark.usefixtures("_unguarded")
def test_strict_refuses_where_one_is_imported_and_warns_of_one_that_comes_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup(strict=True)
    importlib.import_module("xai_sdk")
    assert "nothing guards xai_sdk: " in caplog.text
    otelbudget.shutdown()
    with pytest.raises(ConfigError, match="strict=True: nothing guards xai_sdk, which this process has imported"):
        setup(strict=True)
    assert facts() is None


def test_the_warning_says_why_and_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "claude_agent_sdk.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    setup()
    importlib.import_module("claude_agent_sdk")
    assert "nothing guards claude_agent_sdk (its loop is a subprocess; otelbudget.integrations" in caplog.text
    sys.modules.pop("claude_agent_sdk", None)


@pytest.mark.parametrize("installed", [True, False])
def test_a_framework_too_old_for_its_hook_is_imported_as_before_and_told_of_and_another_of_its_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, installed: bool
) -> None:
    folder = tmp_path / ("site-packages" if installed else "project")
    folder.mkdir()
    (folder / "crewai.py").write_text("VERSION = 1\n")
    monkeypatch.syspath_prepend(folder)
    setup()
    assert importlib.import_module("crewai").VERSION == 1
    del sys.modules["crewai"]
    assert ("no hook is put into crewai" in caplog.text) is installed


def test_what_a_hook_imports_waits_for_no_import_that_another_thread_is_in_the_middle_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = "def put(): return lambda: None\n"
    other = "other = threading.Thread(target=importlib.import_module, args=('other_framework',))\n"
    (tmp_path / "slow_hook.py").write_text(
        f"import importlib, threading\n{put}{other}other.start()\nother.join(10)\nwaited = other.is_alive()\n"
    )
    (tmp_path / "quick_hook.py").write_text(put)
    for framework, hook in (("a_framework", "slow_hook"), ("other_framework", "quick_hook")):
        (tmp_path / f"{framework}.py").touch()
        monkeypatch.setitem(integrations.PROCESS_WIDE, framework, f"{hook}.put")
        monkeypatch.delitem(sys.modules, framework, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(integrations, "__path__", [*integrations.__path__, str(tmp_path)])
    setup()
    importlib.import_module("a_framework")
    assert not importlib.import_module("otelbudget.integrations.slow_hook").waited


@pytest.mark.parametrize("first", ["a_framework", "otelbudget.integrations.a_hook"])
def test_a_hook_is_put_in_once_also_where_its_own_module_is_what_imports_the_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (tmp_path / "a_framework.py").touch()
    (tmp_path / "a_hook.py").write_text(
        "import a_framework\nlog = []\ndef put():\n    log.append('in')\n    return lambda: log.append('out')\n"
    )
    monkeypatch.setitem(integrations.PROCESS_WIDE, "a_framework", "a_hook.put")
    for module in ("a_framework", "otelbudget.integrations.a_hook"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(integrations, "__path__", [*integrations.__path__, str(tmp_path)])
    setup()
    importlib.import_module(first)
    otelbudget.shutdown()
    assert importlib.import_module("otelbudget.integrations.a_hook").log == ["in", "out"]
