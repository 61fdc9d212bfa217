"""The paper on synthetic people: its parts by hand, on an untrained generator and made-up features."""

import re
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from pose2id import centralize, evaluate, id_density, rerank
from pose2id.ipg import representative_poses
from pose2id.ipg.training.recipe import Settings, read_settings
from pose2id.poses import pose_direction
from pose2id.programs.training import build_pipeline, read_records
from pose2id.programs.walkthrough import (
    EncodedPictures,
    build_tables,
    compare_with_poses,
    count_right_people,
    draw_parts,
    draw_people,
    format_tables,
    make_other_pictures,
    make_people,
    run_walkthrough,
    switch_off,
)
from pose2id.programs.walkthrough.material import TESTED, TRAINED, VALIDATION, WEAK_IDENTITIES, augment
from pose2id.synthetic import make_set

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    model = {"kind": "small", "encoder_steps": 2, "latent_channels": 4, "channels": [8, 16], "heads": 2, "groups": 4}
    model |= {"tokens": 2, "token_width": 12, "pose_channels": [4, 4, 4]}
    settings = Settings(height=64, width=32)
    records = read_records({"kind": "world", "ids": [10, 14], "cams": 2, "per_cam": 1}, settings)
    return build_pipeline(model, settings, records, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def people():
    return make_people(range(4))


def test_nobody_is_in_two_sets():
    sets = [set(TRAINED), set(VALIDATION), set(TESTED), set(WEAK_IDENTITIES)]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_the_recipe_trains_on_others():
    recipe = read_settings(files("pose2id").joinpath("data", "tiny.toml"))
    assert range(*recipe.data["ids"]) == TRAINED
    assert recipe.data["seed"] == 0


def test_people(people):
    world, queries = people
    assert (len(world), queries) == (40, 24)
    whole = make_set(range(4), cams=6, per_cam=2)
    np.testing.assert_array_equal(world.images[:queries], whole.images[::2])
    assert set(world.cams[queries:]) == {0, 1, 2, 3}
    for row in range(queries, 40):  # second shots
        same = np.flatnonzero((whole.ids == world.ids[row]) & (whole.cams == world.cams[row]))
        np.testing.assert_array_equal(world.images[row], whole.images[same[1]])


def test_drawn_people_do_not_depend_on_the_batch(pipe, people):
    some = people[0].select(slice(5))
    drawn = draw_people(pipe, some, steps=1)
    assert (drawn.shape, drawn.dtype) == ((5, 8, 64, 32, 3), np.uint8)
    again = draw_people(pipe, some, steps=1, batch_size=8)
    assert np.abs(drawn.astype(int) - again).max() <= 1
    assert not np.array_equal(drawn[0], drawn[1])


def test_what_is_switched_off_is_not_seen(pipe, people):
    """Without both, all people are drawn alike from the same noise."""
    some = people[0].select([0, 30])
    twice = some.select([0, 0])
    for tokens, reference in ((True, True), (True, False), (False, True)):
        ablated = switch_off(pipe, tokens=tokens, reference=reference)
        drawn = draw_people(ablated, some, steps=1)
        alike = np.array_equal(drawn[1], draw_people(ablated, twice, steps=1)[1])
        assert alike == (tokens and reference)


def test_the_control_takes_other_pictures_of_the_same_people(people):
    world = people[0]
    pictures = make_other_pictures(world, people[1])
    assert pictures.shape == (40, 8, 64, 32, 3)
    shots = make_set(range(4), cams=6, per_cam=6)
    for row in (0, 17, 39):
        allowed = (2, 3) if row < people[1] else (4, 5)  # no picture helps queries and gallery, none is itself one
        theirs = shots.images[(shots.ids == world.ids[row]) & np.isin(np.arange(len(shots)) % 6, allowed)]
        found = [[np.array_equal(picture, image) for image in theirs].index(True) for picture in pictures[row]]
        assert len(set(found)) == 8


def test_augmentations_are_of_the_picture_and_of_the_seed(people):
    some = people[0].images[:2]
    pictures = augment(some, 4)
    assert (pictures.shape, pictures.dtype) == ((2, 4, 64, 32, 3), np.uint8)
    np.testing.assert_array_equal(pictures, augment(some, 4))
    assert not np.array_equal(pictures, augment(some, 4, seed=1))
    for row in (0, 1):  # colours keep their order on the whole, and every other one is mirrored
        for j, picture in enumerate(pictures[row]):
            fits = [np.corrcoef(picture.ravel(), other.ravel())[0, 1] for other in (some[row], some[row][:, ::-1])]
            assert int(np.argmax(fits)) == j % 2


@pytest.fixture(scope="module")
def seen(people):
    world = people[0]
    centres = RNG.normal(size=(4, 6))
    rows = len(world)

    def noisy(*shape):
        spread = RNG.normal(size=(*shape, 6))
        return (centres[world.ids].reshape(rows, *[1] * (len(shape) - 1), 6) + spread).astype(np.float32)

    return EncodedPictures(noisy(rows), noisy(rows, 8), noisy(rows), noisy(rows, 8), noisy(rows, 8))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores(people, query, gallery):
    world, n = people
    distances = np.linalg.norm(query[:, None].astype(np.float64) - gallery, axis=2)
    found = evaluate(distances, world.ids[:n], world.ids[n:], world.cams[:n], world.cams[n:])
    return found.mAP, found.rank(1), id_density(np.concatenate([query, gallery]), world.ids)


def test_tables_by_hand(people, seen):
    world, n = people
    rows = {(row.table, row.encoder, row.name): row for row in build_tables(world, n, {"strong": seen, "weak": seen})}
    base = unit(seen.features)
    strong, weak = (unit(seen.features + eta * seen.generated.mean(1)) for eta in (0.5, 8))
    wanted = {
        ("Table 2: parts of the method", "strong", "base"): (base[:n], base[n:]),
        ("Table 2: parts of the method", "strong", "+ IPG, eta = 0.5"): (strong[:n], strong[n:]),
        ("Table 2: parts of the method", "weak", "+ IPG, eta = 8"): (weak[:n], weak[n:]),
        ("Tables 3 and 4: query only", "weak", "+ IPG, eta = 8"): (weak[:n], base[n:]),
        ("Tables 3 and 4: gallery only", "weak", "+ IPG, eta = 8"): (base[:n], weak[n:]),
        ("Table 6: the first M poses", "weak", "M = 0"): (base[:n], base[n:]),
        ("Table 6: the first M poses", "weak", "M = 8"): (weak[:n], weak[n:]),
    }
    three = unit(seen.features + 8 * seen.generated[:, :3].mean(1))
    wanted["Table 6: the first M poses", "weak", "M = 3"] = three[:n], three[n:]
    oracle = unit(seen.features + seen.real.mean(1))
    name = "8 other real pictures, eta = 1"
    wanted["Controls in place of generated pictures", "weak", name] = oracle[:n], oracle[n:]
    for name, instead in (("mirrored picture", seen.mirrored), ("8 plain augmentations", seen.augmented.mean(1))):
        for eta in (0.5, 8):
            both = unit(seen.features + eta * instead)
            wanted["Controls in place of generated pictures", "strong", f"{name}, eta = {eta:g}"] = both[:n], both[n:]
    half = unit(seen.features + 0.5 * seen.generated.mean(1))
    wanted["Fig. 8: eta", "weak", "eta = 0.5"] = half[:n], half[n:]
    for eta, generated, name in ((0, None, "+ NFC"), (8, seen.generated, "+ IPG + NFC")):
        halves = slice(n), slice(n, None)
        near = [centralize(seen.features[x], generated[x] if eta else None, eta) for x in halves]
        wanted["Table 2: parts of the method", "weak", name] = near
        if eta == 0:
            wanted["Tables 3 and 4: query only", "weak", name] = near[0], base[n:]
            wanted["Tables 3 and 4: gallery only", "weak", name] = base[:n], near[1]
    for key, parts in wanted.items():
        row = rows[key]
        assert (row.mAP, row.rank1, row.id2) == pytest.approx(scores(people, *parts), abs=1e-5), key
    for name, parts in (("base", (base[:n], base[n:])), ("+ IPG, eta = 8", (weak[:n], weak[n:]))):
        labels = world.ids[:n], world.ids[n:], world.cams[:n], world.cams[n:]
        ranked = evaluate(rerank(*parts), *labels)
        assert rows["Table 7: with re-ranking", "weak", name].mAP == pytest.approx(ranked.mAP, abs=1e-5)
    assert (
        rows["Table 7: with re-ranking", "weak", "base"].mAP != rows["Table 6: the first M poses", "weak", "M = 0"].mAP
    )


def test_errors_are_over_identities(people, seen):
    world, n = people
    row = build_tables(world, n, {"strong": seen})[0]
    base = unit(seen.features)
    distances = np.linalg.norm(base[:n, None].astype(np.float64) - base[n:], axis=2)
    each = evaluate(distances, world.ids[:n], world.ids[n:], world.cams[:n], world.cams[n:]).average_precision
    means = [each[world.ids[:n] == who].mean() for who in range(4)]
    assert row.error == pytest.approx(np.std(means, ddof=1) / 2, abs=1e-5)


def test_the_text(people, seen):
    text = format_tables(build_tables(*people, {"strong": seen}))
    assert "Synthetic people" in text
    assert max(map(len, text.splitlines())) <= 110
    numbers = [line for line in text.splitlines() if re.search(r"0\.\d{3}$", line)]
    assert len(numbers) > 30
    assert len({len(line) for line in numbers}) == 1
    titles = [line for line in text.splitlines() if line.startswith(("Table", "Fig", "Controls"))]
    numbered = [int(re.search(r"\d", title)[0]) for title in titles if title.startswith("Table")]
    assert numbered == sorted(numbered)
    assert titles[-1].startswith("Controls")


def test_the_right_person_is_counted(people):
    world, n = people
    query, gallery = world.select(slice(n)), world.select(slice(n, None))

    def encoder(images):  # the mean colour
        return images.astype(np.float32).mean((-3, -2))

    true = np.stack([gallery.images[gallery.ids == who].mean(0).astype(np.uint8) for who in query.ids])[:, None]
    assert count_right_people(encoder, query, true, gallery) > 0.9
    wrong = np.roll(true, 6, axis=0)  # the next person
    assert count_right_people(encoder, query, wrong, gallery) < 0.1


def test_poses_are_told_apart(people):
    """The people as the program draws them fit the pose asked for; with the poses exchanged they do not."""
    from pose2id.synthetic import make_camera, make_person, render

    poses, yaws = representative_poses(), [pose_direction(pose) for pose in representative_poses()]
    some = people[0].select([0, 30])
    drawn = np.stack(
        [
            [
                render(make_person(0, int(who)), pose, yaw, make_camera(0, 0), RNG, clean=True).image
                for pose, yaw in zip(poses, yaws, strict=True)
            ]
            for who in some.ids
        ]
    )
    assert compare_with_poses(some, drawn, poses) == 1
    assert compare_with_poses(some, np.roll(drawn, 1, axis=1), poses) < 0.2


def test_what_cannot_be_walked_through_is_refused_at_once(pipe):
    with pytest.raises(ValueError, match="at least 3 people, received 2"):
        run_walkthrough(pipe, [5, 6, 6])
    other = SimpleNamespace(identity_encoder=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="SmallEncoder; received a Linear"):
        run_walkthrough(other, range(3))


def test_the_figure_of_parts(tmp_path):
    with Image.open(draw_parts(tmp_path / "parts.png")) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * (320 + 64), 4 * 160, 3)
    for column in range(1, 4):  # every way of cutting differs from the others, and the two rows differ
        panel = slice(160 * column, 160 * (column + 1))
        assert (pixels[:320, panel] != pixels[:320, panel.start - 160 : panel.start]).any()
        assert (pixels[:320, panel] != pixels[384:704, panel]).any()
