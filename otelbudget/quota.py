"""`QuotaService`: quotas of tenants for code that does its own calls, alone or on a manager's accounts.

It asks the way that every call is asked, through standing runs without limits of their own: so all its checks are
events and metrics, and organisations, users and models have their say where a manager configures them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack

from opentelemetry import trace

from otelbudget import ledger, semconv
from otelbudget.amounts import CEILING, COST, NANOS, NESTED, NOTHING, RESOURCES, TOKENS, UNLIMITED, Money, amounts_from
from otelbudget.amounts import Amounts as Amounts_
from otelbudget.config import Config
from otelbudget.engine import Engine
from otelbudget.errors import BudgetExceeded, ConfigError
from otelbudget.model import RunBudget, Usage
from otelbudget.quota_usage import QuotaLine, QuotaUsage, main_account, resets_at, usage_of
from otelbudget.quotas import Quota, Quotas
from otelbudget.runs import accounting, admission, denying, idempotency, reservation
from otelbudget.runs.admission import Ask
from otelbudget.runs.run import BudgetRun
from otelbudget.runs.wanted import wanted
from otelbudget.stores.memory import MemoryStore
from otelbudget.telemetry import events
