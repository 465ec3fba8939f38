"""How far estimates of tokens are off, beside characters / 4, and what they take. Run by hand:

python tests/benchmarks/estimates.py
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_estimate_text import ALL, KINDS

from otelbudget.estimate.text import text_tokens

ROUNDS = 50


def main() -> None:
    """Print the error of each kind of text and the time of several lengths."""
    print(f"{'kind':22s}{'tokens':>8s}{'estimate':>10s}{'chars / 4':>11s}")
    for kind in sorted(KINDS, key=lambda kind: kind.error()):
        print(f"{kind.name:22s}{sum(kind.o200k):8d}{kind.error():+10.1%}{kind.error_of_quarters():+11.1%}")
    for name, errors in (
        ("estimate", [kind.error() for kind in KINDS]),
        ("chars / 4", [kind.error_of_quarters() for kind in KINDS]),
    ):
        print(f"mean error of {name}: {sum(map(abs, errors)) / len(errors):.1%}")
    for length in (100, 1_000, 8_000, 1_000_000):
        text = (ALL * (length // len(ALL) + 1))[:length]
        taken = min(timeit.repeat(lambda text=text: text_tokens(text), number=1, repeat=ROUNDS)) * 1e6
        print(f"{length:9,d} characters: {taken:7.1f} microseconds, {taken / length * 1_000:6.2f} per 1,000")


if __name__ == "__main__":
    main()
