"""Tests of deltalab."""
