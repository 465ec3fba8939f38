"""`BudgetTask` for Celery: each execution of a task is a run, and a denial isn't retried.

@app.task(base=BudgetTask, budget="nightly", autoretry_for=(Exception,))
def summarize(tenant, document): ...
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from otelbudget.errors import found_in
from otelbudget.runs.api import run

try:
    from celery import Task
except ImportError as missing:
    raise ImportError("this is for Celery: pip install 'otelbudget[celery]'") from missing

if TYPE_CHECKING:
    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.scope import RunOptions


class BudgetTask(Task):
    """Opens a run for each execution; a task that a denial ends fails with BudgetExceeded, however it is retried.

    Attributes:
        budget: That of each execution, as `otelbudget.run` takes it.
    """

    abstract = True
    budget: ClassVar[str | RunBudget | None] = None

    def run_options(self, args: Any, kwargs: Any) -> RunOptions:  # noqa: ARG002 - for overriding
        """Whose run it is, from the arguments of the task: ``{"tenant": args[0]}``."""
        return {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Execute the task."""
        with run(self.budget, **self.run_options(args, kwargs)):
            return super().__call__(*args, **kwargs)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Have it executed again, unless a denial is why: that would be refused again."""
        denial = found_in(options.get("exc") or sys.exc_info()[1])
        if denial is not None:
            raise denial
        return super().retry(*args, **options)
