"""The paper's tables on synthetic people that the shipped generator was not trained on.

The rows of the demo's set are compared with stored ones; what must hold on every set is asserted; all are printed, with
standard errors. `--full`: three sets of 30 people with three seeds, the right people also in another world (with other
cameras), the choice of eta on validation people, and 300 others on whom generated pictures are compared with controls.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from PIL import Image
from reference import ipg as plain

from pose2id.ipg import IPGPipeline, representative_poses
from pose2id.ipg.training.encoder import train_encoder
from pose2id.programs.walkthrough import (
    compare_with_poses,
    count_right_people,
    draw_people,
    encode,
    make_encoders,
    make_people,
    run_walkthrough,
    switch_off,
)
from pose2id.programs.walkthrough.material import ETAS, VALIDATION, augment, encode_all
from pose2id.study import FeatureSet, Setting, run_study
from pose2id.synthetic import make_set

STORED = Path(__file__).parent / "synthetic.json"
"""Rows of the demo's set, as `pose2id demo --generate --json --no-pictures` prints them."""
SETS = {  # world, people, seed of the noise and of the weak encoder
    "people 0 to 29": (0, range(30), 0),
    "people 200 to 229": (0, range(200, 230), 1),
    "people 400 to 429": (0, range(400, 430), 2),
}
DEMO = dict([next(iter(SETS.items()))])
OTHER = {"people 0 to 29 of another world, with its cameras": (1, range(30), 0)}
TWO, SIX = "Table 2: parts of the method", "Table 6: the first M poses"
FIVE = "Fig. 5: generated features alone as queries"
GENERATED, FLIP, PLAIN = "8 generated pictures", "mirrored picture", "8 plain augmentations"
TRIED = (0.25, 0.5, 1, 2, 4, 8)
CONTROLS = {FLIP: {"strong": 1, "weak": 1}, PLAIN: {"strong": 1, "weak": 2}}
"""Their eta, chosen on validation people as that of generated pictures is."""
# Twice what one thread instead of two changes: 0.039 for weak, which is trained anew and rounds in other ways;
# 0.0005 for the others, rounded up.
TOLERANCES = {"strong": 0.005, "raw pixels": 0.005, "weak": 0.08, "untrained": 0.005}


@pytest.fixture(scope="module")
def pipe():
    pipe = IPGPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def found(pipe, full):
    """The rows of every set, by table, encoder and name."""
    sets = {}
    for name, (world, ids, seed) in (SETS if full else DEMO).items():
        rows = run_walkthrough(pipe, ids, world=world, seed=seed).rows
        sets[name] = {(row.table, row.encoder, row.name): row for row in rows}
    return sets


def test_the_rows_are_those_stored(found):
    stored = {(row["table"], row["encoder"], row["name"]): row["mAP"] for row in json.loads(STORED.read_text())["rows"]}
    rows = next(iter(found.values()))
    assert stored.keys() == rows.keys()
    off = {key: (row.mAP, stored[key]) for key, row in rows.items()}
    assert not {key: pair for key, pair in off.items() if abs(pair[0] - pair[1]) > TOLERANCES[key[1]]}


def test_the_pattern_of_the_paper(found):
    for rows in found.values():
        base, better = rows[TWO, "weak", "base"], rows[TWO, "weak", f"+ IPG, eta = {ETAS['weak']:g}"]
        assert better.mAP > 2 * base.mAP
        by_poses = [rows[SIX, "weak", f"M = {m}"] for m in range(9)]
        assert by_poses[8].mAP > by_poses[1].mAP > by_poses[0].mAP  # with shared noise one pose brings most of it
        assert by_poses[8].id2 < by_poses[4].id2 < by_poses[1].id2 < by_poses[0].id2
    for part in ("reference only, tokens off", "tokens only, reference off", "both off"):
        costs = [
            rows[FIVE, "strong", "tokens and reference"].mAP - rows[FIVE, "strong", part].mAP for rows in found.values()
        ]
        assert min(costs) > 0
        assert np.mean(costs) > 0.04


