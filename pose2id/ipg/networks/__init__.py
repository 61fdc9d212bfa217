"""The networks of the generator."""
