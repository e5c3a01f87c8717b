"""Tests of deltalab (model)."""
