"""Tests of the kernels: every form against the tokenwise definition, gradients included."""
