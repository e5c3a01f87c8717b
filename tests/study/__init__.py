"""Tests of deltalab (study)."""
