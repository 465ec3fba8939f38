"""Embeddings of the scripted server: words hashed into a unit vector, so texts that share words are near each other."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

from otelbudget.demo.library import terms
from otelbudget.demo.server import Request
from otelbudget.demo.writer import count_tokens
from provider.script import Reply


def embeddings(request: Request, reply: Reply) -> dict[str, Any]:
    """The body that answers ``POST /v1/embeddings``; texts only, not token ids."""
    given = request.body.get("input") or ""
    texts = [given] if isinstance(given, str) else [str(text) for text in given]
    dimensions = int(request.body.get("dimensions") or 64)
    vectors: list[Any] = [_vector(text, dimensions) for text in texts]
    if request.body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    tokens = sum(map(count_tokens, texts)) if reply.input_tokens is None else reply.input_tokens
    usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if reply.send_usage else {}
    named = {"id": f"embd-demo-{request.number:06d}"} if request.path.startswith("/mistral") else {}
    return {"object": "list", "model": request.body.get("model", "demo-embed"), "data": data} | usage | named


def _vector(text: str, dimensions: int) -> list[float]:
    """A unit vector for *text*; the null vector if it has no word."""
    values = [0.0] * dimensions
    for term in terms(text):
        hashed = zlib.crc32(term.encode())
        values[hashed % dimensions] += 1.0 if hashed & 0x10000 else -1.0
    length = math.hypot(*values) or 1.0
    return [value / length for value in values]
