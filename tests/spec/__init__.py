"""Tests of deltalab (spec)."""
