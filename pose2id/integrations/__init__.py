"""Adapters for foreign libraries, one file per library, imported by full path only."""
