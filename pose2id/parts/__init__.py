"""Part features: several features an image, with a visibility each (BPBReID, KPR, PCB and their like).

Two images are compared by the parts that both show. All that whole features can do is done here part by part.

- `sets`: what parts and visibility may be; checked.
- `pairs`: the distance of two rows of parts, exact. `tiles`: proven bounds of many, by products.
- `search`: the nearest rows, never N x N.
- `centralization`, `fusion`: `centralize_parts`.
- `distances`: `part_distances`, `part_neighbors`.
- `aligned`: `aligned_distances`, of stripes. `matrices`: `combine_distances`, `rerank_distances`, of any distances.
- `scores`: `evaluate_parts`. `reranking`: `rerank_parts`. `density`: `part_density`.
- `maps`, `masks`, `boxes`: parts from feature maps, by stripes, masks, boxes of joints. `concatenation`: one row.
- `reconstruction`, `lasso`: `reconstruction_distances`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pose2id.parts.aligned import aligned_distances
    from pose2id.parts.boxes import part_boxes, pool_boxes
    from pose2id.parts.centralization import PartFeatures, centralize_parts
    from pose2id.parts.concatenation import concatenate_parts, fuse_tanh
    from pose2id.parts.density import part_density
    from pose2id.parts.distances import part_distances, part_neighbors
    from pose2id.parts.maps import bilinear_pool, location_pyramid, neighborhood_differences, pool_stripes
    from pose2id.parts.masks import mask_visibility, pool_masks
    from pose2id.parts.matrices import combine_distances, rerank_distances
    from pose2id.parts.reconstruction import reconstruction_distances
    from pose2id.parts.reranking import rerank_parts
    from pose2id.parts.scores import evaluate_parts

__all__ = [
    "PartFeatures",
    "aligned_distances",
    "bilinear_pool",
    "centralize_parts",
    "combine_distances",
    "concatenate_parts",
    "evaluate_parts",
    "fuse_tanh",
    "location_pyramid",
    "mask_visibility",
    "neighborhood_differences",
    "part_boxes",
    "part_density",
    "part_distances",
    "part_neighbors",
    "pool_boxes",
    "pool_masks",
    "pool_stripes",
    "reconstruction_distances",
    "rerank_distances",
    "rerank_parts",
]

_MODULE_OF = {
    "PartFeatures": "centralization",
    "aligned_distances": "aligned",
    "bilinear_pool": "maps",
    "centralize_parts": "centralization",
    "combine_distances": "matrices",
    "concatenate_parts": "concatenation",
    "evaluate_parts": "scores",
    "fuse_tanh": "concatenation",
    "location_pyramid": "maps",
    "mask_visibility": "masks",
    "neighborhood_differences": "maps",
    "part_boxes": "boxes",
    "part_density": "density",
    "part_distances": "distances",
    "part_neighbors": "distances",
    "pool_boxes": "boxes",
    "pool_masks": "masks",
    "pool_stripes": "maps",
    "rerank_distances": "matrices",
    "reconstruction_distances": "reconstruction",
    "rerank_parts": "reranking",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
