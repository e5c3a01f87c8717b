"""Tests of deltalab (hf)."""
