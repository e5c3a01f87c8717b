"""From a question to trials: designs, budgets, plan and ledger. No torch at import."""
