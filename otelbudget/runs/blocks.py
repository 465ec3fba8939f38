"""What is told to who forgot to enter a block: nothing was checked and nothing charged."""

from __future__ import annotations

import warnings


class Block:
    """Something that works only as a block, or awaited; dropped without that, it warns where it is dropped."""

    __slots__ = ("used",)
    #: How to write it.
    advice = ""

    def __init__(self) -> None:
        self.used = False

    def __del__(self) -> None:
        # Not there if its own constructor has refused.
        if not getattr(self, "used", True):
            warnings.warn(f"nothing was done: {self.advice}", RuntimeWarning, stacklevel=2)
