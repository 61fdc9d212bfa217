"""The model card: the README.md of a saved generator, with sources, licences, intended use and limits."""

from __future__ import annotations

from importlib.resources import files

from pose2id.ipg.weights.table import FILES


def model_card() -> str:
    """The README.md that `IPGPipeline.save_pretrained` writes: sources, licences, intended use, limits.

    Examples
    --------
    >>> from pose2id.ipg.weights import model_card
    >>> print(model_card().splitlines()[1])
    library_name: diffusers
    """
    sources = [
        f"| {file.name} | {file.what} | {file.repository}, revision {file.revision} | {file.licence} |"
        for file in FILES
        if file.numbers is not None
    ]
    card = files("pose2id").joinpath("data", "model_card.md").read_text(encoding="utf-8")
    return card.replace("SOURCES", "\n".join(sources))
