"""What makes no tokens but costs something is one step, refused where there is none, and charged the usage it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kits import charged
from openai import OpenAI

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.guards.dialects import anthropic, bedrock, cohere, dialect_of, gemini, mistral, openai
from otelbudget.manager import BudgetManager

SOUND = ("a.wav", b"RIFF", "audio/wav")
CALLS: dict[str, Callable[[OpenAI], object]] = {
    "images": lambda c: c.images.generate(model="gpt-image-1", prompt="A cat."),
    "speech": lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="Say it."),
    "speech stream": lambda c: _read(c),
    "transcription": lambda c: c.audio.transcriptions.create(model="whisper-1", file=SOUND),
    "moderation": lambda c: c.moderations.create(model="omni-moderation-latest", input="Say it."),
    "batch": lambda c: c.batches.create(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file_1"
    ),
}


def _read(client: OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Say it.") as made:
        made.read()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("usage", [None, {"input_tokens": 8, "output_tokens": 5, "total_tokens": 13}])
def test_each_is_a_step_and_none_is_sent_without_one(
    call: str, usage: Any, manager: BudgetManager, forms: str, answer: dict[str, Any], served: list[Any]
) -> None:
    answer["make"] = lambda _: (200, {"id": "x", "created": 1, "data": [], "results": [], "text": "", "usage": usage})
    client = OpenAI(base_url=f"{forms}/v1", api_key="none", max_retries=0)
    with client, manager.run(RunBudget(max_steps=1), reraise=False) as run:
        CALLS[call](client)
        if call == "speech stream":  # sound, which nobody looks into
            assert charged(run) == (1, 0, 0)
        else:
            assert charged(run) == ((1, 8, 5) if usage else (1, 0, 0))
        with pytest.raises(BudgetExceeded):
            CALLS[call](client)
    assert len(served) == 1


@pytest.fixture
def forms(gateway: str, answer: dict[str, Any], request: pytest.FixtureRequest) -> str:
    if "speech stream" in request.node.name:
        answer["content_type"] = "audio/mpeg"
    return gateway


@pytest.mark.parametrize(
    ("endpoints", "path"),
    [
        (mistral.ENDPOINTS, "/v1/ocr"),
        (mistral.ENDPOINTS, "/v1/chat/moderations"),
        (mistral.ENDPOINTS, "/v1/batch/jobs"),
        (anthropic.ENDPOINTS, "/v1/messages/batches"),
        (gemini.ENDPOINTS, "/v1beta/models/imagen-4:predict"),
        (gemini.ENDPOINTS, "/v1beta/models/gemini-embedding:asyncBatchEmbedContent"),
        (gemini.ENDPOINTS, "/v1/projects/p/locations/l/batchPredictionJobs"),
        (cohere.ENDPOINTS, "/v2/rerank"),
        (cohere.ENDPOINTS, "/v2/audio/transcriptions"),
        (cohere.ENDPOINTS, "/v2/batches"),
        (cohere.ENDPOINTS, "/v1/embed-jobs"),
        (openai.ENDPOINTS, "/v1/rerank"),
        (openai.ENDPOINTS, "/v1/queue/submit"),
        (openai.ENDPOINTS, "/v1/videos"),
        (openai.ENDPOINTS, "/v1/videos/edits"),
        (openai.ENDPOINTS, "/v1/videos/v1/remix"),
        (bedrock.ENDPOINTS, "amazon.nova-canvas-v1:0/InvokeModel"),
        (bedrock.ENDPOINTS, "None/InvokeGuardrailChecks"),
        (openai.ENDPOINTS, "/openai/deployments/d/images/generations"),
    ],
)
def test_other_providers_have_them_too(endpoints: Any, path: str) -> None:
    found = dialect_of(endpoints, "post", path)
    assert found is not None
    assert found.fee


@pytest.mark.parametrize(
    ("endpoints", "path", "body", "images"),
    [
        (openai.ENDPOINTS, "/v1/images/generations", {"n": 3}, 3),
        (openai.ENDPOINTS, "/v1/images/edits", {"n": None}, 1),
        (openai.ENDPOINTS, "/v1/chat/completions", {"n": 3}, 0),
        (gemini.ENDPOINTS, "/v1beta/models/imagen-4:predict", {"parameters": {"sampleCount": 4}}, 4),
        (bedrock.ENDPOINTS, "nova-canvas/InvokeModel", {"imageGenerationConfig": {"numberOfImages": 2}}, 2),
        (bedrock.ENDPOINTS, "stability.sd3/InvokeModel", {"n": "many"}, 1),
    ],
)
def test_pictures_that_are_asked_for_are_counted(endpoints: Any, path: str, body: Any, images: int) -> None:
    found = dialect_of(endpoints, "post", path)
    assert found is not None
    assert found.images(body) == images


@pytest.mark.parametrize(
    ("endpoints", "path"),
    [
        (anthropic.ENDPOINTS, "/v1/messages/count_tokens"),
        (anthropic.ENDPOINTS, "/v1/messages/batches/b/cancel"),
        (gemini.ENDPOINTS, "/v1beta/models/gemini:countTokens"),
        (gemini.ENDPOINTS, "/v1/projects/p/locations/l/batchPredictionJobs/b:cancel"),
        (openai.ENDPOINTS, "/v1/videos/characters"),
        (cohere.ENDPOINTS, "/v1/tokenize"),
        (bedrock.ENDPOINTS, "m/CountTokens"),
        (openai.ENDPOINTS, "/v1/files"),
        (openai.ENDPOINTS, "/v1/batches/b/cancel"),
    ],
)
def test_what_counts_or_manages_passes(endpoints: Any, path: str) -> None:
    assert dialect_of(endpoints, "post", path) is None
