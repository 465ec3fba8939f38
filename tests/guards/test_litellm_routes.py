"""Every function of litellm that goes to a paid endpoint is guarded; where it makes no tokens, it is a step."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import pytest
from kits import charged

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PICTURE = b"\x89PNG\r\n\x1a\n"
BY_OPENAI = {"custom_llm_provider": "openai"}
ROUTES: dict[str, dict[str, Any]] = {
    "image_generation": {"model": "openai/gpt-image-1", "prompt": "A cat."},
    "image_edit": {"model": "openai/gpt-image-1", "prompt": "A dog.", "image": PICTURE},
    "speech": {"model": "openai/tts-1", "input": "Say it.", "voice": "alloy"},
    "transcription": {"model": "openai/whisper-1", "file": ("a.wav", b"RIFF", "audio/wav")},
    "moderation": {"model": "openai/omni-moderation-latest", "input": "Say it."},
    "rerank": {"model": "cohere/rerank-v3.5", "query": "Which?", "documents": ["This."]},
    "ocr": {"model": "mistral/mistral-ocr-latest", "document": {"type": "document_url", "document_url": "http://x"}},
    "create_batch": {
        "completion_window": "24h",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file_1",
        **BY_OPENAI,
    },
}
#: What none of the ways below has.
ALONE: dict[str, dict[str, Any]] = {
    "image_variation": {"model": "openai/dall-e-2", "image": PICTURE},
    "video_generation": {"model": "openai/sora-2", "prompt": "A cat."},
    "video_remix": {"video_id": "v", "prompt": "A dog.", **BY_OPENAI},
}
ANSWER = {
    "id": "x",
    "created": 1,
    "created_at": 1,
    "status": "in_progress",
    "progress": 0,
    "model": "m",
    "text": "Said.",
    "data": [],
    "pages": [],
    "object": "batch",
    "completion_window": "24h",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file_1",
    "results": [{"index": 0, "relevance_score": 0.5, "flagged": False, "categories": {}, "category_scores": {}}],
}


@pytest.fixture
def sdk() -> str:
    return "litellm"


@pytest.fixture
def litellm(gateway: str, answer: dict[str, Any], manager: BudgetManager) -> Any:
    answer["make"] = lambda _: (200, ANSWER)
    return pytest.importorskip("litellm")


def _called(owner: Any, route: str, twin: str, how: dict[str, Any]) -> object:
    made = getattr(owner, twin + route)
    return asyncio.run(made(**how)) if twin else made(**how)


def _once(owner: Any, route: str, twin: str, how: dict[str, Any], manager: BudgetManager, served: list[Any]) -> None:
    """One step sends one request, and none is sent, or tried again, without one."""
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        with suppress(Exception):  # litellm's, of an answer that is no video
            _called(owner, route, twin, how)
        assert charged(run)[0] == 1  # pictures at what they are held at
        with pytest.raises(BudgetExceeded) as caught:
            _called(owner, route, twin, how)
        assert caught.value.__cause__ is None
    assert len(served) == 1


@pytest.mark.parametrize("twin", ["", "a"])
@pytest.mark.parametrize("route", [*ROUTES, *ALONE])
def test_each_route_is_a_step_and_none_is_sent_without_one(
    route: str, twin: str, litellm: Any, gateway: str, manager: BudgetManager, served: list[Any]
) -> None:
    how = {**(ROUTES | ALONE)[route], "api_base": gateway, "api_key": "none"}
    _once(litellm, route, twin, how, manager, served)


@pytest.mark.parametrize("route", ROUTES)
def test_the_router_tries_no_denial_of_them_again(
    route: str, litellm: Any, gateway: str, manager: BudgetManager, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = dict(ROUTES[route])
    sent = {"model": how.pop("model", "openai/gpt-4o-mini"), "api_base": gateway, "api_key": "none"}
    router = litellm.Router(model_list=[{"model_name": "mine", "litellm_params": sent}], num_retries=2)
    waited: list[float] = []
    sleep = asyncio.sleep

    async def without_waiting(seconds: float, *args: Any) -> Any:
        waited.append(seconds)
        return await sleep(0, *args)

    monkeypatch.setattr(asyncio, "sleep", without_waiting)
    _once(router, route, "a", {**how, "model": "mine"}, manager, served)
    assert [seconds for seconds in waited if seconds > 0.1] == []


def test_messages_in_anthropics_format_are_charged_what_they_say(
    litellm: Any, answer: dict[str, Any], gateway: str, manager: BudgetManager, served: list[Any]
) -> None:
    said = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5"}
    answer["make"] = lambda _: (200, {**said, "usage": {"input_tokens": 80, "output_tokens": 20}})
    how = {"model": "anthropic/claude-haiku-4-5", "max_tokens": 100, "api_base": gateway, "api_key": "none"}

    def ask() -> object:
        return asyncio.run(litellm.anthropic_messages(messages=[{"role": "user", "content": "Say it."}], **how))

    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        ask()
        assert charged(run) == (1, 80, 20)
        with pytest.raises(BudgetExceeded):
            ask()
    assert len(served) == 1
