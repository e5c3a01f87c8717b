"""What a launch costs beside the trials themselves: ``python -m benchmarks.orchestration``."""
