"""Token mixers, (B, T, D) → (B, T, D)."""
