"""Values: amounts, windows, budgets, usage, quotas, decisions. No state, no clock."""
