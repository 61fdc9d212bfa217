"""The systems of the part-based literature, trained on one trunk, and what centralization brings on each.

All learn from the same pictures of `LEARNT` synthetic people, `STEPS` batches of 64, and begin with the trunk of a
baseline trained on them before, `TRUNK_STEPS`; the baseline of the table goes on from there as the others do. Tested
are three sets of other people, "free" and "occluded" (something stands before every query and before half of the
gallery). Standard errors are over the three sets: of one training each.

A row is what a system's paper compares, `Encoded.features`; a second row, "by parts", compares and centralizes the
parts that both pictures show, where the system knows which it shows. Pair systems order the `TOP` nearest of every
query, by the baseline's features (DSR: by its own), plain or centralized. Generated pictures are the tiny generator's:
from the front and from behind; their joints are those of the pose it was asked for, their masks those of another person
in that pose.

By default a short form: the baseline and PCB, fewer people and steps, one set. `--full`: the table, about an hour and a
half of two cores; `--work FOLDER` keeps trained encoders and finished rows there, and goes on with them.
"""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from pose2id import evaluate, evaluate_features
from pose2id.attributes import SYNTHETIC, attribute_accuracy, attribute_filter
from pose2id.encoders import SYSTEMS, EncoderSettings, encode_images, make_encoder, train_encoder
from pose2id.ipg import IPGPipeline
from pose2id.poses import pose_direction, representative_poses
from pose2id.programs.walkthrough import draw_people
from pose2id.study import FeatureSet, Setting, centralize_sets, run_study
from pose2id.synthetic import PARTS, label_people, make_camera, make_person, make_set, render

SIZE = (64, 32)
LEARNT = range(20_000, 20_400)
SETS = {"free": (0.0, 0.0), "occluded": (1.0, 0.5)}
"""How many of the queries, and of the gallery, are occluded."""
TESTED, FIRSTS = 60, (0, 100, 200)
POSES = [representative_poses()[i] for i in (0, 4)]
"""Those that the tiny generator draws: from the front and from behind."""
SOMEBODY = 9999
"""Whose masks stand for those of generated pictures."""
TOP = 20
THRESHOLDS, CHOSEN = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0), 0.7
"""Of the filter by attributes, and the paper's."""
STEPS, TRUNK_STEPS = 400, 1000
SETTINGS = (
    Setting("base"),
    Setting("+ NFC", k1=2, k2=2),
    Setting("+ recommended", k1=3, k2=3, alpha=4.0, other_cameras=True),
    Setting("+ IPG", eta=1.0),
    Setting("+ both", eta=1.0, k1=3, k2=3, alpha=4.0, other_cameras=True),
    Setting("re-ranked", reranked=True),
)
BY_PARTS = ", by parts"
UNTRAINED = "untrained"


class Shown(NamedTuple):
    """Pictures as encoders take them: (N, H, W, 3), joints (N, 18, 2), labels of parts (N, H, W)."""

    images: np.ndarray
    keypoints: np.ndarray
    masks: np.ndarray


def show(people):
    return Shown(people.images, np.where(people.seen[:, :, None], people.keypoints, np.nan), people.masks)


def show_generated(images):
    """Generated pictures (N, M, H, W, 3) in a row."""
    n = len(images)
    points = np.stack([pose.keypoints for pose in POSES])
    camera, rng = make_camera(0, 0), np.random.default_rng(0)
    yaws = [pose_direction(pose, aspect=0.5) for pose in POSES]
    drawn = [
        render(make_person(0, SOMEBODY), pose, yaw, camera, rng, clean=True)
        for pose, yaw in zip(POSES, yaws, strict=True)
    ]
    masks = np.stack([picture.parts for picture in drawn])
    return Shown(images.reshape(-1, *SIZE, 3), np.tile(points, (n, 1, 1)), np.tile(masks, (n, 1, 1)))


class People(NamedTuple):
    """A set of people: labels and pictures of both sides, and generated pictures of them."""

    ids: list
    cams: list
    shown: list
    generated: list


def make_tested(pipe, first, shares, count):
    sides = [
        make_set(range(first, first + count), occlusion=share, masks=True).select(slice(shot, None, 2))
        for shot, share in enumerate(shares)
    ]
    generated = [show_generated(draw_people(pipe, side, POSES, preset="fast", seed=first)) for side in sides]
    return People([side.ids for side in sides], [side.cams for side in sides], list(map(show, sides)), generated)


def encode(encoder, shown):
    """What an encoder makes of pictures, as arrays; maps where pairs are compared."""
    known = {name: getattr(shown, name) for name in encoder.needs & {"keypoints", "masks"}}
    found = encode_images(encoder, shown.images, **known, maps=encoder.pairwise)
    return type(found)(*(None if each is None else each.numpy() for each in found))


