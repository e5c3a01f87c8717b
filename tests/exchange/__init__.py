"""Tests of deltalab (exchange)."""
