"""What importing otelbudget costs, against `opentelemetry.trace` alone, both net of the interpreter. Run by hand:

python tests/benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 25
PROGRAMS = {
    "interpreter": "pass",
    "opentelemetry.trace": "import opentelemetry.trace",
    "import otelbudget (<= 1.15x)": "import otelbudget",
    "RunBudget and run touched (<= 1.5x)": "import otelbudget; otelbudget.RunBudget; otelbudget.run",
}


def seconds(program: str) -> float:
    """Wall time of a fresh interpreter that runs *program*."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the medians of alternating rounds."""
    rounds = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in PROGRAMS}
    bare = medians["interpreter"]
    floor = medians["opentelemetry.trace"] - bare
    for name in list(PROGRAMS)[1:]:
        net = medians[name] - bare
        print(f"{name:38s} {net * 1e3:6.1f} ms  {net / floor:.2f}x")


if __name__ == "__main__":
    main()
