"""Attribute-person recognition: what somebody wears beside who it is (APR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_sizes
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.trunk import Trunk
from pose2id.validation import check_number


class APR(Encoder):
    """Attribute classifiers on the whole feature, re-weighted by each other for the identity classifier.

    What differs from the paper: a batch normalisation in front of the classifiers of attributes and of identities; all
    class probabilities go through the re-weighting module, since the paper does not say which scores do.

    Parameters
    ----------
    classes, trunk
        As for `Encoder`.
    attributes : sequence of int
        Number of classes of each attribute, such as ``MARKET1501.counts``.
    weight : float
        Of the identity loss beside the mean of the attribute losses (lambda).

    References
    ----------
    Lin et al., "Improving Person Re-identification by Attribute and Identity Learning", Pattern Recognition 95, 2019.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import APR, Trunk
    >>> found = APR(10, Trunk(), attributes=[2, 4]).eval()(torch.zeros(3, 3, 64, 32))
    >>> tuple(found.features.shape), tuple(found.attributes.shape)
    ((3, 128), (3, 6))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attributes"})

    def __init__(self, classes: int, trunk: Trunk, *, attributes: Sequence[int], weight: float = 8.0) -> None:
        super().__init__(classes, trunk)
        self.counts, self.weight = check_sizes(attributes, "attributes"), check_number(weight, "weight")
        total = sum(self.counts)
        self.norm = nn.BatchNorm1d(trunk.channels)
        self.recognise = nn.ModuleList(nn.Linear(trunk.channels, count) for count in self.counts)
        self.reweight = nn.Linear(total, total)  # V and b of the re-weighting module
        self.classify = Classifier(trunk.channels + total, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """The means (N, C) as features, and class probabilities (N, sum of classes) as attributes."""
        maps = self.trunk(images)
        pooled = maps.mean((2, 3))
        return Encoded(features=pooled, maps=maps, attributes=self.probabilities(self.recognise_all(pooled)))

    def recognise_all(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        """Scores (N, classes) of each attribute."""
        normed = self.norm(pooled)
        return [layer(normed) for layer in self.recognise]

    def probabilities(self, scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """Those of all classes of all attributes in a row, (N, sum of classes)."""
        return torch.cat([each.softmax(1) for each in scores], dim=1)

    def reweighted(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The re-weighting module: sigmoid(V a + b) * a, as `pose2id.attributes.reweight_attributes`."""
        return torch.sigmoid(self.reweight(probabilities)) * probabilities

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms `identity`, of the feature with the re-weighted attributes, and `attributes`, their mean."""
        if batch.attributes is None:
            raise ValueError("APR learns from attributes, and the batch has none; give some, or train another system")
        pooled = self.trunk(batch.images).mean((2, 3))
        scores = self.recognise_all(pooled)
        joint = torch.cat([pooled, self.reweighted(self.probabilities(scores))], dim=1)
        known = [
            functional.cross_entropy(each[some], labels[some]) if bool((some := labels >= 0).any()) else each.sum() * 0
            for each, labels in zip(scores, batch.attributes.unbind(1), strict=True)
        ]
        return {
            "identity": self.weight * identity_loss(self.classify(joint), batch.ids),
            "attributes": torch.stack(known).mean(),
        }
