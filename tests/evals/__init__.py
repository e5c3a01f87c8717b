"""Tests of deltalab.evals."""
