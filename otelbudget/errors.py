"""Every exception that otelbudget raises.

::

    BudgetError
    ├── BudgetExceeded     (RuntimeError)  a call was refused; carries what, where, how much, until when
    ├── ConfigError        (ValueError)    a budget, a budgets.yaml or a call of setup() is wrong
    ├── StoreError         (RuntimeError)  the place where accounts live can't answer
    ├── PricingError       (LookupError)   no price for a model, where one is required
    └── IdempotencyError   (ValueError)    one key or reservation used twice with different payloads

All of them pickle and copy, so they cross process pools and task queues unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple


class BudgetError(Exception):
    """Base of everything that otelbudget raises."""


class BudgetExceeded(BudgetError, RuntimeError):
    """A model or tool call was refused because somebody in its scope can't pay for it.

    Money is a Decimal in USD, time a float in seconds, everything else an int.

    Attributes:
        reason: ``limit``, ``busy``, ``deadline``, ``frozen``, ``closed``, ``unpriced``, ``no_tenant``
            or ``store_unavailable``.
        resource: What ran out: ``steps``, ``tokens``, ``cost_usd``, ... or None where no resource decided.
        budget: Name of the budget that refused; None for a budget without a name.
        scope: Kind of account that refused: ``run``, ``tenant``, ``user``, ``org`` or ``model``.
        used: Already charged to that account.
        reserved: Held there by calls in flight.
        limit: Its limit.
        requested: What this call asked for.
        retry_after_s: Seconds after which a retry can succeed; None if waiting does not help.
        resets_at: When the window of that account ends; None for a run.
        receipt: What the run had spent when it was refused, as ``BudgetRun.receipt()`` gives it.
    """

    reason: str = "limit"
    resource: str | None = None
    budget: str | None = None
    scope: str | None = None
    used: int | float | Decimal | None = None
    reserved: int | float | Decimal | None = None
    limit: int | float | Decimal | None = None
    requested: int | float | Decimal | None = None
    retry_after_s: float | None = None
    resets_at: datetime | None = None
    receipt: Any = None

    def __init__(self, message: str = "budget exceeded", **said: Any) -> None:
        super().__init__(message)
        if unknown := said.keys() - BudgetExceeded.__annotations__.keys():
            raise TypeError(f"a BudgetExceeded has no {', '.join(sorted(unknown))}")
        vars(self).update(said)


# Users import it from `otelbudget`; span attributes (`error.type`) and tracebacks should say so.
BudgetExceeded.__module__ = "otelbudget"


class Problem(NamedTuple):
    """One thing that is wrong with a configuration file; as text, ``file:line:column: path: message``.

    Attributes:
        file: The file, as it was named.
        line, column: Where, from 1; None if the file can't be read at all.
        path: The setting, as ``budgets.quick.max_steps``; empty if it is the file as a whole.
        message: What is wrong and what to do.
    """

    file: str
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(BudgetError, ValueError):
    """A budget, a configuration file or an argument of ``setup()`` is wrong; the message says where and what to do.

    Attributes:
        problems: All that is wrong with a file, in its order; empty for what is wrong in code.
    """

    def __init__(self, *args: object, problems: Iterable[Problem] = ()) -> None:
        super().__init__(*args)
        self.problems = tuple(problems)


class StoreError(BudgetError, RuntimeError):
    """The store that keeps shared accounts can't answer; the driver's error is the cause."""


class PricingError(BudgetError, LookupError):
    """No price is known for a model and the caller asked for one."""


class IdempotencyError(BudgetError, ValueError):
    """One idempotency key, or one reservation, was used twice with different amounts."""


def is_budget_exceeded(error: BaseException | None) -> bool:
    """Whether *error* is a BudgetExceeded or was caused by one.

    Looks through ``__cause__``, ``__context__`` and exception groups, since frameworks wrap what a call raises.
    """
    return found_in(error) is not None


def found_in(error: BaseException | None) -> BudgetExceeded | None:
    """The denial nearest to *error* among the exceptions that it is or was caused by, or None."""
    found: list[BaseException] = [] if error is None else [error]
    seen = {id(error)}  # since an exception need not be hashable
    for one in found:
        if isinstance(one, BudgetExceeded):
            return one
        nested = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        for other in (one.__cause__, one.__context__, *nested):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                found.append(other)
    return None
