"""Part features of synthetic people, whose masks and joints the drawing program knows: ways of pooling, and NFC.

Maps are those of a `SmallEncoder`, twice as fine by leaving out its last stride, in the space of its features: of the
package's own ("strong"), or of one that is trained here for 200 steps, with another start and on other people for each
seed ("weak"). They are pooled by stripes, in boxes around joints, and under masks. The mean map of training people is
taken away before: what is typical of a location outweighs people by far, and would tell where a mask lies. Each part is
then standardized as on training people, and of length 1.

In the set "free" nobody is hidden; in "occluded" something stands before every query and before half of the gallery.
All settings are scored by the parts that both pictures show. Generated pictures, eta = 1 and with `fill`, come from an
oracle: the world itself draws the person in the eight poses, the same for all pictures of a person, which no generator
could know. Or they come from the tiny generator, which sees one picture and draws two poses. Its joints are those of
the pose it was asked for, its masks those of another person in that pose.

By default one set of people, by the strong encoder. `--full`: three sets, both encoders, and the tiny generator; seven
minutes of one core.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("diffusers")

from pose2id import centralize
from pose2id.ipg import IPGPipeline
from pose2id.ipg.training.encoder import train_encoder
from pose2id.parts import (
    centralize_parts,
    evaluate_parts,
    mask_visibility,
    part_boxes,
    pool_boxes,
    pool_masks,
    pool_stripes,
)
from pose2id.poses import pose_direction, representative_poses
from pose2id.programs.walkthrough import draw_people
from pose2id.programs.walkthrough.material import TRAINED
from pose2id.synthetic import PARTS, make_camera, make_person, make_set, render

SIZE = (64, 32)
SETS = {"free": (0.0, 0.0), "occluded": (1.0, 0.5)}
"""How many of the queries, and of the gallery, are occluded."""
SEEN = 0.1
"""A stripe is visible where the person is seen on so much of it."""
POSES = representative_poses()
DRAWN = (0, 4)
"""Poses that the tiny generator draws: from the front and from behind."""
SOMEBODY = 9999
"""Whose masks stand for those of generated pictures."""
KNOWN = TRAINED[:100]
"""People of the strong encoder, on whom its parts are standardized."""
TESTED, OTHERS, STEPS = 30, 200, 200
"""So many people are tested; on so many others, so many steps, the weak encoder is trained."""
LEAD = 0.02
"""So much more mAP is asserted of what is better."""


class Shown(NamedTuple):
    """Pictures as parts are pooled from them: maps (N, C, H, W), joints that are seen, masks."""

    maps: np.ndarray
    poses: list
    masks: np.ndarray


def pool_whole(shown):
    return shown.maps.mean((2, 3))[:, None], np.ones((len(shown.maps), 1), bool)


def pool_all_stripes(shown):
    return pool_stripes(shown.maps), np.ones((len(shown.maps), 6), bool)


def pool_seen_stripes(shown):
    """Visible where the masks show the person; the others hold what stands there, as a model's do."""
    person = (shown.masks > 0).astype(np.float32)[:, None]
    return pool_stripes(shown.maps), pool_stripes(person)[:, :, 0] >= SEEN


def pool_joints(shown):
    boxes, visible = part_boxes(shown.poses, SIZE)
    return pool_boxes(shown.maps, boxes, SIZE, reduce="mean"), visible


def pool_labels(shown):
    """Masks as shares of each location of the map; visible are parts that cover most of one."""
    single = (shown.masks[:, None] == np.arange(1 + len(PARTS))[:, None, None]).astype(np.float32)
    soft = functional.adaptive_avg_pool2d(torch.from_numpy(single), shown.maps.shape[2:]).numpy()
    return pool_masks(shown.maps, soft[:, 1:]), mask_visibility(soft)


POOLINGS = {
    "whole picture": pool_whole,
    "6 stripes": pool_all_stripes,
    "6 stripes, visibility from masks": pool_seen_stripes,
    "7 boxes of joints": pool_joints,
    "7 masks": pool_labels,
}


