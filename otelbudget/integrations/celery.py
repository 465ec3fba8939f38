"""For Celery: `deny_retries()` has no denial retried, and with `BudgetTask` each execution of a task is a run.

`setup()` calls the former where tasks are imported.

@app.task(base=BudgetTask, budget="nightly", autoretry_for=(Exception,))
def summarize(tenant, document): ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from otelbudget.errors import found_in
from otelbudget.integrations.entries import Entries
from otelbudget.runs.api import run

try:
    from celery import Task
except ImportError as missing:
    raise ImportError("this is for Celery: pip install 'otelbudget[celery]'") from missing

if TYPE_CHECKING:
    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.scope import RunOptions


class BudgetTask(Task):
    """Opens a run for each execution.

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


def deny_retries() -> Callable[[], None]:
    """From now on, let each task of this process that a denial ends fail with that, however it is to be retried.

    Gives what ends that.
    """
    return Entries((Task, "retry", _retry))


def _retry(original: Callable[..., Any], task: Any, *args: Any, **options: Any) -> Any:
    denial = found_in(options.get("exc")) or found_in(sys.exc_info()[1])
    if denial is not None:  # it would be refused again
        raise denial
    return original(task, *args, **options)
