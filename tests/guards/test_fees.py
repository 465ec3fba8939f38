"""What makes no tokens but costs something is one step, refused where there is none, and charged the usage it says."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from kits import charged
from kits import cohere as cohere_client
from mistral_ways import mistral as mistral_client
from openai import OpenAI

from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.guards.dialects import anthropic, bedrock, cohere, dialect_of, gemini, mistral, openai
from otelbudget.manager import BudgetManager
from otelbudget.pricing import Price

SOUND = ("a.wav", b"RIFF", "audio/wav")
CALLS: dict[str, Callable[[OpenAI], object]] = {
    "images": lambda c: c.images.generate(model="dall-e-3", prompt="A cat."),
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
        (gemini.ENDPOINTS, "/v1beta1/projects/embedded/publishers/google/models/imagen-4:predict"),
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
    ("body", "tokens"),
    [
        # As OpenAI publishes them, the later ones by its calculator.
        ({"model": "gpt-image-1", "quality": "low", "size": "1024x1024"}, 272),
        ({"model": "gpt-image-1-mini", "quality": "medium", "size": "1024x1536", "n": 3}, 3 * 1_584),
        ({"model": "gpt-image-1.5", "quality": "high", "size": "1024x1024", "partial_images": 2}, 4_160 + 200),
        ({"model": "chatgpt-image-latest", "quality": "auto", "size": "auto"}, 6_240),
        ({"model": "gpt-image-2", "quality": "high", "size": "1024x1024"}, 7_024),
        ({"model": "gpt-image-2-2026-04-21", "quality": "high", "size": "1536x1024"}, 5_488),
        ({"model": "gpt-image-2", "quality": "high", "size": "1792x1024"}, 5_063),
        ({"model": "gpt-image-2", "quality": "high", "size": "3584x2048"}, 12_329),
        ({"model": "openai/gpt-image-2.5-flare"}, 7_024),
        ({"model": "gpt-image-2", "size": "0x0", "quality": 7, "n": "many", "partial_images": None}, 7_024),
        ({"model": "dall-e-3", "quality": "hd", "size": "1024x1024"}, 0),
        ({}, 0),
    ],
)
def test_the_tokens_of_a_picture_are_known_before_it_is_made(body: Any, tokens: int) -> None:
    found = dialect_of(openai.ENDPOINTS, "post", "/v1/images/generations")
    assert found is not None
    assert found.max_output_tokens(body) == tokens


def test_pictures_are_held_at_what_they_may_cost_and_charged_that_where_nobody_says(
    manager: BudgetManager, gateway: str, answer: dict[str, Any], served: list[Any]
) -> None:
    pytest.importorskip("genai_prices")
    plain = {"input_tokens": 3, "output_tokens": 4_160}
    told: list[Any] = [plain | {"output_tokens_details": {"image_tokens": 4_160}}, plain, None]
    answer["make"] = lambda _: (200, {"created": 1, "data": [{"b64_json": "x"}], "usage": told.pop(0)})
    client = OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0)
    with client, manager.run(RunBudget(max_cost_usd=3 * 0.1332), reraise=False) as run:
        for _ in range(3):
            client.images.generate(model="gpt-image-1.5", prompt="A cat.", quality="high", size="1024x1024")
        with pytest.raises(BudgetExceeded):
            client.images.generate(model="gpt-image-1.5", prompt="A cat.", quality="high", size="1024x1024")
    assert len(served) == 3
    assert (run.usage.output_tokens, run.usage.estimated) == (3 * 4_160, True)
    assert 3 * 4_160 * Decimal("0.000032") < run.usage.cost_usd <= Decimal("0.3996")


def test_speech_that_is_paid_by_the_token_is_charged_an_estimate_since_its_answer_is_only_sound(
    manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    answer.update(content_type="audio/mpeg", make=lambda _: (200, b"sound"))
    said = "Budgets keep agents in bounds. " * 20
    with OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client, manager.run() as run:
        client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=said)
    # 620 characters are some 45 seconds, of 20 tokens each.
    assert 900 <= (run.usage.output_tokens or 0) <= 1_300
    assert run.usage.estimated


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


def _of_mistral(url: str) -> None:
    file: Any = {"content": b"RIFF", "file_name": "a.wav"}
    mistral_client(url).audio.transcriptions.complete(model="voxtral", file=file)


def _of_cohere(url: str) -> None:
    with cohere_client("ClientV2")(url) as client:
        client.audio.transcriptions.create(model="voxtral", language="en", file=SOUND)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("sdk", "call"), [("mistralai", _of_mistral), ("cohere", _of_cohere)])
@pytest.mark.parametrize("config", [Config(prices={"voxtral": Price(input=1, output=2, request=Decimal("0.01"))})])
def test_a_file_that_is_sent_in_a_form_has_the_price_of_its_model(
    sdk: str, call: Callable[[str], None], manager: BudgetManager, gateway: str, answer: dict[str, Any]
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    answer["make"] = lambda _: (200, {"model": "other", "text": "", "language": "en", "usage": usage})
    with manager.run(RunBudget(max_cost_usd=1)) as run:
        call(gateway)
    assert (charged(run), run.usage.cost_usd) == ((1, 10, 5), Decimal("0.01002"))