class Maps:
    """The maps (N, 256, 16, 8) of an encoder, without what they are like on average on training people."""

    def __init__(self, encoder, people):
        self.network = copy.deepcopy(encoder)
        first, last = self.network.stages[2:]
        first.body[0].stride = first.skip[0].stride = (1, 1)
        for layer in (first.body[3], last.body[0], last.body[3]):
            layer.dilation = layer.padding = (2, 2)
        self.mean = 0
        self.mean = self.of(people.images).mean(0)

    def of(self, images):
        """What each location adds to the feature of (N, 64, 32, 3), but for the maximum that is a part of it too."""
        blocks = (images[start : start + 128] for start in range(0, len(images), 128))
        return np.concatenate([self.one_block(block) for block in blocks]) - self.mean

    @torch.no_grad()
    def one_block(self, images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        maps = self.network.stages(self.network.stem(pixels))
        weights = self.network.embed.weight.view(-1, maps.shape[1], self.network.config.stripes).unbind(2)
        halves = maps.chunk(len(weights), dim=2)
        found = [torch.einsum("dc,nchw->ndhw", *pair) for pair in zip(weights, halves, strict=True)]
        return torch.cat(found, dim=2).numpy()


def show(maps, people):
    return Shown(maps.of(people.images), people.seen_poses, people.masks)


def draw_clean(number):
    """A person in the eight poses: pictures (8, 64, 32, 3) and masks (8, 64, 32)."""
    camera, rng = make_camera(0, 0), np.random.default_rng(0)
    yaws = [pose_direction(pose, aspect=0.5) for pose in POSES]
    drawn = [
        render(make_person(0, number), pose, yaw, camera, rng, clean=True)
        for pose, yaw in zip(POSES, yaws, strict=True)
    ]
    return np.stack([picture.image for picture in drawn]), np.stack([picture.parts for picture in drawn])


def show_oracle(maps, people):
    """The eight clean pictures of the person of each picture, (N x 8)."""
    names, at = np.unique(people.ids, return_inverse=True)
    images, masks = map(np.stack, zip(*map(draw_clean, names), strict=True))
    each = maps.of(images.reshape(-1, *images.shape[2:])).reshape(len(names), 8, -1, 16, 8)
    poses = POSES * len(at)
    return Shown(each[at].reshape(-1, *each.shape[2:]), poses, masks[at].reshape(-1, *SIZE))


def show_generated(maps, people, images):
    """What the tiny generator drew of each picture, (N x 2)."""
    poses = [POSES[i] for i in DRAWN] * len(people)
    masks = np.tile(draw_clean(SOMEBODY)[1][list(DRAWN)], (len(people), 1, 1))
    return Shown(maps.of(images.reshape(-1, *SIZE, 3)), poses, masks)


class Pooling:
    """A way of pooling, and what its parts are on the training people."""

    def __init__(self, pool, trained):
        self.pool = pool
        parts, visible = pool(trained)
        shown = [part[seen] for part, seen in zip(parts.swapaxes(0, 1), visible.T, strict=True)]
        self.mean, self.scale = (np.stack([take(rows, axis=0) for rows in shown]) for take in (np.mean, np.std))

    def features(self, shown):
        """Parts (N, P, 256) of length 1, those without anything in them 0, and visibility (N, P)."""
        parts, visible = self.pool(shown)
        some = parts.any(axis=2, keepdims=True)
        parts = some * (parts - self.mean) / (self.scale + 1e-3)
        return parts / np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-9), visible


