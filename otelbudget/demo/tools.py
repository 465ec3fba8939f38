"""What the research agent can do besides talking: search the library and read a document, each a counted tool call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otelbudget.demo.library import Document, Library
from otelbudget.demo.writer import SEE_ALSO

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

_HITS = 3
_RELATED = 2


def _tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    properties = {argument: {"type": "string", "description": meaning}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


#: As the ``tools`` of a chat completion.
TOOLS = (
    _tool("search", "Find documents. Gives their ids and titles, best first.", "query", "A few words."),
    _tool("read_document", "Read a document.", "id", "An id that search gave."),
)


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one answer, and the documents ``read`` with them so far, by id, in the order of reading."""

    run: BudgetRun
    library: Library
    read: dict[str, Document] = field(default_factory=dict)

    def call(self, name: str, arguments: str) -> str:
        """What the tool *name* answers to *arguments* (JSON as the model wrote it); a mistake is told to the model.

        Raises:
            BudgetExceeded: The run may make no further tool call.
        """
        given = _arguments(arguments)
        with self.run.tool_call(name):
            if name == "search":
                hits = self.library.search(str(given.get("query", "")), _HITS)
                return json.dumps([{"id": hit.id, "title": hit.title} for hit in hits])
            if name == "read_document":
                return self._read_document(str(given.get("id", "")))
            return f"There is no tool {name!r}."

    def _read_document(self, identity: str) -> str:
        document = self.library.documents.get(identity)
        if document is None:
            return f"There is no document {identity!r}. Search first."
        self.read[identity] = document
        related = self._related(document)
        return document.text + (f"\n{SEE_ALSO}{', '.join(related)}" if related else "")

    def _related(self, document: Document) -> list[str]:
        """Ids of related documents, found by a search inside the reading: a nested call, and left out if that is dear.

        Asking first is how an agent does without what it does not need; a refusal would end its work.
        """
        if not self.run.can_proceed(tool_calls=1, nested_tool_calls=1):
            return []
        with self.run.tool_call("search"):
            hits = self.library.search(document.title, _RELATED + 1)
        return [hit.id for hit in hits if hit.id != document.id][:_RELATED]


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
