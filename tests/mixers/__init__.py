"""Tests of deltalab (mixers)."""
