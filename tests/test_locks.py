"""The lock that Python 3.14 needs where a signal handler raises."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import pytest

from otelbudget.forking import SafeRLock


class Raised(Exception):
    pass


def _raise(*_: object) -> None:
    raise Raised


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
def test_whenever_a_signal_handler_raises_the_lock_is_free_afterwards() -> None:
    lock, raised, held = SafeRLock(), 0, 0
    until_s = time.monotonic() + 20
    before = signal.signal(signal.SIGALRM, _raise)
    try:
        while raised < 2000 and time.monotonic() < until_s:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00005)
                while True:
                    with lock:
                        pass
            except Raised:
                raised += 1
            held += lock._is_owned()
            with suppress(RuntimeError):
                lock.release()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised == 2000
    assert not held


def test_a_block_inside_another_one_keeps_it() -> None:
    lock = SafeRLock()
    with lock:
        with lock:
            pass
        assert lock._is_owned()
    assert not lock._is_owned()
