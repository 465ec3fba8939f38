"""The documents are what the demo's answers are made of: enough of them, short, and found by what they are about."""

from __future__ import annotations

import pytest

from otelbudget.demo import Library
from otelbudget.demo.writer import NOTES, SEE_ALSO, synthesis, write

DOCUMENTS = sorted(Library.packaged().documents.values(), key=lambda document: document.id)


def test_there_are_about_thirty_documents() -> None:
    assert len(DOCUMENTS) >= 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.id)
def test_a_document_is_short_prose_under_a_title_that_finds_it(document) -> None:
    assert document.title
    assert 150 <= len(document.text.split()) <= 300
    assert "#" not in document.text
    assert Library.packaged().search(document.title, limit=1) == [document]


def test_a_search_for_nothing_finds_nothing() -> None:
    assert Library.packaged().search("the of and") == []
    assert Library.packaged().search("zzzz") == []


def test_a_synthesis_quotes_what_fits_and_is_empty_without_texts() -> None:
    texts = ["Fish swim. A bucket holds tokens. Birds fly. Trees grow. Stones lie. Rivers flow."]
    assert "A bucket holds tokens." in synthesis("What does a bucket hold?", texts)
    assert synthesis("What does a bucket hold?", []) == ""


def test_the_model_follows_references_and_reads_notes() -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": [{"name": "read_document", "arguments": '{"id": "a"}'}]}
    read = {"role": "tool", "content": f"A text.\n{SEE_ALSO}b, c"}
    question = {"role": "user", "content": "What is a bucket?"}
    assert [call[1] for call in write([question, asked, read], research=True).tool_calls] == [{"id": "b"}, {"id": "c"}]
    notes = {"role": "user", "content": f"{NOTES}A bucket is round."}
    assert write([question, notes]).text == "A bucket is round."
    assert write([question, asked, read]).text == "A text."
