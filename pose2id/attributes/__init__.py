"""Attributes of people, such as hair, bags and the colours of clothes, beside the features that identify them.

The ideas are those of APR (Lin et al., *Improving Person Re-identification by Attribute and Identity Learning*, Pattern
Recognition 2019), and the vocabularies are its annotations of Market-1501 and DukeMTMC-reID.

- `vocabulary`: which attributes there are, and their classes. `annotations`: who has which; files of annotations.
- `accuracy`: how many predictions are right, as the published script counts or plainly.
- `reweighting`: `reweight_attributes`. `filtering`: `attribute_filter`, what a search need not look at.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pose2id.attributes.annotations import AttributeLabels, read_attributes
from pose2id.attributes.vocabulary import DUKEMTMC, MARKET1501, SYNTHETIC, VOCABULARIES, Attribute, Vocabulary

if TYPE_CHECKING:
    from pose2id.attributes.accuracy import AttributeAccuracy, attribute_accuracy, from_official_order
    from pose2id.attributes.filtering import attribute_filter
    from pose2id.attributes.reweighting import reweight_attributes

__all__ = [
    "DUKEMTMC",
    "MARKET1501",
    "SYNTHETIC",
    "VOCABULARIES",
    "Attribute",
    "AttributeAccuracy",
    "AttributeLabels",
    "Vocabulary",
    "attribute_accuracy",
    "attribute_filter",
    "from_official_order",
    "read_attributes",
    "reweight_attributes",
]

_MODULE_OF = {
    "AttributeAccuracy": "accuracy",
    "attribute_accuracy": "accuracy",
    "attribute_filter": "filtering",
    "from_official_order": "accuracy",
    "reweight_attributes": "reweighting",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
