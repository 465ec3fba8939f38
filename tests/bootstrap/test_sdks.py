"""Each SDK with a guard is guarded by `setup()`, whether it is imported before or after, and left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Script = Callable[..., "CompletedProcess[str]"]
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

#: Five calls wanted and one paid for, two more while nothing is set up, in sync and async.
FIVE = """
import json, sys, warnings
sdk, module, when = sys.argv[1:4]
sys.path[:0] = sys.argv[4:]
warnings.simplefilter("ignore")  # of the SDKs themselves, as they are imported
import importlib
import otelbudget
from otelbudget.bootstrap import facts
from provider import Provider

if when == "before":
    importlib.import_module(module)
otelbudget.setup(otelbudget.RunBudget(max_steps=1), exporter="none", metrics_port=None, instrument=False,
                 strict=when == "strict")
said = [facts().enforces]
from sdks import WAYS, kit

def ask(way):
    made = kit(sdk, server)
    with made.client:
        try:
            WAYS[way](made)
        except otelbudget.BudgetExceeded:
            return "denied"
    return "answered"

with Provider() as server:
    with otelbudget.run(reraise=False):
        seen = [ask(way) for way in ("sync", "stream", "async", "async stream", "sync")]
    sent = server.requests
    said.append(facts().enforces)
    otelbudget.shutdown()
    seen += [ask(way) for way in ("sync", "async stream")]
    print(json.dumps([seen, sent, server.requests, said]))
"""


@pytest.mark.parametrize(
    ("sdk", "module", "when"),
    [
        *(("openai", "openai", when) for when in ("before", "after", "strict")),
        *((sdk, sdk, "after") for sdk in ("anthropic", "groq", "together")),
        ("cerebras", "cerebras.cloud.sdk", "after"),
    ],
)
def test_one_call_of_five_is_sent_and_what_comes_after_shutdown_passes(
    script: Script, sdk: str, module: str, when: str
) -> None:
    done = script(FIVE, sdk, module, when, str(TESTS), str(TESTS / "guards"))
    assert done.returncode == 0, done.stderr
    seen, sent, all_sent, (first, last) = json.loads(done.stdout.splitlines()[-1])
    assert seen == ["answered", *["denied"] * 4, "answered", "answered"]
    assert (sent, all_sent) == (1, 3)
    now, _, later = first.partition(" once ")[0].rpartition(", the guard") if " once " in first else (first, "", "")
    assert (sdk in later) is (when != "before")  # strict imports nothing by itself
    assert (sdk in now) is (when == "before")
    assert sdk in last.partition(", the guard")[0]


#: Three calls wanted and one paid for.
THREE = """
import importlib, json, sys, warnings
module, sdk, ask = sys.argv[1:4]
sys.path[:0] = sys.argv[4:]
warnings.simplefilter("ignore")  # of the SDKs themselves, as they are imported
import otelbudget
from otelbudget.bootstrap import facts

otelbudget.setup(otelbudget.RunBudget(max_steps=1), exporter="none", metrics_port=None)
early = module in sys.modules
made = importlib.import_module(module)
from provider import Provider

seen = []
with Provider() as server:
    call = eval(ask)
    with otelbudget.run(reraise=False):
        for _ in range(3):
            try:
                call()
                seen.append("answered")
            except otelbudget.BudgetExceeded:
                seen.append("denied")
    print(json.dumps([early, seen, server.requests, sdk in facts().enforces.partition(" once ")[0]]))
"""
MISTRAL = """lambda c=made.Mistral(api_key="none", server_url=f"{server.root_url}/mistral"): c.chat.complete(
    model="m", messages=[{"role": "user", "content": "Say it."}])"""
GEMINI = """lambda c=made.Client(api_key="none", http_options={"base_url": server.root_url}): c.models.generate_content(
    model="gemini-2.5-flash", contents="Say it.")"""

COHERE = """lambda c=made.ClientV2(api_key="none", base_url=f"{server.root_url}/cohere"): c.chat(
    model="command-a-03-2025", messages=[{"role": "user", "content": "Say it."}])"""
OLLAMA = """lambda c=made.Client(host=server.root_url): c.chat(
    model="m", messages=[{"role": "user", "content": "Say it."}])"""
BEDROCK = """lambda c=made.client("bedrock-runtime", endpoint_url=server.root_url, region_name="us-east-1",
    aws_access_key_id="none", aws_secret_access_key="none"): c.converse(
    modelId="anthropic.claude-haiku-4-5", messages=[{"role": "user", "content": [{"text": "Say it."}]}])"""


@pytest.mark.parametrize(
    ("module", "sdk", "ask"),
    [
        ("mistralai.client", "mistralai", MISTRAL),
        ("google.genai", "google_genai", GEMINI),
        ("cohere", "cohere", COHERE),
        ("ollama", "ollama", OLLAMA),
        ("boto3", "bedrock", BEDROCK),
    ],
)
def test_an_sdk_of_another_kind_is_guarded_when_it_is_imported_and_not_imported_by_us(
    script: Script, module: str, sdk: str, ask: str
) -> None:
    pytest.importorskip(module)
    done = script(THREE, module, sdk, ask, str(TESTS))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, ["answered", "denied", "denied"], 1, True]
