"""A tokenizer counts what is held; one that fails or says nonsense never stops a call; tiktoken never fetches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from openai import OpenAI
from provider import Provider, Reply
from test_estimate_text import KINDS

import otelbudget
from otelbudget import ConfigError, RunBudget, estimate_tokens
from otelbudget.demo.server import Request
from otelbudget.estimate import tokenizer as tokenizers
from otelbudget.estimate.text import text_tokens
from otelbudget.estimate.tokenizer import Counter
from otelbudget.estimate.tokens import PER_MESSAGE, PER_REQUEST

LONG = "A token bucket limits requests. " * 50


@pytest.fixture(autouse=True)
def _estimates_again() -> Iterator[None]:
    yield
    otelbudget.shutdown()


def setup(tokenizer: Any, budget: RunBudget | None = None) -> otelbudget.BudgetManager:
    return otelbudget.setup(
        budget or RunBudget(), tokenizer=tokenizer, metrics_port=None, exporter="none", instrument=False
    )


def words(text: str, model: str | None) -> int | None:
    return None if model == "unknown" else len(text.split())


# --- who counts


def test_a_tokenizer_counts_what_the_guard_holds_and_what_estimate_tokens_says() -> None:
    setup(words, RunBudget(max_tokens=3 + PER_MESSAGE + PER_REQUEST + 10))
    with Provider() as server, OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        server.enqueue(Reply(input_tokens=1, output_tokens=1))
        with otelbudget.run(reraise=False):
            for text, fits in (("four words are here", False), ("three words here", True)):
                ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}]}
                try:
                    client.chat.completions.create(**ask, max_completion_tokens=10)
                except otelbudget.BudgetExceeded:
                    assert not fits
                else:
                    assert fits
        assert server.requests == 1
    assert estimate_tokens("three words here", "m") == 3
    assert estimate_tokens([{"role": "user", "content": "three words here"}]) == 3 + PER_MESSAGE
    otelbudget.shutdown()
    assert estimate_tokens(LONG, "m") == text_tokens(LONG)


def test_with_an_exact_tokenizer_parallel_calls_with_tools_use_a_limit_up_and_never_pass_it() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Look up."}], "tools": [tool] * 3}

    def answered(request: Request) -> Reply:
        body = request.body
        read = sum(PER_MESSAGE + len(one["content"]) for one in body["messages"])
        tools = json.dumps(body["tools"], separators=(",", ":"))
        return Reply(input_tokens=PER_REQUEST + read + len(tools), output_tokens=body["max_completion_tokens"])

    each = PER_REQUEST + PER_MESSAGE + len("Look up.") + len(json.dumps([tool] * 3, separators=(",", ":"))) + 10
    setup(lambda text, _model: len(text), RunBudget(max_tokens=5 * each + each // 2))
    with (
        Provider(script=answered) as server,
        OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        otelbudget.run(reraise=False) as run,
        ThreadPoolExecutor(8) as pool,
    ):

        def call(_: int) -> bool:
            with contextlib.suppress(otelbudget.BudgetExceeded):
                client.chat.completions.create(**ask, max_completion_tokens=10)
                return True
            return False

        assert sum(pool.map(call, range(24))) == server.requests == 5
        assert run.usage.tokens == 5 * each


def test_a_model_that_the_tokenizer_does_not_know_is_estimated() -> None:
    setup(words)
    assert estimate_tokens(LONG, "unknown") == text_tokens(LONG)


# --- a tokenizer that fails


def _raising(text: str, model: str | None) -> int:
    raise LookupError("no such model")


@pytest.mark.parametrize("nonsense", [-1, 0, True, 1.5, "7", 2**53, float("nan"), [3]])
def test_nonsense_is_estimated_and_warned_of_once(nonsense: Any, caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter(lambda text, model: nonsense)
    assert [counter(text, None) for text in ("short", LONG, LONG, "")] == [
        *(text_tokens(text) for text in ("short", LONG, LONG)),
        0,
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_tokenizer_that_raises_is_warned_of_once_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    setup(_raising)
    assert [estimate_tokens(text, "m") for text in ("short", LONG)] == [text_tokens("short"), text_tokens(LONG)]
    assert [
        one.getMessage() for one in caplog.records if one.levelno == logging.WARNING and "tokenizer" in one.msg
    ] == [f"the tokenizer {_raising!r} raised LookupError('no such model'): such texts are estimated"]


# --- what is remembered


def test_a_long_text_is_counted_once_for_each_model() -> None:
    asked: list[tuple[str, str | None]] = []

    def counted(text: str, model: str | None) -> int:
        asked.append((text, model))
        return len(text)

    counter = Counter(counted)
    assert {counter(LONG, model) for model in ("a", "b", "a", None, "b")} == {len(LONG)}
    assert [model for _, model in asked] == ["a", "b", None]


def test_what_is_remembered_has_a_bound_and_any_thread_may_ask() -> None:
    counter = Counter(words)
    texts = [f"{number} {LONG}" for number in range(tokenizers._REMEMBERED + 100)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda text: counter(text, "m"), texts)) == {len(LONG.split()) + 1}
    assert len(counter._counts) <= tokenizers._REMEMBERED + 8


# --- setup


@pytest.mark.parametrize("wrong", [7, "o200k", True, b"tiktoken", ["tiktoken"]])
def test_what_is_no_tokenizer_is_refused_by_setup(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"setup\(tokenizer=\.\.\.\): expected a function of a text"):
        setup(wrong)


def test_without_tiktoken_setup_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match=r"pip install 'otelbudget\[tokens\]'"):
        setup("tiktoken")


@pytest.mark.parametrize("content", [None, b"", b"IQ== 0\n"])
def test_without_a_whole_vocabulary_tiktoken_is_not_asked_and_nothing_fetched(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.get_encoding", None)
    if content is not None:
        _file(tmp_path, "o200k_base").write_bytes(content)
    with caplog.at_level(logging.INFO, logger="otelbudget"):
        setup("tiktoken")
    told = [record.getMessage() for record in caplog.records if "vocabulary" in record.getMessage()]
    assert told == [f"no vocabulary of tiktoken (o200k_base, cl100k_base) in {tmp_path}: tokens are estimated"]
    assert estimate_tokens(LONG, "gpt-4o") == text_tokens(LONG)


def test_tiktoken_counts_by_the_vocabulary_of_the_model_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    bytewise = tiktoken.Encoding("o200k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.get_encoding", {"o200k_base": bytewise}.__getitem__)
    _file(tmp_path, "o200k_base").write_bytes(b"whole")
    monkeypatch.setitem(tokenizers._VOCABULARIES, "o200k_base", hashlib.sha256(b"whole").hexdigest())
    setup("tiktoken")
    assert estimate_tokens(LONG, "gpt-4o") == len(LONG)
    assert estimate_tokens("<|endoftext|>", "gpt-4o") == len("<|endoftext|>")  # as text, whoever wrote it
    for other in ("gpt-4", "claude-opus-4", None):  # its vocabulary is not there; none is known
        assert estimate_tokens(LONG, other) == text_tokens(LONG)


def test_the_vocabularies_of_this_machine_count_the_corpus_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = find_spec("litellm")  # it has both
    if shipped is not None and shipped.submodule_search_locations and "TIKTOKEN_CACHE_DIR" not in os.environ:
        (root,) = shipped.submodule_search_locations
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(root, "litellm_core_utils", "tokenizers")))
    counted = tokenizers.tiktoken()
    if counted is None or counted("a", "gpt-4o") is None or counted("a", "gpt-4") is None:
        pytest.skip("o200k_base and cl100k_base are neither in TIKTOKEN_CACHE_DIR nor in litellm")
    for kind in KINDS:
        assert [counted(text, "gpt-4o") for text in kind.texts] == kind.o200k
        assert [counted(text, "gpt-4") for text in kind.texts] == kind.cl100k


def _file(directory: Path, name: str) -> Path:
    address = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    return directory / hashlib.sha1(address.encode()).hexdigest()
