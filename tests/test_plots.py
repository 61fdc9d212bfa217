"""Figures: what they show is read back from the artists and compared by value."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from reference import evaluation as reference

from pose2id import MissingExtraError, centralize, evaluate, id_density

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from pose2id.plots import plot_cmc, plot_identities, plot_ranking  # noqa: E402
from pose2id.plots.lettering import measure, shorten, wrap  # noqa: E402

GREEN, RED, INK = "#009e73", "#c8203a", "#1f2933"


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def task():
    """Random distances of 6 queries to 30 gallery items, with junk, cameras and an unmatched query."""
    rng = np.random.default_rng(2)
    query_ids, gallery_ids = np.array([0, 1, 2, 3, 4, 99]), rng.integers(-1, 5, 30)
    query_cams, gallery_cams = rng.integers(0, 3, 6), rng.integers(0, 3, 30)
    return rng.random((6, 30)), query_ids, gallery_ids, query_cams, gallery_cams


@pytest.fixture
def images():
    """Grey pictures whose level tells the row: item i has i / 100, query q has 0.9 + q / 100."""
    gallery = [np.full((4, 2), i / 100) for i in range(30)]
    query = [np.full((4, 2), 0.9 + q / 100) for q in range(6)]
    return {"query_images": query, "gallery_images": gallery}


def frames(figure):
    """Frames as (colour, dashed), by line from the top and then from the left; the query comes first."""
    found: dict[float, list[tuple[float, str, bool]]] = {}
    for patch in figure.axes[0].patches:
        assert isinstance(patch, Rectangle)
        colour = matplotlib.colors.to_hex(patch.get_edgecolor())
        dashed = patch.get_linestyle() not in ("-", "solid")
        found.setdefault(round(patch.get_y(), 6), []).append((patch.get_x(), colour, dashed))
    return [[entry[1:] for entry in sorted(found[y])] for y in sorted(found)]


def levels(figure):
    """Grey levels of the pictures, ordered as in `frames`, in hundredths."""
    found: dict[float, list[tuple[float, float]]] = {}
    for image in figure.axes[0].images:
        left, _, _, upper = image.get_extent()
        found.setdefault(round(upper, 6), []).append((left, float(np.asarray(image.get_array())[0, 0, 0])))
    return [[round(100 * level) for _, level in sorted(found[y])] for y in sorted(found)]


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts] + [t.get_text() for t in figure.texts]


# CMC


def test_cmc_draws_the_scores(task):
    distances, *labels = task
    scores = {"one": evaluate(distances, *labels), "two": evaluate(-distances, *labels)}
    ax = plot_cmc(scores, top=12, title="Curves")
    assert len(ax.lines) == 2
    for line, result in zip(ax.lines, scores.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 13))
        np.testing.assert_allclose(line.get_ydata(), 100 * result.cmc[:12])
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    for text, (name, result) in zip(legend, scores.items(), strict=True):
        assert name in text
        assert f"mAP {100 * result.mAP:.2f}" in text
        assert f"rank-1 {100 * result.rank(1):.2f}" in text
    assert ax.get_title(loc="left") == "Curves"


def test_cmc_past_the_longest_list_stays_level():
    scores = evaluate(np.array([[0.1, 0.2, 0.3]]), [1], [0, 1, 0])
    assert plot_cmc({"short": scores}, top=6).lines[0].get_ydata().tolist() == [0, 100, 100, 100, 100, 100]


def test_cmc_uses_the_given_axes():
    figure = Figure()
    own = figure.add_subplot()
    scores = evaluate(np.array([[0.1, 0.2]]), [1], [1, 0])
    assert plot_cmc({"a": scores}, own) is own
    assert plot_cmc({"a": scores}, ax=own) is own
    assert len(own.lines) == 2


@pytest.mark.parametrize(
    ("scores", "top", "error", "message"),
    [
        ({}, 20, ValueError, "scores is empty"),
        ("evaluated", 20, TypeError, "scores must be a mapping"),
        (None, 0, ValueError, "top must be"),
        (None, 2.5, TypeError, "top must be"),
    ],
)
def test_cmc_refuses(scores, top, error, message):
    result = evaluate(np.array([[0.1, 0.2]]), [1], [1, 0])
    given = {"a": result} if scores is None else result if scores == "evaluated" else scores
    with pytest.raises(error, match=message):
        plot_cmc(given, top=top)


# Ranking sheet


@pytest.mark.parametrize("protocol", ["market1501", "all"])
def test_ranking_shows_the_answers_of_the_protocol(task, images, protocol):
    distances, query_ids, gallery_ids, query_cams, gallery_cams = task
    blocks = {"before": distances, "after": 1 - distances}
    figure = plot_ranking(
        blocks, query_ids, gallery_ids, query_cams, gallery_cams, queries=[4, 0], top=8, protocol=protocol, **images
    )
    expected_frames, expected_levels, expected_scores = [], [], []
    for query in (4, 0):
        row_frames, row_levels = [(INK, False)], [90 + query]
        for table in blocks.values():
            order = sorted(range(30), key=lambda item: (table[query, item], item))
            for item in [item for item in order if gallery_ids[item] != -1]:
                same = gallery_ids[item] == query_ids[query]
                if protocol == "market1501" and same and gallery_cams[item] == query_cams[query]:
                    continue
                row_frames.append((GREEN, False) if same else (RED, True))
                row_levels.append(item)
                if (len(row_frames) - 1) % 8 == 0:
                    break
            one = slice(query, query + 1)
            scores = reference.evaluate(
                table[one], query_ids[one], gallery_ids, query_cams[one], gallery_cams, protocol=protocol
            )
            expected_scores.append(f"AP {100 * scores.mAP:.0f}")
        expected_frames.append(row_frames)
        expected_levels.append(row_levels)
    assert frames(figure) == expected_frames
    assert levels(figure) == expected_levels
    written = texts(figure)
    assert [text for text in written if text.startswith("AP ")] == expected_scores
    for name, table in blocks.items():
        scores = reference.evaluate(table, query_ids, gallery_ids, query_cams, gallery_cams, protocol=protocol)
        assert f"{name}: mAP {100 * scores.mAP:.1f}" in written


def test_ranking_leaves_out_what_is_ignored(task, images):
    distances, *labels = task
    mask = np.random.default_rng(0).random((6, 30)) < 0.5
    figure = plot_ranking(
        {"base": distances},
        *labels,
        queries=[4, 0],
        top=30,
        ignore=lambda query, gallery: mask[query["rows"]] & (gallery["clothes"] == query["clothes"]),
        labels={"clothes": (np.zeros(6, int), np.zeros(30, int))},
        **images,
    )
    assert set(levels(figure)[0][1:]) <= set(np.flatnonzero(~mask[4]))
    scores = reference.evaluate(distances, *labels, ignored=mask)
    assert f"base: mAP {100 * scores.mAP:.1f}" in texts(figure)


def test_ranking_orders_ties_by_gallery_index(images):
    table = np.array([[0.5] * 30])
    figure = plot_ranking(
        {"tied": table},
        ["x"],
        ["x"] * 30,
        queries=[0],
        top=5,
        query_images=images["query_images"][:1],
        gallery_images=images["gallery_images"],
    )
    assert levels(figure) == [[90, 0, 1, 2, 3, 4]]


def test_ranking_of_a_query_without_a_match(task, images):
    distances, *labels = task
    figure = plot_ranking({"base": distances}, *labels, queries=[5], top=3, **images)
    assert frames(figure) == [[(INK, False), *[(RED, True)] * 3]]
    assert "no\nmatch" in texts(figure)


def test_ranking_shows_all_of_a_short_list(task, images):
    distances, query_ids, *_ = task
    figure = plot_ranking(
        {"base": distances[:, :3]},
        query_ids,
        [0, 1, 2],
        queries=[1],
        top=10,
        query_images=images["query_images"],
        gallery_images=images["gallery_images"][:3],
    )
    assert len(frames(figure)[0]) == 1 + 3


def test_ranking_headings_title_and_caption(task, images):
    distances, *labels = task
    figure = plot_ranking(
        {"base": distances},
        *labels,
        queries={"rises": [0, 1], "falls": [2]},
        title="A title",
        caption="A caption",
        **images,
    )
    assert {"rises", "falls", "A title", "A caption"} <= set(texts(figure))
    assert len(frames(figure)) == 3


def test_two_blocks_of_ten_are_1600_pixels_wide(task, images):
    distances, *labels = task
    figure = plot_ranking({"a": distances, "b": distances}, *labels, queries=[0], **images)
    assert int.from_bytes(png(figure)[16:20], "big") == 1600


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int64"])
def test_ranking_takes_tensors(task, images, kind, device):
    distances, *labels = task
    tensor = torch.tensor(distances * 100).to(getattr(torch, kind))
    figure = plot_ranking({"base": tensor.to(device)}, *labels, queries=[2], top=10, **images)
    exact = plot_ranking({"base": tensor.double().numpy()}, *labels, queries=[2], top=10, **images)
    assert levels(figure) == levels(exact)


def test_ranking_takes_string_labels(task, images):
    distances, *labels = task
    by_number = plot_ranking({"base": distances}, *labels, queries=[0, 1], **images)
    by_name = plot_ranking(
        {"base": distances}, *([str(label) for label in array] for array in labels), queries=[0, 1], **images
    )
    assert frames(by_name) == frames(by_number)
    assert levels(by_name) == levels(by_number)


def test_pictures_of_every_form_are_drawn():
    grey = np.linspace(0, 1, 12).reshape(4, 3)
    forms = [
        grey > 0.5,
        (grey * 255).astype(np.uint8),
        grey,
        grey.astype(np.float32),
        np.repeat(grey[..., None], 3, axis=2),
        np.repeat(grey[..., None], 4, axis=2),
        np.ones((2, 9, 3)),  # wider than the others: fitted into the frame
        grey.tolist(),
    ]
    n = len(forms)
    figure = plot_ranking(
        {"base": np.arange(n)[None] / n},
        [0],
        [0] * n,
        queries=[0],
        query_images=forms[:1],
        gallery_images=forms,
        top=n,
    )
    first, *drawn = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert {array.shape[2] for array in drawn} == {4}
    np.testing.assert_array_equal(first, drawn[0])
    np.testing.assert_array_equal(drawn[0][..., 3], forms[0])  # ink is opaque, paper is clear
    np.testing.assert_allclose(drawn[1][..., 0], grey, atol=1 / 255)
    np.testing.assert_array_equal(drawn[2][..., :3], np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(drawn[7], drawn[2])
    for patch, image in zip(figure.axes[0].patches, figure.axes[0].images, strict=True):
        left, right, lower, upper = image.get_extent()
        height, width = np.asarray(image.get_array()).shape[:2]
        assert (lower - upper) / (right - left) == pytest.approx(height / width)
        assert patch.get_x() <= left < right <= patch.get_x() + patch.get_width() + 1e-9
        assert patch.get_y() - 1e-9 <= upper < lower <= patch.get_y() + patch.get_height() + 1e-9


BAD_RANKINGS = {
    "no matrix": ({"distances": {}}, ValueError, "distances is empty"),
    "a bare matrix": ({"distances": np.zeros((6, 30))}, TypeError, "distances must be a mapping"),
    "a list": ({"distances": {"a": [[0.0]]}}, TypeError, r"distances\['a'\] must be a numpy array"),
    "wrong shape": ({"distances": {"a": np.zeros((6, 29))}}, ValueError, r"shape \(6, 30\); received \(6, 29\)"),
    "NaN": ({"distances": {"a": np.full((6, 30), np.nan)}}, ValueError, "finite|NaN"),
    "no query": ({"queries": []}, ValueError, "queries is empty"),
    "no query under headings": ({"queries": {"a": []}}, ValueError, "queries is empty"),
    "a query too far": ({"queries": [0, 6]}, ValueError, "rows 0 to 5, received 6"),
    "a negative query": ({"queries": [-1]}, ValueError, "queries must be"),
    "half a query": ({"queries": [0.5]}, TypeError, "queries must be"),
    "top 0": ({"top": 0}, ValueError, "top must be"),
    "unknown protocol": ({"protocol": "market"}, ValueError, "protocol must be"),
    "missing labels": ({"query_ids": [0, 1]}, ValueError, "query_ids must have"),
    "one side of cameras": ({"query_cams": None}, ValueError, "must be given together"),
    "a picture of five channels": ({"image": np.zeros((2, 2, 5))}, ValueError, r"received \(2, 2, 5\)"),
    "an empty picture": ({"image": np.zeros((0, 2))}, ValueError, r"received \(0, 2\)"),
    "a bool picture in colour": ({"image": np.zeros((2, 2, 3), bool)}, ValueError, "bool image"),
    "a picture of 0 to 255 floats": ({"image": np.full((2, 2), 255.0)}, ValueError, r"floats in \[0, 1\]"),
    "a NaN picture": ({"image": np.full((2, 2), np.nan)}, ValueError, r"floats in \[0, 1\]"),
    "a picture of int64": ({"image": np.ones((2, 2), int)}, ValueError, "received int64"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_RANKINGS.values(), ids=BAD_RANKINGS.keys())
def test_ranking_refuses(task, images, change, error, message):
    distances, query_ids, gallery_ids, query_cams, gallery_cams = task
    given = {
        "distances": {"base": distances},
        "query_ids": query_ids,
        "gallery_ids": gallery_ids,
        "query_cams": query_cams,
        "gallery_cams": gallery_cams,
        "queries": [0],
        **images,
        **change,
    }
    if "image" in change:
        given["query_images"] = [given.pop("image"), *images["query_images"][1:]]
    with pytest.raises(error, match=message):
        plot_ranking(**given)


# Map of identities


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(7), 6)
    features = rng.normal(size=(7, 10))[ids] + 0.4 * rng.normal(size=(42, 10))
    features = features * rng.uniform(0.5, 20, (42, 1))  # not normalised
    return features, centralize(features), ids


def dots(ax):
    return [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]


def test_identities_are_projected_by_the_plane_of_the_centres_before(samples):
    before, after, ids = samples
    show = [1, 3, 4, 6]
    figure = plot_identities(before, after, ids, show=show)
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    centres = np.stack([unit[ids == identity].mean(axis=0) for identity in show])
    # Independent of signs and of the order of the two directions: distances on the plane, and what it holds.
    covariance = (centres - centres.mean(axis=0)).T @ (centres - centres.mean(axis=0))
    values, vectors = np.linalg.eigh(covariance)
    for ax, features in zip(figure.axes, (before, after), strict=True):
        rows = features / np.linalg.norm(features, axis=1, keepdims=True)
        expected = np.concatenate([rows[ids == identity] for identity in show]) @ vectors[:, -2:]
        drawn = np.concatenate(dots(ax))
        np.testing.assert_allclose(
            np.linalg.norm(drawn[:, None] - drawn, axis=2),
            np.linalg.norm(expected[:, None] - expected, axis=2),
            atol=1e-9,
        )
    share = 100 * values[-2:].sum() / values.sum()
    assert any(f"holds {share:.0f} %" in text for text in texts(figure))


def test_identities_of_tensors(samples, device):
    before, after, ids = samples
    tensors = (torch.tensor(rows, device=device) for rows in (before, after))
    figures = plot_identities(*tensors, ids, show=[1, 3, 4]), plot_identities(before, after, ids, show=[1, 3, 4])
    one, other = ([line.get_xydata() for ax in figure.axes for line in ax.lines] for figure in figures)
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(other), atol=1e-5)


def test_identities_lines_lead_from_the_centre_to_each_sample(samples):
    before, after, ids = samples
    figure = plot_identities(before, after, ids, show=[0, 1, 2])
    for ax in figure.axes:
        clouds = dots(ax)
        spokes = [line.get_xydata() for line in ax.lines if line.get_marker() != "o"]
        assert len(spokes) == 18
        ends = np.stack([spoke[1] for spoke in spokes])
        starts = np.stack([spoke[0] for spoke in spokes])
        np.testing.assert_allclose(ends, np.concatenate(clouds))
        np.testing.assert_allclose(starts, np.repeat([cloud.mean(axis=0) for cloud in clouds], 6, axis=0))


def test_panels_share_limits_and_hold_every_point(samples):
    figure = plot_identities(*samples, show=[0, 2, 5])
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    for ax in figure.axes:
        drawn = np.concatenate(dots(ax))
        assert (drawn > [ax.get_xlim()[0], ax.get_ylim()[0]]).all()
        assert (drawn < [ax.get_xlim()[1], ax.get_ylim()[1]]).all()


def test_identities_titles_name_the_density_of_all_rows(samples):
    before, after, ids = samples
    figure = plot_identities(before, after, ids, show=[0, 1, 2], titles=("Raw", "NFC"), title="T", caption="C")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [f"Raw: ID² {id_density(before, ids):.3f}", f"NFC: ID² {id_density(after, ids):.3f}"]
    written = texts(figure)
    assert "T" in written
    assert any(text.endswith("\nC") for text in written)


def test_identities_are_named_or_pictured_in_the_same_place(samples):
    before, after, ids = samples
    names = [f"person {i}" for i in ids]
    show = ["person 4", "person 0", "person 2"]
    figure = plot_identities(before, after, names, show=show)
    places = [[(text.get_text(), text.get_position()) for text in ax.texts] for ax in figure.axes]
    assert [name for name, _ in places[0]] == show
    assert places[0] == places[1]
    images = np.stack([np.full((4, 2), row / 50) for row in range(42)])
    figure = plot_identities(before, after, ids, show=[4, 0, 2], images=images)
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    for ax in figure.axes:
        shown = [
            round(50 * float(np.asarray(box.offsetbox.get_data())[0, 0, 0]))
            for box in ax.artists
            if hasattr(box, "offsetbox")
        ]
        expected = []
        for identity in (4, 0, 2):
            rows = np.flatnonzero(ids == identity)
            centre = unit[rows].mean(axis=0)
            expected.append(int(rows[np.argmin(np.linalg.norm(unit[rows] - centre, axis=1))]))
        assert shown == expected


def test_identities_of_one_dimension_and_of_one_point_are_drawn():
    ids = [0, 1, 2, 0, 1, 2]
    narrow = np.array([[1.0], [-1.0], [2.0], [3.0], [-2.0], [1.0]])
    assert png(plot_identities(narrow, narrow, ids, show=[0, 1, 2]))
    same = np.ones((6, 3), dtype=np.float32)
    assert png(plot_identities(torch.tensor(same), torch.tensor(same), ids, show=[0, 1, 2]))


BAD_MAPS = {
    "two identities": ({"show": [0, 1]}, ValueError, "at least three identities.*received 2"),
    "an absent identity": ({"show": [0, 1, 70]}, ValueError, "identity 70, which is not in ids"),
    "other rows": ({"after": np.ones((41, 10))}, ValueError, "same shape"),
    "fewer labels": ({"ids": [0, 1, 2]}, ValueError, "ids must have"),
    "fewer pictures": ({"images": np.ones((3, 2, 2))}, ValueError, "one entry per row, 42; received 3"),
    "NaN": ({"before": np.full((42, 10), np.nan)}, ValueError, "before"),
    "integers": ({"before": np.ones((42, 10), int)}, TypeError, "before"),
    "one row": ({"before": np.ones(10)}, ValueError, "before"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_MAPS.values(), ids=BAD_MAPS.keys())
def test_identities_refuse(samples, change, error, message):
    before, after, ids = samples
    with pytest.raises(error, match=message):
        plot_identities(**{"before": before, "after": after, "ids": ids, "show": [0, 1, 2], **change})


# Texts of any length

WORDS = {
    "letters": "Strong baseline, circle loss and a very long name of what was changed in it since the last run, no. ",
    "wide": "W" * 119,
    "Greek": "Επαναταυτοποίηση προσώπων με γεννημένα χαρακτηριστικά και γείτονες, πολύ μεγάλο όνομα εικόνας, αριθμός ",
    "Chinese": "行人重识别特征中心化方法" * 10,
    "marks": "_is hidden, $x_1$ of\na $name_that^is none$ " * 4,
}


def name(word, length, number):
    """A name of so many letters that differs by number."""
    return (WORDS[word] * 2)[: length - 1] + str(number)


def boxes(figure):
    """Text and bounds in pixels of all that is written; it lies in the figure, and nothing on another."""
    figure.draw_without_rendering()
    found = []
    outside = {  # ticks that matplotlib keeps but does not draw
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in outside:
            extent = text.get_window_extent()
            found.append((text.get_text(), np.array([extent.x0, extent.y0, extent.x1, extent.y1])))
    width, height = figure.bbox.width, figure.bbox.height
    for words, (x0, y0, x1, y1) in found:
        assert 0 <= x0 < x1 <= width, (words, x0, x1, width)
        assert 0 <= y0 < y1 <= height, (words, y0, y1, height)
    for i, (words, one) in enumerate(found):
        for other_words, other in found[:i]:
            apart = (one[:2] >= other[2:]) | (other[:2] >= one[2:])
            assert apart.any(), (words, other_words)
    return found


CASES = [("letters", 1), ("letters", 120), ("wide", 120), ("Greek", 120), ("Chinese", 120), ("marks", 60)]


@pytest.mark.filterwarnings("ignore:.*Glyph:UserWarning")
@pytest.mark.parametrize(("word", "length"), CASES)
def test_names_neither_overlap_nor_leave_the_picture(task, images, samples, word, length):
    distances, *labels = task
    names = [name(word, length, n) for n in range(2)]
    scores = dict.fromkeys(names, evaluate(distances, *labels))
    found = boxes(plot_cmc(scores, title=names[0]).figure)
    assert sum("mAP" in words and "rank-1" in words for words, _ in found) == 2
    own = Figure(figsize=(3.2, 2.4)).add_axes((0.2, 0.25, 0.75, 0.6))
    boxes(plot_cmc(scores, own).figure)

    shown = {names[0]: [0, 1], names[1]: [2]}
    figure = plot_ranking(
        dict.fromkeys(names, distances), *labels, queries=shown, title=names[0], caption=names[1], top=3, **images
    )
    found = [words for words, _ in boxes(figure)]
    value = f": mAP {100 * evaluate(distances, *labels).mAP:.1f}"
    assert sum(words.endswith(value) for words in found) == 2
    assert figure.bbox.width / figure.dpi < 8.1

    before, after, ids = samples
    people = [name(word, length, who) for who in range(7)]
    figure = plot_identities(
        before,
        after,
        [people[who] for who in ids],
        show=people,
        titles=names,
        title=names[0],
        caption=names[1],
    )
    found = [words for words, _ in boxes(figure)]
    assert sum(f": ID² {id_density(x, ids):.3f}" in words for x in (before, after) for words in found) == 2
    for end in "0123456":  # a name that is cut keeps its end
        assert sum(words.endswith(end) for words in found) >= 2


def test_many_curves_have_their_names_below(task):
    distances, *labels = task
    scores = {name("letters", 120, n): evaluate(distances, *labels) for n in range(20)}
    ax = plot_cmc(scores)
    boxes(ax.figure)
    assert len(ax.get_legend().get_texts()) == 20
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 20
    top = max(text.get_window_extent().y1 for text in ax.get_legend().get_texts())
    assert top < ax.get_window_extent().y0


@pytest.mark.parametrize(("count", "below"), [(4, False), (5, True)])
def test_five_names_stand_below_the_curves(task, count, below):
    distances, *labels = task
    scores = {f"setting {n}": evaluate(distances, *labels) for n in range(count)}
    ax = plot_cmc(scores)
    boxes(ax.figure)
    top = max(text.get_window_extent().y1 for text in ax.get_legend().get_texts())
    assert (top < ax.get_window_extent().y0) == below


def test_a_sheet_of_one_query_has_no_mean(task, images):
    distances, *labels = task
    one = [text for text, _ in boxes(plot_ranking({"base": distances}, *labels, queries=[2], **images))]
    assert "base" in one
    assert not any("mAP" in text for text in one)


def test_a_map_of_many_identities_shows_fewer_and_says_so():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(30), 4)
    features = rng.normal(size=(30, 12))[ids] + 0.3 * rng.normal(size=(120, 12))
    figure = plot_identities(
        features,
        centralize(features),
        [f"person number {i}" for i in ids],
        show=[f"person number {i}" for i in range(30)],
    )
    found = [words for words, _ in boxes(figure)]
    assert sum(words.startswith("person number") for words in found) == 2 * 16
    assert any("The first 16 of 30 identities" in words for words in found)
    for ax in figure.axes:
        clouds = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert len({(line.get_color(), line.get_marker()) for line in clouds}) == 16
    pictures = plot_identities(features, centralize(features), ids, show=range(30), images=np.zeros((120, 8, 4)))
    pictures.draw_without_rendering()
    for ax in pictures.axes:
        extents = [box.get_window_extent() for box in ax.artists if hasattr(box, "offsetbox")]
        assert len(extents) == 16
        assert not any(one.overlaps(other) for i, one in enumerate(extents) for other in extents[:i])
        assert all(ax.get_window_extent().containsx(e.x0) and ax.get_window_extent().containsx(e.x1) for e in extents)


def test_texts_are_shortened_in_the_middle_and_broken_into_lines():
    assert shorten("short", 2, 10) == "short"
    line = shorten("a" * 60 + "z" * 60, 2, 10)
    assert re.fullmatch(r"a+…z+", line)
    assert 1.8 < measure(line, 10) <= 2
    assert shorten("anything", 0.01, 10) == "…"
    text = wrap("some words in a long line " * 6 + "x" * 80, 2, 10)
    assert text.replace("\n", "").replace(" ", "") == ("somewordsinalongline" * 6 + "x" * 80)
    assert all(measure(line, 10) <= 2 for line in text.split("\n"))
    assert wrap("two\n  lines", 2, 10) == "two\n  lines"


# matplotlib itself


def test_global_state_of_matplotlib_is_left_alone(task, samples, images):
    before = dict(matplotlib.rcParams)
    distances, *labels = task
    png(plot_ranking({"base": distances}, *labels, queries=[0], **images))
    png(plot_identities(*samples, show=[0, 1, 2]))
    png(plot_cmc({"base": evaluate(distances, *labels)}).figure)
    assert dict(matplotlib.rcParams) == before


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot():
    program = """
import sys
import numpy as np
import pose2id.plots
assert "matplotlib" not in sys.modules
from pose2id import evaluate
pose2id.plots.plot_cmc({"a": evaluate(np.array([[0.1]]), [0], [0])}).figure.savefig(sys.stdout.buffer)
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")


class NoMatplotlib:
    """An import finder for which matplotlib is not installed."""

    def find_spec(self, name, _path=None, _target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_matplotlib_the_extra_is_named(monkeypatch, samples):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoMatplotlib(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"not installed: pip install 'pose2id\[plots\]'"):
        plot_identities(*samples, show=[0, 1, 2])
