"""Trained models for use: loaded from a trial or a folder, asked to write on."""
