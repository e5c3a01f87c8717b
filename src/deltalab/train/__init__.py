"""One trial, from a frozen spec to a record."""
