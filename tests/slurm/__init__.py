"""Tests of deltalab (a real Slurm cluster)."""
