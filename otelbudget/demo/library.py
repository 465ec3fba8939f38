"""The demo's documents and how to find them: BM25 over a few dozen short texts, in the standard library."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009): usual values.
_K1, _B = 1.2, 0.75
_WORD = re.compile(r"[a-z0-9]+")
_STOP_WORDS = """
    a about all an and any are as at be before but by can do does every for from has have how if in into is it its
    many more most much not of on one or other our should so some such than that the their them then there these
    they this to us was we what when where which who why will with without would you your tell explain me please
    give describe best good keep kept happen happens way ways isn doesn don ain t
"""
_STOP = frozenset(_STOP_WORDS.split())


def terms(text: str) -> list[str]:
    """The words of *text* that carry meaning, plural folded into singular."""
    found = []
    for word in _WORD.findall(text.lower()):
        if word not in _STOP:
            plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
            found.append(word[:-1] if plural else word)
    return found


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the library."""

    id: str
    title: str
    text: str


class Library:
    """Documents with a ranked search.

    Example:
        >>> Library.packaged().search("token bucket")[0].id
        'token-bucket'
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = {document.id: document for document in documents}
        # The title says what a text is about, so its words count three times.
        self._words = {d.id: Counter(terms(d.title) * 3 + terms(d.text)) for d in self.documents.values()}
        self._average = sum(map(Counter.total, self._words.values())) / max(1, len(self._words))
        self._found_in = Counter(term for words in self._words.values() for term in words)

    @staticmethod
    @cache
    def packaged() -> Library:
        """The library that ships with otelbudget: of each file the first line is ``# title``, the rest its text."""
        documents = []
        for path in sorted(Path(__file__).with_name("documents").glob("*.md")):
            title, _, text = path.read_text("utf-8").partition("\n")
            documents.append(Document(path.stem, title.lstrip("# ").strip(), " ".join(text.split())))
        return Library(documents)

    def search(self, query: str, limit: int = 5) -> list[Document]:
        """The documents that fit *query* best, best first; none if no word of it occurs."""
        wanted = set(terms(query))
        scores = {name: self._score(wanted, words) for name, words in self._words.items()}
        ranked = sorted((name for name in scores if scores[name] > 0), key=lambda name: (-scores[name], name))
        return [self.documents[name] for name in ranked[:limit]]

    def _score(self, wanted: set[str], words: Counter[str]) -> float:
        length = _K1 * (1 - _B + _B * words.total() / self._average)
        score = 0.0
        for term in wanted & set(words):
            found, count = self._found_in[term], words[term]
            weight = math.log(1 + (len(self._words) - found + 0.5) / (found + 0.5))
            score += weight * count * (_K1 + 1) / (count + length)
        return score
