"""From the records of a study to comparison tables: ``python -m analysis.compare STUDY``."""