def make_sides(people, encoded, generated, name):
    """Both sides as a study takes them; `name` is "features" or "parts"."""
    sides = []
    for ids, cams, own, more in zip(people.ids, people.cams, encoded, generated, strict=True):
        rows, drawn = getattr(own, name), getattr(more, name)
        seen = {}
        if name == "parts":
            seen = {
                "visibility": own.visibility,
                "generated_visibility": more.visibility.reshape(len(rows), -1, rows.shape[1]),
            }
        sides.append(FeatureSet(rows, ids, cams, drawn.reshape(len(rows), -1, *rows.shape[1:]), **seen))
    return sides


def score_features(sides):
    """mAP, rank-1 and ID² by setting."""
    return {row.name: (row.mAP, row.rank1, row.id2) for row in run_study(*sides, SETTINGS)}


@torch.no_grad()
def score_pairs(encoder, people, encoded, sides):
    """mAP and rank-1 where a pair system orders the `TOP` nearest, plain and centralized."""
    maps = [torch.from_numpy(each.maps) for each in encoded]
    found = {}
    for setting in (SETTINGS[0], SETTINGS[2]):
        query, gallery = (torch.from_numpy(rows) for rows in centralize_sets(*sides, setting))
        distances = torch.cdist(query, gallery)
        nearest = distances.topk(TOP, largest=False).indices
        for row, items in enumerate(nearest):
            own = maps[0][row : row + 1].expand(TOP, -1, -1, -1)
            order = encoder.compare(own, maps[1][items]).argsort(stable=True)
            distances[row, items[order]] = torch.arange(TOP) - float(TOP)  # before all others
        scores = evaluate(distances, *people.ids, *people.cams)
        found[setting.name] = (scores.mAP, scores.rank(1), float("nan"))
    return found


def measure(encoder, baseline, tested):
    """Scores by row ("" or `BY_PARTS`), set and setting: one entry for each set of people."""
    rows = {}
    for title, sets in tested.items():
        for people in sets:
            encoded, generated = ([encode(encoder, each) for each in part] for part in (people.shown, people.generated))
            found = {}
            if encoder.pairwise:
                own = encoded, generated
                if encoded[0].features is None:
                    other = baseline()
                    own = ([encode(other, each) for each in part] for part in (people.shown, people.generated))
                found[""] = score_pairs(encoder, people, encoded, make_sides(people, *own, "features"))
            else:
                found[""] = score_features(make_sides(people, encoded, generated, "features"))
            if encoded[0].visibility is not None:
                found[BY_PARTS] = score_features(make_sides(people, encoded, generated, "parts"))
            for row, scores in found.items():
                for setting, values in scores.items():
                    rows.setdefault(row, {}).setdefault(title, {}).setdefault(setting, []).append(values)
    return rows


class Bench:
    """The encoders, trained in a folder or found there, and the people that they are tried on, drawn when needed."""

    def __init__(self, folder, *, learnt, tested, firsts, sets, steps, trunk_steps):
        self.folder, self.learnt, self.drawn = folder, learnt, (tested, firsts, sets)
        self.steps, self.trunk_steps = steps, trunk_steps

    @cached_property
    def known(self):
        return make_set(self.learnt, per_cam=1, masks=True)

    @cached_property
    def tested(self):
        pipe = IPGPipeline.from_pretrained("tiny")
        count, firsts, sets = self.drawn
        return {title: [make_tested(pipe, first, shares, count) for first in firsts] for title, shares in sets.items()}

    def train(self, system, name, steps, trunk=None):
        """A trained encoder, and the minutes that it took; those of the run that made it."""
        known, run = self.known, self.folder / name
        noted = run / "minutes.json"
        minutes = json.loads(noted.read_text()) if noted.exists() else 0.0
        start = time.monotonic()
        encoder = train_encoder(
            system,
            known.images,
            known.ids,
            run,
            EncoderSettings(steps=steps, learning_rate=2e-3 if trunk is None else 1e-3),
            keypoints=np.where(known.seen[:, :, None], known.keypoints, np.nan),
            masks=known.masks,
            part_names=PARTS,
            attributes=known.attributes,
            trunk=trunk,
            progress=False,
        )
        minutes = minutes or (time.monotonic() - start) / 60
        noted.write_text(json.dumps(minutes))
        return encoder, minutes

    def train_trunk(self):
        self.train("global", "trunk", self.trunk_steps)
        return self.folder / "trunk" / "encoder"

    def baseline(self):
        return self.train("global", "global", self.steps, self.train_trunk())[0]

    def measure(self, system):
        """The row of a system; kept in the folder."""
        noted = self.folder / f"{system}.json"
        if not noted.exists():
            if system == UNTRAINED:
                encoder, minutes = make_encoder("global", len(self.learnt)).eval(), 0.0
            else:
                trunk = self.train_trunk()
                encoder, minutes = self.train(system, system, self.steps, trunk)
            size = sum(each.numel() for each in encoder.parameters())
            row = {"parameters": size, "minutes": minutes, "rows": measure(encoder, self.baseline, self.tested)}
            noted.write_text(json.dumps(row))
        return json.loads(noted.read_text())


