"""``otelbudget doctor`` says what stops calls and what only observes, and fails where something should and doesn't."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from openai._base_client import SyncAPIClient
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from otelbudget.cli import main
from otelbudget.guards import GUARDS

Doctor = Callable[..., "tuple[int, dict[str, dict[str, Any]]]"]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run it where openai is the only SDK with a guard: exit code, and section -> name -> finding."""
    monkeypatch.chdir(tmp_path)
    for sdk in set(GUARDS) - {"openai"}:
        monkeypatch.delitem(GUARDS, sdk)

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        code = main(["doctor", "--json", *arguments])
        found = json.loads(capsys.readouterr().out)
        return code, {section: {one["name"]: one for one in ones} for section, ones in found.items()}

    return run


def test_a_framework_whose_tools_are_not_held_is_told_of(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crewai.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    said = doctor()[1]["frameworks"]["crewai"]
    sys.modules.pop("crewai", None)
    assert said["state"] == "warn"
    assert "setup() can't hook it: this is for CrewAI 1.15 or newer" in said["says"]


def test_a_guarded_sdk_is_fine_and_is_left_as_it_was(doctor: Doctor) -> None:
    before = SyncAPIClient.request.__code__
    code, found = doctor()
    assert code == 0
    assert found["model SDKs"]["openai"] == {
        "name": "openai",
        "version": openai.__version__,
        "state": "good",
        "says": "stopped by its guard before sending",
    }
    assert found["spans"]["refusals"]["state"] == "good"
    assert found["store"]["memory"]["state"] == "plain"
    assert SyncAPIClient.request.__code__ is before


def test_people_read_the_same(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"openai {openai.__version__} stopped by its guard before sending" in shown
    assert "http://127.0.0.1:9464/metrics" in shown


def test_an_sdk_without_a_guard_and_instrumentors_that_swallow_are_named(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xai_sdk.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    pytest.importorskip("openinference.instrumentation.openai", reason="it has no release for this Python")
    code, found = doctor()
    assert code == 0  # it may never be used
    assert found["model SDKs"]["xai_sdk"]["state"] == "warn"
    assert "no guard" in found["model SDKs"]["xai_sdk"]["says"]
    assert "swallows" in found["instrumentations"]["openinference-instrumentation-openai"]["says"]
    assert "let a refusal through" in found["instrumentations"]["opentelemetry-instrumentation-genai-openai"]["says"]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("claude_agent_sdk", "claude_agent.query"),
        ("google.genai.live", "websocket"),
    ],
)
def test_it_says_why_what_can_not_be_stopped_is_not(
    module: str, why: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module.startswith("google"):
        if not find_spec(module.partition(".")[0]):
            pytest.skip("not installed")
    else:
        package, _, inner = module.partition(".")
        (tmp_path / package).mkdir()
        for name in filter(None, ("__init__", inner)):
            (tmp_path / package / f"{name}.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
    code, found = doctor()
    assert code == 0
    assert found["model SDKs"][module]["state"] == "warn"
    assert why in found["model SDKs"][module]["says"]


@pytest.mark.parametrize(
    ("tools", "says", "state"),
    [
        ("class Tool:\n    async def _run(self): ...\n", "setup() hooks it", "plain"),
        ("class Tool: ...\n", "setup() can't hook its Tool._run", "warn"),
        ("", "setup() can't hook it: this is for FastMCP", "warn"),
    ],
)
def test_it_says_whether_setup_hooks_a_framework(
    tools: str, says: str, state: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fastmcp").mkdir()
    for name, text in {"__init__": "", "exceptions": "class ToolError(Exception): ...\n", "tools": tools}.items():
        (tmp_path / "fastmcp" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("fastmcp", "fastmcp.exceptions", "fastmcp.tools", "otelbudget.integrations.fastmcp_tools"):
        monkeypatch.setitem(sys.modules, name, None)  # as it is afterwards: absent
        del sys.modules[name]
    code, found = doctor()
    assert code == 0
    assert says in found["frameworks"]["fastmcp"]["says"]
    assert found["frameworks"]["fastmcp"]["state"] == state


def test_it_says_which_tokenizer_counts(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    _, found = doctor()
    assert "built in" in found["prices and estimates"]["tokenizer"]["says"]
    assert "no vocabulary on this machine" in found["prices and estimates"]["tokenizer"]["says"]


def test_litellm_is_imported_without_the_network(monkeypatch: pytest.MonkeyPatch, doctor: Doctor) -> None:
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    doctor()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_it_fails_where_a_client_goes_round_its_guard(doctor: Doctor) -> None:
    class Detour(openai.OpenAI):
        def request(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            return None

    try:
        code, found = doctor()
    finally:
        Detour.request = openai.OpenAI.request  # type: ignore[method-assign,assignment] # it may outlive this test
    assert code == 1
    assert "Detour" in found["model SDKs"]["openai"]["says"]


def test_it_finds_out_that_an_sdk_swallows_what_processors_raise(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SynchronousMultiSpanProcessor, "on_start", lambda *_, **__: None)
    code, found = doctor()
    assert code == 1
    assert "only where setup() makes the provider" in found["spans"]["refusals"]["says"]


@pytest.mark.parametrize(
    ("variables", "section", "name", "says"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "spans", "sampler", "always_off can drop spans"),
        ({}, "spans", "sampler", "the default drops nothing"),
        ({"OTEL_SDK_DISABLED": "true"}, "spans", "SDK", "only guards and explicit checks enforce"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "spans", "exporters", "OTLP at http://c:4318"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "metrics and events", "metrics", "OTLP at http://localhost:4317"),
    ],
)
def test_it_reads_the_variables_as_setup_does(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], section: str, name: str, says: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    code, found = doctor()
    assert code == 0
    assert says in found[section][name]["says"]


def test_it_asks_the_store_that_the_file_names(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text("store: {url: 'sqlite:///b.db'}\nbudgets: {quick: {max_steps: 2}}\n")
    code, found = doctor()
    assert code == 0
    (store,) = found["store"].values()
    assert store["says"] == "it answers; should it not, fail_closed"
    assert [one["says"] for one in found["budgets"].values()] == ["budgets: quick"]
    (tmp_path / "other.yaml").write_text("store: {url: 'redis://me:secret@127.0.0.1:1/0', on_error: fail_open}\n")
    code, found = doctor("--config", "other.yaml")
    assert code == 1
    (store,) = found["store"].values()
    assert "it does not answer" in store["says"]
    assert "fail_open" in store["says"]
    assert "secret" not in json.dumps(found)
