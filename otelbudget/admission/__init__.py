"""Whether a request may go on, what it is charged, and how a run ends."""