@pytest.fixture(scope="module")
def bench(full, request, tmp_path_factory):
    kept = request.config.getoption("--work")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("encoders")
    if full:
        return Bench(
            folder, learnt=LEARNT, tested=TESTED, firsts=FIRSTS, sets=SETS, steps=STEPS, trunk_steps=TRUNK_STEPS
        )
    few = {"learnt": LEARNT[:80], "tested": 20, "firsts": FIRSTS[:1], "sets": {"free": SETS["free"]}}
    return Bench(folder, **few, steps=60, trunk_steps=120)


def test_systems(bench, full, report):
    """Trained features beat the untrained trunk; the table has whatever comes out."""
    rows = {system: bench.measure(system) for system in (UNTRAINED, *(SYSTEMS if full else ("global", "pcb")))}
    settings = [setting.name for setting in SETTINGS]
    for number, score in enumerate(("mAP", "rank-1", "ID²")):
        for system, found in rows.items():
            for row, (title, scores) in ((row, each) for row, sets in found["rows"].items() for each in sets.items()):
                cells = [show_mean(scores, setting, number, score) for setting in settings]
                sizes = f"{found['parameters']:,}", f"{found['minutes']:.1f}"
                report(
                    f"Encoders: {score}",
                    ("people", "system", "parameters", "minutes", *settings),
                    title,
                    system + row,
                    *sizes,
                    *cells,
                )
    base = {system: found["rows"][""]["free"]["base"] for system, found in rows.items()}
    for system in rows.keys() - {UNTRAINED}:
        assert np.mean([each[0] for each in base[system]]) > np.mean([each[0] for each in base[UNTRAINED]]) + 0.05


def test_attribute_filter(bench, full, report):
    """APR's filter by what the same network reads from the same pictures, so it errs as the features do."""
    if not full:
        pytest.skip("needs APR, trained by --full")
    encoder = bench.train("apr", "apr", bench.steps, bench.train_trunk())[0]
    head = ("people", "attributes right [%]", "threshold", "kept [%]", "right ones kept [%]", "mAP", "R1")
    for title, sets in bench.tested.items():
        found = {threshold: [] for threshold in THRESHOLDS}
        for people in sets:
            query, gallery = (encode(encoder, each) for each in people.shown)
            labels = *people.ids, *people.cams
            known = label_people(sorted(set(people.ids[0].tolist())))
            accuracy = attribute_accuracy(query.attributes, people.ids[0], known).mean
            right = people.ids[0][:, None] == people.ids[1]
            for threshold, rows in found.items():
                kept = attribute_filter(query.attributes, gallery.attributes, SYNTHETIC, threshold=threshold)
                scores = evaluate_features(query.features, gallery.features, *labels, kept=kept)
                shares = kept.nnz / right.size, kept.multiply(right).sum() / right.sum()
                rows.append((accuracy, *shares, scores.mAP, scores.rank(1)))
            plain = evaluate_features(query.features, gallery.features, *labels)
            assert found[1.0][-1][1:] == (1.0, 1.0, pytest.approx(plain.mAP, abs=1e-12), plain.rank(1))
        for threshold, rows in found.items():
            accuracy, *cells = (show_percent(column) for column in zip(*rows, strict=True))
            name = f"**{threshold}**" if threshold == CHOSEN else threshold
            report("Filter by APR's own attributes", head, title, accuracy, name, *cells)


def show_percent(values):
    """The mean in percent, and its standard error."""
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1) / len(values) ** 0.5:.1f}"


def show_mean(scores, setting, number, score):
    """The mean over sets and its standard error; of mAP and rank-1 in percent, and as gains behind the base."""
    if setting not in scores:
        return ""
    values = np.array([each[number] for each in scores[setting]], float)
    if np.isnan(values).any():
        return ""
    form = "{:.3f}"
    if score != "ID²":
        gain = setting != "base"
        values = 100 * (values - [each[number] for each in scores["base"]] if gain else values)
        form = "{:+.1f}" if gain else "{:.1f}"
    error = " ± " + form.replace("+", "").format(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else ""
    return form.format(values.mean()) + error
