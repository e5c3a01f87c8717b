"""Tests of deltalab (train)."""
