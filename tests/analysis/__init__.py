"""Tests of the comparison tables, on run folders written through the ledger and the journal."""
