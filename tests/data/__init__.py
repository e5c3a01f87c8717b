"""Tests of deltalab.data."""
