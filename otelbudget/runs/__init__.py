"""Runs: what one agent's piece of work may spend. `run` has the object users hold, the others are its parts."""