def test_report_of_the_tables(found, report):
    """Each set, and their mean with its standard error."""
    head = ("table", "encoder", "row", *(f"mAP, set {i}" for i in range(len(found))), "mAP", "+-", "R1", "ID2")
    for key in next(iter(found.values())):
        rows = [rows[key] for rows in found.values()]
        error = sum(row.error**2 for row in rows) ** 0.5 / len(rows)
        means = [np.mean([getattr(row, what) for row in rows]) for what in ("mAP", "rank1", "id2")]
        cells = [f"{100 * x:.1f}" for x in (*(row.mAP for row in rows), means[0], error, means[1])]
        report(f"Synthetic people: {'; '.join(found)}", head, *key, *cells, f"{means[2]:.3f}")


@pytest.fixture(scope="module")
def judges(pipe, full):
    """The generator's own encoder, whose features its tokens are; with --full also one that never saw its people."""
    found = {"its own encoder": lambda images: encode(pipe.identity_encoder, images)}
    if full:
        others = make_set(range(7000, 8000), seed=0, per_cam=1)
        network = train_encoder(others.images, others.ids, steps=1000, seed=1, progress=False)
        found["an encoder of 1,000 other people"] = lambda images: encode(network, images)
    return found


def some(people, queries, seed):
    """45 queries at random, and the gallery."""
    rows = np.sort(np.random.default_rng(seed).permutation(queries)[:45])
    return people.select(rows), people.select(slice(queries, None))


def test_generated_people_are_the_right_ones_in_the_right_poses(pipe, report, full, judges):
    head = ("people", "judged by", "generator", "right person", "chance")
    heads = ("people", "generator", "right pose (chance 0.125)", "poses shuffled")
    parts = {"as it is": {}, "tokens and reference off": {"tokens": True, "reference": True}}
    for name, (world, ids, seed) in (SETS | OTHER if full else DEMO).items():
        few, gallery = some(*make_people(ids, world=world), seed)
        shares = {}
        for part, off in parts.items():
            drawn = draw_people(switch_off(pipe, **off), few, seed=seed)
            for judge, encoder in judges.items():
                shares[judge, part] = count_right_people(encoder, few, drawn, gallery)
                report(
                    "Synthetic people: identity",
                    head,
                    name,
                    judge,
                    part,
                    f"{shares[judge, part]:.3f}",
                    f"{1 / len(ids):.3f}",
                )
            pose = compare_with_poses(few, drawn, representative_poses(), world=world)
            shuffled = compare_with_poses(few, np.roll(drawn, 3, axis=1), representative_poses(), world=world)
            report("Synthetic people: poses", heads, name, part, f"{pose:.3f}", f"{shuffled:.3f}")
            assert pose > 3 / 8
            assert pose > 2 * shuffled
        for judge in judges:
            assert shares[judge, "as it is"] > 0.4
            assert shares[judge, "as it is"] >= 5 * shares[judge, "tokens and reference off"]


class Crossed(IPGPipeline):
    """Draws from one picture's tokens and another's reference."""

    def build_memory(self, image, height, width):
        tokens = self.identity_tokens(image)
        latents = self.reference_latents(self.partners[image.tobytes()], height, width)
        return self.project_memory(self.reference_bank(latents, tokens), tokens)


def test_tokens_and_reference_against_each_other(pipe, report, judges):
    """Tokens of one person, in both networks, and the reference of another: who is drawn?"""
    few, gallery = some(*make_people(range(30)), 0)
    crossed = Crossed(**pipe.components, sample_size=pipe.config.sample_size)
    partner = np.roll(np.arange(len(few)), 15)  # ten people on
    images = [Image.fromarray(image) for image in few.images]
    crossed.partners = {image.tobytes(): images[i] for image, i in zip(images, partner, strict=True)}
    drawn = draw_people(crossed, few)
    head = ("judged by", "drawn as the tokens' person", "as the reference's person", "chance")
    for judge, encoder in judges.items():
        shares = [count_right_people(encoder, people, drawn, gallery) for people in (few, few.select(partner))]
        report(
            "Synthetic people: tokens of one, reference of another", head, judge, *(f"{x:.3f}" for x in shares), 0.033
        )
        assert min(shares) > 2 / 30