def score_settings(people, sides, generated):
    """mAP by setting; `sides` are (parts, visibility) of queries and gallery, `generated` such pairs by name."""
    query, gallery = people

    def score(asked, items):
        labels = query.ids, gallery.ids, query.cams, gallery.cams
        seen = {"query_visibility": asked[1], "gallery_visibility": items[1]}
        return evaluate_parts(asked[0], items[0], *labels, **seen).mAP

    flat = [(centralize(parts.reshape(len(parts), -1)).reshape(parts.shape), seen) for parts, seen in sides]
    pulled = [centralize_parts(*side) for side in sides]
    found = {"base": score(*sides), "flattened": score(*flat), "part by part": score(*pulled)}
    found["gallery filled"] = score(pulled[0], centralize_parts(*sides[1], fill=True))
    for name, pair in generated.items():
        added = [
            centralize_parts(
                *side,
                parts.reshape(len(side[0]), -1, *parts.shape[1:]),
                generated_visibility=seen.reshape(len(side[0]), -1, seen.shape[1]),
                fill=True,
            )
            for side, (parts, seen) in zip(sides, pair, strict=True)
        ]
        found[name] = score(*added)
    return found


def run(seed, pipe, full):
    """mAP by (encoder, set, pooling, setting), and the share of parts that are seen by (encoder, set, pooling)."""
    own = make_set(KNOWN, per_cam=1, masks=True)
    encoders = {"strong": (pipe.identity_encoder, own)}
    if full:
        others = make_set(range(10_000 + 1000 * seed, 10_000 + 1000 * seed + OTHERS), per_cam=1, masks=True)
        encoders["weak"] = train_encoder(others.images, others.ids, steps=STEPS, seed=seed), others
    people, drawn = {}, {}
    for title, shares in SETS.items():
        ids = range(100 * seed, 100 * seed + TESTED)
        people[title] = [
            make_set(ids, occlusion=share, masks=True).select(slice(shot, None, 2)) for shot, share in enumerate(shares)
        ]
        poses = [POSES[i] for i in DRAWN]
        drawn[title] = [draw_people(pipe, side, poses, preset="fast", seed=seed) for side in people[title] if full]
    found, seen = {}, {}
    for encoder, (network, known) in encoders.items():
        maps = Maps(network, known)
        trained = show(maps, known)
        poolings = {name: Pooling(pool, trained) for name, pool in POOLINGS.items()}
        for title, sides in people.items():
            shown = [show(maps, side) for side in sides]
            more = {"+ oracle": [show_oracle(maps, side) for side in sides]}
            if full:
                more["+ tiny generator"] = [
                    show_generated(maps, *pair) for pair in zip(sides, drawn[title], strict=True)
                ]
            for name, pooling in poolings.items():
                features = [pooling.features(side) for side in shown]
                added = {kind: [pooling.features(side) for side in pair] for kind, pair in more.items()}
                seen[encoder, title, name] = np.mean([visible.mean() for _, visible in features])
                for setting, value in score_settings(sides, features, added).items():
                    found[encoder, title, name, setting] = value
    return found, seen


@pytest.fixture(scope="module")
def results(full):
    pipe = IPGPipeline.from_pretrained("tiny")
    return [run(seed, pipe, full) for seed in range(3 if full else 1)]


def test_what_the_documentation_says_of_hidden_people(results):
    """Means over seeds."""

    def mean(name, setting):
        return np.mean([found["strong", "occluded", name, setting] for found, _ in results])

    whole, *others, masks = (mean(name, "base") for name in POOLINGS)
    assert whole + LEAD < min(others)  # parts are better than the whole
    assert max(others) + LEAD < masks
    stripes = "6 stripes, visibility from masks"
    assert mean(stripes, "flattened") + LEAD < mean(stripes, "part by part") < mean(stripes, "gallery filled")


def test_report(results, report):
    """mAP in percent, and the gains over the base; standard errors over seeds."""
    settings = list(dict.fromkeys(setting for *_, setting in results[0][0]))
    head = ("encoder", "people", "pooled by", "parts seen", *settings)
    for key in results[0][1]:
        values = 100 * np.array([[found[*key, setting] for setting in settings] for found, _ in results])
        cells = [with_error(values[:, 0], "{:.1f}")]
        cells += [with_error(column, "{:+.1f}") for column in (values[:, 1:] - values[:, :1]).T]
        shown = np.mean([seen[key] for _, seen in results])
        report("Parts of synthetic people", head, *key, f"{shown:.2f}", *cells)


def with_error(values, form):
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return form.format(values.mean()) + error
