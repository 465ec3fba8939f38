"""``python -m otelbudget``, where the script ``otelbudget`` is not on the path."""

from __future__ import annotations

import sys

from otelbudget.cli import main

if __name__ == "__main__":
    sys.exit(main())
