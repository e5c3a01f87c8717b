"""Tests of deltalab (dispatch)."""
