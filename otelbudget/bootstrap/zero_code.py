"""What ``opentelemetry-instrument`` switches on, where ``OTELBUDGET_CONFIG`` names a budgets.yaml.

It is an entry point of the group ``opentelemetry_instrumentor``, after the tracer provider has been set up.
"""

from __future__ import annotations

import os

from otelbudget.bootstrap.arguments import CONFIG_VARIABLE
from otelbudget.bootstrap.exporters import variable
from otelbudget.bootstrap.lifecycle import setup, shutdown


class BudgetInstrumentor:
    """Calls `otelbudget.setup()`; has the methods of an instrumentor, whose package need not be installed."""

    def instrument(self, **_: object) -> None:
        """Enforce the budgets of the file; does nothing where none is named.

        Raises:
            SystemExit: They can't be enforced. Any other exception would be logged, and the program go on without.
        """
        named = variable(CONFIG_VARIABLE)
        if not named:
            return
        os.environ[CONFIG_VARIABLE] = os.path.abspath(named)  # for child processes, which may work elsewhere
        try:
            setup(instrument=False)  # the SDKs' instrumentors are switched on beside us
        except Exception as error:  # noqa: BLE001 - a package of a store that is missing, too
            raise SystemExit(f"otelbudget: {error}") from None

    def uninstrument(self, **_: object) -> None:
        """Switch it off again."""
        shutdown()
