"""The inputs and outputs of the released code, see golden/README.md."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
