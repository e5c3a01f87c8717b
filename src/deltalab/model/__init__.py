"""The language model around the mixers, and what it costs."""
