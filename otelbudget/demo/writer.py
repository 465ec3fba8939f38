"""The demo server's "model", and how it counts: no weights, the same texts always give the same answer and number.

It plays a research assistant. Offered tools, it asks for a search, then reads what the search found, until it has
read enough; without tools, or when it has, it answers with the sentences of its sources that fit the question best.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from otelbudget.demo.library import Library, terms

#: What begins the line of a document that names related ones, and a user's message that holds notes.
SEE_ALSO = "See also: "
NOTES = "Notes: "

_ENOUGH = 3
_AT_ONCE = 2
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ENOUGH_RULE = re.compile(r"at least (\d+) documents?")

# Near what real tokenizers give: short words are one token, long ones several; digits go in threes; every other sign is
# one.
_TOKEN = re.compile(r"[^\W\d_]{1,7}|\d{1,3}|[^\s\w]|_")
_PER_MESSAGE = 4
_PER_PROMPT = 3

Message = Mapping[str, Any]
Call = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says: text, or tool calls as ``(name, arguments)``."""

    text: str = ""
    tool_calls: Sequence[Call] = ()


def write(messages: Sequence[Message], *, research: bool = False) -> Answer:
    """The answer to a chat.

    Args:
        messages: ``{"role", "content" (text), "tool_calls"?: [{"name", "arguments"}]}``, oldest first.
        research: Whether it may ask for ``search`` and ``read_document`` first.
    """
    question = next((m["content"] for m in messages if m["role"] == "user"), "")
    if research and (calls := _research(messages, question)):
        return Answer(tool_calls=calls)
    sources = [m["content"] for m in messages if m["role"] == "tool"]
    sources += [m["content"].removeprefix(NOTES) for m in messages if m["content"].startswith(NOTES)]
    texts = [source.partition(SEE_ALSO)[0] for source in sources if source and not source.startswith("[")]
    if not texts:
        texts = [document.text for document in Library.packaged().search(question, limit=2)]
    return Answer(text=synthesis(question, texts) or "I have no source that speaks to this.")


def _research(messages: Sequence[Message], question: str) -> Sequence[Call]:
    """Search; read what was found, two at a time; search once more, more widely; then it is enough."""
    asked = [call for m in messages for call in m.get("tool_calls") or ()]
    searches = sum(call["name"] == "search" for call in asked)
    read = {json.loads(call["arguments"] or "{}").get("id") for call in asked if call["name"] == "read_document"}
    wanted = _wanted(messages)
    if len(read) >= wanted:
        return ()
    if unread := [name for name in _found(messages) if name not in read]:
        return [("read_document", {"id": name}) for name in unread[: min(_AT_ONCE, wanted - len(read))]]
    if searches >= wanted:
        return ()
    query = _wider(messages, question, searches) if searches else " ".join(terms(question)[:8])
    return [("search", {"query": query or question})]


def _wanted(messages: Sequence[Message]) -> int:
    rule = next((m["content"] for m in messages if m["role"] in ("system", "developer")), "")
    match = _ENOUGH_RULE.search(rule)
    return int(match[1]) if match else _ENOUGH


def _found(messages: Sequence[Message]) -> list[str]:
    """Ids in the answers of `search` and those that documents refer to, in the order in which they came."""
    found: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            found += [str(hit["id"]) for hit in _json_list(message["content"]) if isinstance(hit, dict) and "id" in hit]
            found += filter(None, map(str.strip, message["content"].partition(SEE_ALSO)[2].split(",")))
    return list(dict.fromkeys(found))


def _json_list(text: str) -> list[Any]:
    try:
        return list(json.loads(text)) if text.startswith("[") else []
    except ValueError:
        return []


def _wider(messages: Sequence[Message], question: str, round_number: int) -> str:
    """The words of the last text read that the question does not have: where a reader would look next."""
    last = next((m["content"] for m in reversed(messages) if m["role"] == "tool"), "")
    new = [term for term in dict.fromkeys(terms(last)) if term not in terms(question)]
    return " ".join(new[round_number : round_number + 4])


def synthesis(question: str, texts: Sequence[str]) -> str:
    """The sentences of *texts* that fit *question* best, in their own order; empty if there are none."""
    wanted = set(terms(question))
    ranked = []
    for number, text in enumerate(texts):
        for place, sentence in enumerate(_SENTENCE.split(text.strip())):
            words = set(terms(sentence))
            if words:
                ranked.append((-len(words & wanted) / len(words) ** 0.5, number, place, sentence))
    best = sorted(sorted(ranked)[: 3 + len(texts)], key=lambda entry: entry[1:3])
    return " ".join(entry[3] for entry in best)


def count_tokens(text: str) -> int:
    """Tokens in *text*."""
    return sum(1 for _ in _TOKEN.finditer(text))


def cut(text: str, tokens: int) -> str:
    """*text* up to the end of its first *tokens* tokens."""
    end = 0
    for number, match in enumerate(_TOKEN.finditer(text), start=1):
        if number > tokens:
            return text[:end]
        end = match.end()
    return text


def prompt_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> int:
    """Input tokens of a chat: a few per message, its text, the tool calls in it, and the tools offered."""
    total = _PER_PROMPT
    for message in messages:
        total += _PER_MESSAGE + count_tokens(message["content"])
        if message.get("tool_calls"):
            total += count_tokens(json.dumps(message["tool_calls"]))
    return total + (count_tokens(json.dumps(list(tools))) if tools else 0)
