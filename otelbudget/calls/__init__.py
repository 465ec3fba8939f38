"""One model call, whoever sees it."""
