"""Pausing a run: `exporting` gives its state as a value, `resuming` goes on from one; `forms` and `parts` read it."""
