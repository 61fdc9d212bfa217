"""The int8 filter of the engine `exact`."""
