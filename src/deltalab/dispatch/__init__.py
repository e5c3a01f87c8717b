"""Trials onto machines: the worker's job, the local pool, launching a study."""
