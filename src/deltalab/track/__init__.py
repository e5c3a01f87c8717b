"""What happened: the append-only journal of each run directory, and its mirror in MLflow."""
