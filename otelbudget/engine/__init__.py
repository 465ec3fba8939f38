"""Who is spending, and what all runs of a manager share."""
