"""Adapters for foreign libraries, one file per library, imported by full path only; `sides` is what some share."""
