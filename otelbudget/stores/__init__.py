"""Where accounts live. One store now: `memory`, exact for all threads and tasks of one process."""
