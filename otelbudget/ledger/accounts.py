"""The accounts of quotas, one per owner and window. Which window is that of now follows from the clock, at every look.

Those of visitors who used nothing go with whoever refers to them, and those of windows that ended a day ago.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from otelbudget.ledger.account import Key, QuotaAccount
from otelbudget.ledger.change import write
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rolling import gone_s, total, turns_at_s
from otelbudget.ledger.rules import marked
from otelbudget.model.levels import Where
from otelbudget.model.windows import Window, WindowSpec, window_at

#: How long an ended window is kept, in seconds, and how many windows at most: for clocks that are set back.
KEPT_S: Final = 86_400
_KEPT_WINDOWS: Final = 128
#: How many accounts there are when those of the past are looked for first.
_MANY: Final = 1024


class Accounts:
    """All accounts of quotas.

    Args:
        ledger: Whose lock guards them.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[Key, QuotaAccount] = {}  # those that were charged
        # All that somebody refers to: two accounts of one owner and window would be twice the money.
        self._known: WeakValueDictionary[Key, QuotaAccount] = WeakValueDictionary()
        self._windows: dict[WindowSpec, Window] = {}
        self._look_at = _MANY

    def __iter__(self) -> Iterator[QuotaAccount]:
        return iter([found for one in self._known.valuerefs() if (found := one()) is not None])

    def window(self, spec: WindowSpec, now_s: float) -> Window:
        """The window of *spec* that *now_s* lies in."""
        found = self._windows.get(spec)
        if found is None or not found.start_s <= now_s < found.end_s:
            found = self._windows[spec] = window_at(spec, now_s)
        return found

    def current(self, where: Where, spec: WindowSpec, now_s: float) -> QuotaAccount:
        """The account of *where* in the window of now; made when it is first asked for."""
        return self.at(where, spec, self.window(spec, now_s), now_s)

    def at(self, where: Where, spec: WindowSpec, window: Window, now_s: float) -> QuotaAccount:
        """The account of *where* in *window*, as it is now."""
        key = (where, spec, window.start_s)
        found = self._kept.get(key) or self._known.get(key)
        if found is None:
            found = self._ledger.locked(lambda: self._made(key, window, now_s))
        if found.buckets:
            self._turn(found, now_s)
        return found

    def _made(self, key: Key, window: Window, now_s: float) -> QuotaAccount:
        if len(self._kept) >= self._look_at:
            self._forget_past(now_s)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = QuotaAccount(key[0], key[1], window, self._kept)
        return found

    def _turn(self, account: QuotaAccount, now_s: float) -> None:
        """Let what has fallen out of a rolling window count no longer."""
        if total(account, now_s) == account.used or self._ledger.inside:
            return
        with self._ledger.lock:
            used = total(account, now_s)
            taken = account.taken - account.used + used
            write([(account, "used", used), (account, "taken", taken), (account, "mark", marked(account.rules, used))])
        self._ledger.after(room=True)

    def good_until(self, account: QuotaAccount, now_s: float) -> tuple[float, float]:
        """From when to when *account* is that of now, and nothing falls out of it."""
        if account.buckets is not None:
            return turns_at_s(account, now_s)
        return account.start_s, account.end_s

    def _forget_past(self, now_s: float) -> None:
        for key in list(self._kept):
            account = self._kept[key]
            if not account.holds and _past(account, now_s):
                account.dropped = True
                del self._kept[key]
        self._look_at = max(_MANY, 2 * len(self._kept))


def _past(account: QuotaAccount, now_s: float) -> bool:
    """Whether no clock will be set back to where it counted."""
    if account.buckets is None:
        length_s, end_s = account.end_s - account.start_s, account.end_s
    else:
        length_s, end_s = account.rolling_s, gone_s(account)
    return end_s <= now_s - min(KEPT_S, _KEPT_WINDOWS * length_s)
