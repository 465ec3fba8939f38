"""The values behind a configuration, however it was made; frozen, comparable, and cheap to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from otelbudget.config.parts import Estimates, Inbound, TelemetryConfig, TenantFrom, flag, one_of
from otelbudget.config.problems import did_you_mean
from otelbudget.config.store import StoreConfig, check_shards
from otelbudget.errors import ConfigError
from otelbudget.model.budget import OnUnpriced, RunBudget
from otelbudget.model.names import is_pattern
from otelbudget.model.quota import Quotas
from otelbudget.model.values import Value
from otelbudget.pricing import Price, Prices

#: Name of a default budget that was given as a value, in denials and metrics.
DEFAULT_NAME: Final = "default"


@dataclass(frozen=True, init=False, repr=False)
class Config(Value, Mapping[str, RunBudget]):
    """Budgets by name, and everything else a manager is set up with. A mapping of the budgets' names to `RunBudget`.

    Two configurations are equal if they say the same, wherever they were read from.

    Example:
        >>> config = Config({"quick": RunBudget(max_steps=5)}, default_budget="quick")
        >>> config["quick"].max_steps, config.default_budget.name
        (5, 'quick')

    Args:
        budgets: Name -> budget; a budget without a name of its own gets that name.
        default_budget, agents: What a run is held to that asks for nothing, and those of agents by their name: a
            budget, or a name from *budgets*.
        prices: Model name or pattern -> `Price`, or `Prices`, which takes a price book too.
        on_unpriced: What a call of a model without a price does where its budget does not say: ``"deny"``,
            ``"estimate"`` or ``"allow"``; None denies under a cost limit and allows elsewhere.
        quotas: What organisations, tenants, users, models and others may use per window.
        tenants: Tenant -> the organisation it belongs to; all others belong to ``default``.
        require_tenant: Refuse calls of runs that name no tenant, instead of charging them to ``default``.
        tenant_from: How root runs that name no tenant learn theirs; None does not look.
        inbound: What requests that come in are believed; nothing if it is not said.
        trust_reported_cost: Believe the cost that a response reports, for models without a price in *prices*.
        store: Where accounts are kept: a `StoreConfig`, or its address alone; None is the memory of this process.
        source, lines: Where this was read from, and path of a setting -> its line there, for messages.

    Raises:
        ConfigError: A name is empty or means no budget, or a value is of the wrong kind.
    """

    budgets: Mapping[str, RunBudget]
    default_budget: RunBudget | None
    agents: Mapping[str, RunBudget]
    prices: Prices
    estimates: Estimates
    telemetry: TelemetryConfig
    on_unpriced: OnUnpriced | None
    quotas: Quotas
    tenants: Mapping[str, str]
    require_tenant: bool
    tenant_from: TenantFrom | None
    inbound: Inbound
    trust_reported_cost: bool
    store: StoreConfig
    source: str | None = field(compare=False)
    lines: Mapping[tuple[str, ...], int] = field(compare=False)

    __hash__ = None  # type: ignore[assignment]  # mypy #4266; equal by value, like a mapping

    def __init__(
        self,
        budgets: Mapping[str, RunBudget] | None = None,
        *,
        default_budget: RunBudget | str | None = None,
        agents: Mapping[str, RunBudget | str] | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
        estimates: Estimates | None = None,
        telemetry: TelemetryConfig | None = None,
        on_unpriced: OnUnpriced | None = None,
        quotas: Quotas | None = None,
        tenants: Mapping[str, str] | None = None,
        require_tenant: bool = False,
        tenant_from: TenantFrom | None = None,
        inbound: Inbound | None = None,
        trust_reported_cost: bool = False,
        store: StoreConfig | str | None = None,
        source: str | None = None,
        lines: Mapping[tuple[str, ...], int] | None = None,
    ) -> None:
        if on_unpriced is not None:
            one_of("on_unpriced", on_unpriced, "deny", "estimate", "allow")
        if not isinstance(tenant_from, TenantFrom | None):
            raise ConfigError(f"tenant_from must be a TenantFrom, got {tenant_from!r} ({type(tenant_from).__name__})")
        store = StoreConfig("memory" if store is None else store) if not isinstance(store, StoreConfig) else store
        self._set(source=source, budgets=_frozen(budgets, _named))
        self._set(
            default_budget=None if default_budget is None else self._budget(DEFAULT_NAME, default_budget),
            agents=_frozen(agents, self._budget),
            prices=prices if isinstance(prices, Prices) else Prices(prices),
            estimates=estimates or Estimates(),
            telemetry=telemetry or TelemetryConfig(),
            on_unpriced=on_unpriced,
            quotas=quotas or Quotas(),
            tenants=_frozen(tenants, lambda _, org: _name(org)),
            require_tenant=flag("require_tenant", require_tenant),
            tenant_from=tenant_from,
            inbound=inbound or Inbound(),
            trust_reported_cost=flag("trust_reported_cost", trust_reported_cost),
            store=store,
            lines=MappingProxyType(dict(lines or {})),
        )
        self._check_estimates()
        check_shards(store, self.quotas)

    def _check_estimates(self) -> None:
        """ConfigError where an unknown price is to be estimated by the dearest given, and none is given."""
        if self.prices.table():
            return
        budgets = filter(None, [*self.budgets.values(), *self.agents.values(), self.default_budget])
        said = ["on_unpriced"] if self.on_unpriced == "estimate" else []
        said += [f"on_unpriced of budget {one.name!r}" for one in budgets if one.on_unpriced == "estimate"]
        if said:
            raise ConfigError(
                f"{said[0]} is 'estimate', which takes the dearest of the given prices, and there are none:"
                f" give prices={{'*': Price(...)}}, or make it 'deny' or 'allow'"
            )

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def named_tenants(self) -> tuple[str, ...]:
        """The tenants that are named anywhere, patterns left out."""
        return tuple(name for name in dict.fromkeys((*self.tenants, *self.quotas.tenants)) if not is_pattern(name))

    def budget(self, name: str) -> RunBudget:
        """The budget called *name*.

        Raises:
            ConfigError: There is none; the message says which there are.
        """
        if name in self.budgets:
            return self.budgets[name]
        where = f" in {self.source}" if self.source else ""
        hint = did_you_mean(name, self.budgets)
        if not self.budgets:
            hint = "; there are none: call otelbudget.setup('budgets.yaml') first, or pass a RunBudget"
        raise ConfigError(f"no budget is named {name!r}{where}{hint}")

    def origin(self, *path: str) -> str | None:
        """Where a setting (``"quotas", "tenants", "acme", "0"``) was written, ``file:line``; None if not in a file."""
        line = self.lines.get(path)
        return None if line is None else f"{self.source}:{line}"

    def _budget(self, own_name: str, wanted: RunBudget | str) -> RunBudget:
        return self.budget(wanted) if isinstance(wanted, str) else _named(own_name, wanted)

    def __repr__(self) -> str:
        default = self.default_budget.name if self.default_budget else None
        return f"Config({list(self.budgets)}, default_budget={default!r}, source={self.source!r})"

    def __getitem__(self, name: str) -> RunBudget:
        return self.budgets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.budgets)

    def __len__(self) -> int:
        return len(self.budgets)


def _frozen(given: Mapping[str, Any] | None, read: Callable[[str, Any], Any]) -> Mapping[str, Any]:
    return MappingProxyType({_name(name): read(name, value) for name, value in (given or {}).items()})


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a name must be a text that is not empty, got {name!r}")
    return name


def _named(name: str, budget: object) -> RunBudget:
    if not isinstance(budget, RunBudget):
        raise ConfigError(f"budget {name!r} must be a RunBudget, got {budget!r} ({type(budget).__name__})")
    return replace(budget, name=name) if budget.name is None else budget