def precisions(pipe, sets, seed):
    """mAP of every person by (encoder, what is added, eta), over sets of people; a seed for each set."""
    found = {}
    for number, ids in enumerate(sets, seed):
        people, queries = make_people(ids)
        drawn, augmented = draw_people(pipe, people, seed=number), augment(people.images, seed=number)
        encoders = make_encoders(pipe, seed=number)
        for name in ("strong", "weak"):
            seen = encode_all(encoders[name], people, drawn, augmented, drawn[:, :1])
            for kind, added in ((GENERATED, seen.generated), (FLIP, seen.mirrored[:, None]), (PLAIN, seen.augmented)):
                sides = [
                    FeatureSet(seen.features[half], people.ids[half], people.cams[half], added[half])
                    for half in (slice(queries), slice(queries, None))
                ]
                settings = [Setting(f"{eta:g}", eta=eta) for eta in (0, *TRIED)]
                for row in run_study(*sides, settings, density=False):
                    means = [row.scores.average_precision[people.ids[:queries] == who].mean() for who in ids]
                    found.setdefault((name, kind, row.setting.eta), []).extend(means)
    return {key: np.array(values) for key, values in found.items()}


def with_error(values):
    """A mean over people in percent, and its standard error."""
    return 100 * values.mean(), 100 * values.std(ddof=1) / len(values) ** 0.5


def test_the_choice_of_eta(pipe, report, full):
    """On all validation people; each must be within a standard error of the best."""
    if not full:
        pytest.skip("needs --full")
    found = precisions(pipe, np.array_split(VALIDATION, 3), 0)
    title = f"Synthetic validation people {VALIDATION[0]} to {VALIDATION[-1]}"
    head = ("encoder", "added", "eta", "mAP", "+-", "gain", "+-")
    for (name, kind, eta), values in found.items():
        if eta or kind == GENERATED:
            cells = *with_error(values), *with_error(values - found[name, kind, 0])
            report(title, head, name, kind, f"{eta:g}", *(f"{cell:.2f}" for cell in cells))
    for name, kind in {key[:2]: None for key in found}:
        chosen = ETAS[name] if kind == GENERATED else CONTROLS[kind][name]
        best = max(TRIED, key=lambda eta: found[name, kind, eta].mean())
        behind, error = with_error(found[name, kind, best] - found[name, kind, chosen])
        assert behind <= error, (name, kind, best, chosen)


def test_generated_pictures_against_controls(pipe, report, full):
    """On people whom nobody has looked at before, each kind at the eta chosen on validation people."""
    if not full:
        pytest.skip("needs --full")
    ids = range(600, 900)
    found = precisions(pipe, np.array_split(ids, 10), 10)
    title = f"Synthetic people {ids[0]} to {ids[-1]}: what is added, at the eta of validation people"
    head = ("encoder", "added", "eta", "mAP", "+-", "gain", "+-", "generated pictures' lead", "+-")
    for name in ("strong", "weak"):
        ours = found[name, GENERATED, ETAS[name]]
        for kind, eta in ((GENERATED, ETAS[name]), *((kind, CONTROLS[kind][name]) for kind in (FLIP, PLAIN))):
            values = found[name, kind, eta]
            cells = *with_error(values), *with_error(values - found[name, kind, 0]), *with_error(ours - values)
            report(title, head, name, kind, f"{eta:g}", *(f"{cell:.2f}" for cell in cells))
            if kind != GENERATED:
                lead, error = cells[-2:]
                assert lead > (40 if name == "weak" else 0) - 2 * error


def test_speed_of_the_tiny_generator(pipe, report):
    """Ours against the released schedule (reference and keys anew at each step), from the same noise."""
    person = Image.fromarray(make_people(range(2))[0].images[0])
    noise = torch.randn(8, 12, 16, 8, generator=torch.Generator().manual_seed(0))
    poses = representative_poses()
    size = {"height": 64, "width": 32}
    _, steps, guidance = pipe.defaults

    def ours():
        return pipe(person, poses, latents=noise, output_type="latent").images.flatten(0, 1)

    def released():
        return plain.plainly(pipe, [person] * 8, poses, noise, **size, steps=steps, guidance=guidance)

    difference = float((ours() - released()).abs().max())
    assert difference < 1e-3
    seconds = [[], []]
    for _ in range(5):
        for call, times in zip((ours, released), seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    fast, slow = map(statistics.median, seconds)
    head = ("tiny generator", "pictures", "steps", "ours [1/s]", "released schedule [1/s]", "ratio", "equality")
    cells = f"{8 / fast:.1f}", f"{8 / slow:.1f}", f"{slow / fast:.2f}x", f"to {difference:.0e}"
    report("Tiny generator, pictures per second", head, "64 x 32", 8, steps, *cells)
