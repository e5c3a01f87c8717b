"""Tests of deltalab (track)."""
