"""Tasks: every batch a pure function of (seed, step). numpy only, no torch."""
