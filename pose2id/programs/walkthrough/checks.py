"""Whether generated pictures show the right person in the right pose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.distances import unit
from pose2id.poses import Pose, pose_direction
from pose2id.programs.walkthrough.material import Encoder, Images
from pose2id.synthetic import SyntheticSet, make_camera, make_person, render

__all__ = ["compare_with_poses", "count_right_people"]


def count_right_people(encoder: Encoder, people: SyntheticSet, drawn: Images, gallery: SyntheticSet) -> float:
    """Share of the generated pictures whose nearest real identity is that of their reference.

    The nearest identity is that of the nearest mean feature of the gallery's pictures; the reference's own picture must
    not be in it.
    """
    names = np.unique(gallery.ids)
    features = unit(torch.from_numpy(encoder(gallery.images)).double())
    centres = unit(torch.stack([features[torch.from_numpy(gallery.ids == name)].mean(0) for name in names])).numpy()
    nearest = names[(encoder(drawn) @ centres.T).argmax(-1)]  # (N, M); the length of a feature changes nothing
    return float((nearest == people.ids[:, None]).mean())


def compare_with_poses(people: SyntheticSet, drawn: Images, poses: Sequence[Pose], *, world: int = 0) -> float:
    """Share of the generated pictures that are most like the true person in the pose that was asked for.

    Each is compared with the person as the program draws it in each of the poses: by the correlation of colours inside
    of the person's outline, each channel's mean taken away, and by how much the means inside and outside differ. By
    chance it would be one in the number of poses.
    """
    height, width = people.images.shape[1:3]
    yaws = [pose_direction(pose, aspect=width / height) for pose in poses]
    right = []
    for row, who in enumerate(people.ids):
        person = make_person(world, int(who))
        true = [
            render(
                person, pose, yaw, make_camera(0, 0), np.random.default_rng(0), height=height, width=width, clean=True
            )
            for pose, yaw in zip(poses, yaws, strict=True)
        ]
        for asked in range(len(poses)):
            fits = [_fit(drawn[row, asked], picture.image, picture.mask) for picture in true]
            right.append(int(np.argmax(fits)) == asked)
    return float(np.mean(right))


def _fit(image: Images, true: Images, mask: NDArray[np.bool_]) -> float:
    """Correlation of two pictures inside a mask, plus the contrast of the first across the mask's border."""
    inside, outside = image[mask].astype(np.float64), image[~mask].astype(np.float64)
    wanted = true[mask].astype(np.float64)
    own, other = inside - inside.mean(0), wanted - wanted.mean(0)
    correlation = (own * other).sum() / max(1e-9, np.sqrt((own**2).sum() * (other**2).sum()))
    spread = np.concatenate([inside, outside]).std(0) + 1e-9
    contrast = np.abs((inside.mean(0) - outside.mean(0)) / spread).mean()
    return float(correlation + contrast)
