"""The pictures of `pose2id evaluate --plot`: which queries, which answers, which identities; by value."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from pose2id import centralize, cli, evaluate, evaluate_features, rerank
from pose2id.programs import figures

RNG = np.random.default_rng(5)
CENTRES = RNG.normal(size=(10, 12))


def a_set(copies, noise, first):
    ids = np.repeat(np.arange(10), copies)
    features = (CENTRES[ids] + noise * RNG.normal(size=(len(ids), 12))).astype(np.float32)
    cams = np.tile(np.arange(copies), 10) + first
    return {
        "features": features,
        "ids": ids,
        "cams": cams,
        "paths": np.array([f"a/{n:03}.png" for n in range(len(ids))]),
    }


QUERY, GALLERY = a_set(2, 1.4, 0), a_set(4, 1.4, 1)
LABELS = QUERY["ids"], GALLERY["ids"], QUERY["cams"], GALLERY["cams"]
COMMAND = ["evaluate", "--query", "query.npz", "--gallery", "gallery.npz"]


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Two feature files with photographs; gives what the figures were drawn of."""
    monkeypatch.chdir(tmp_path)
    for name, data in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", **data)
        (tmp_path / name / "a").mkdir(parents=True)
        for row, path in enumerate(data["paths"]):
            Image.new("RGB", (4, 8), (row, 100, 200)).save(tmp_path / name / path)
    found = {}
    draw, plot, curves = figures.draw_sheet, figures.plots.plot_identities, figures.plots.plot_cmc

    def sheet(*arguments, **options):
        found["sheet"] = (*arguments, options)
        return draw(*arguments, **options)

    def identities(*arguments, **options):
        found["map"] = (*arguments, options)
        return plot(*arguments, **options)

    def cmc(scores):
        found["cmc"] = scores
        return curves(scores)

    monkeypatch.setattr(figures, "draw_sheet", sheet)
    monkeypatch.setattr(figures.plots, "plot_identities", identities)
    monkeypatch.setattr(figures.plots, "plot_cmc", cmc)
    return found


def test_pictures_show_what_was_scored(seen, tmp_path, capsys):
    assert cli.main([*COMMAND, "--centralize", "--rerank", "-q"]) == 0
    table = capsys.readouterr().out
    plot = ["--plot", "figures", "--images", "query", "gallery"]
    assert cli.main([*COMMAND, "--centralize", "--rerank", "-q", *plot]) == 0
    assert capsys.readouterr() == (f"{table}\nPictures in figures: cmc.png, identities.png, ranking.png\n", "")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(figures.PICTURES)

    given = QUERY["features"], GALLERY["features"]
    before = centralize(given[0], k1=0), centralize(given[1], k1=0)  # of length 1
    after = centralize(given[0]), centralize(given[1])
    scores = [evaluate_features(*before, *LABELS), evaluate_features(*after, *LABELS)]
    ends = evaluate_features(*given, *LABELS), evaluate(rerank(*after), *LABELS)
    assert [each.mAP for each in seen["cmc"].values()][:: len(seen["cmc"]) - 1] == [each.mAP for each in ends]

    headings, rankings, groups, options = seen["sheet"]
    assert headings == [
        ("length 1", f": mAP {100 * scores[0].mAP:.1f}"),
        ("centralized", f": mAP {100 * scores[1].mAP:.1f}"),
    ]
    gains = scores[1].average_precision - scores[0].average_precision
    for words, sign, count in (("AP rises most", 1, 5), ("AP falls most", -1, 2)):
        best = {}
        for row in sorted(np.flatnonzero(sign * gains > 0), key=lambda row, sign=sign: (-sign * gains[row], row)):
            best.setdefault(QUERY["ids"][row], row)
        assert groups.get(words, []) == list(best.values())[:count]
    tables = [np.linalg.norm(one[:, None].astype(float) - other, axis=2) for one, other in (before, after)]
    for ranking, distances, each in zip(rankings, tables, scores, strict=True):
        for row, (rows, right, precision) in ranking.items():
            order = np.argsort(distances[row], kind="stable")
            junk = (GALLERY["ids"] == QUERY["ids"][row]) & (GALLERY["cams"] == QUERY["cams"][row])
            np.testing.assert_array_equal(rows, order[~junk[order]])
            np.testing.assert_array_equal(right, GALLERY["ids"][rows] == QUERY["ids"][row])
            assert precision == pytest.approx(each.average_precision[row])
    assert options["gallery_images"][7][0, 0].tolist() == [7, 100, 200]
    assert options["query_images"][3].shape == (8, 4, 3)

    one, other, ids, options = seen["map"]
    np.testing.assert_array_equal(ids, np.concatenate([QUERY["ids"], GALLERY["ids"]]))
    np.testing.assert_allclose(one, np.concatenate(before), atol=1e-6)
    np.testing.assert_allclose(other, np.concatenate(after), atol=1e-6)
    assert options["titles"] == ("length 1", "centralized")
    assert len(options["show"]) == len(set(options["show"])) == 8
    assert options["images"][len(QUERY["ids"]) + 5][0, 0].tolist() == [5, 100, 200]


def test_one_thing_differs_in_what_is_compared(seen, capsys):
    plot = ["-q", "--overwrite", "--plot", "figures", "--images", "query", "gallery"]
    assert cli.main([*COMMAND, "--rerank", *plot]) == 0
    assert "identities.png" not in capsys.readouterr().out
    assert [name for name, _ in seen["sheet"][0]] == ["as given", "as given, re-ranked"]
    for data, name in ((QUERY, "query"), (GALLERY, "gallery")):
        np.savez(f"{name}.npz", **(data | {"features": centralize(data["features"], k1=0)}))
    assert cli.main([*COMMAND, "--centralize", "--rerank", *plot]) == 0
    assert [name for name, _ in seen["sheet"][0]] == ["as given", "centralized"]
    assert seen["map"][3]["titles"] == ("as given", "centralized")


def test_nothing_is_replaced_unasked(seen, tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "cmc.png").write_bytes(b"mine")
    assert cli.main([*COMMAND, "--plot", "figures"]) == 2
    assert capsys.readouterr().err.endswith("cmc.png exists already; name another folder or pass --overwrite\n")
    assert (tmp_path / "figures" / "cmc.png").read_bytes() == b"mine"
    assert not seen
    assert cli.main([*COMMAND, "--plot", "figures", "--overwrite", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pictures"] == ["figures/cmc.png"]
    assert "identities.png needs two rows to compare, such as those of --centralize\n" in err
    assert "ranking.png needs photographs: --images FOLDER" in err
    assert (tmp_path / "figures" / "cmc.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.usefixtures("seen")
def test_what_pictures_need_is_told_before_the_work(capsys, monkeypatch):
    np.savez("bare.npz", **{name: GALLERY[name] for name in ("features", "ids", "cams")})
    bare = ["evaluate", "--query", "query.npz", "--gallery", "bare.npz"]
    for command, words in (
        ([*COMMAND, "--images", "query"], "--images goes with --plot"),
        ([*COMMAND, "--overwrite"], "--overwrite goes with --plot"),
        ([*COMMAND, "--plot", "f", "--images", "a", "b", "c"], "one folder, or one for each feature file, received 3"),
        (
            [*COMMAND, "--plot", "f", "--images", "query/a"],
            "query/a/a/000.png is not a file; --images must be",
        ),
        ([*bare, "--plot", "f", "--images", "query"], "--images needs an array 'paths' in bare.npz, it holds none"),
        ([*COMMAND, "--plot", "query.npz"], "must be a folder, it is a file"),
    ):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert words in err
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main([*COMMAND, "--plot", "f"]) == 2
    line = "pose2id evaluate: --plot needs matplotlib, which is not installed: pip install 'pose2id[plots]'\n"
    assert capsys.readouterr() == ("", line)


def test_one_set_and_parts(seen, capsys):
    command = ["evaluate", "--features", "gallery.npz", "--plot", "one", "--images", "gallery", "--centralize"]
    assert cli.main(command) == 0
    _, (before, after), groups, _ = seen["sheet"]
    scores = evaluate_features(centralize(GALLERY["features"], k1=0), None, GALLERY["ids"], None, GALLERY["cams"])
    assert groups
    for row, ranking in before.items():
        assert row not in ranking.rows
        assert ranking.average_precision == pytest.approx(scores.average_precision[row])
        assert row not in after[row].rows
    capsys.readouterr()
    for name, data in (("query", QUERY), ("gallery", GALLERY)):
        parts = np.stack([data["features"], data["features"][:, ::-1]], axis=1)
        np.savez(
            f"{name}.npz",
            **{of: data[of] for of in ("ids", "cams", "paths")},
            parts=parts,
            visibility=RNG.random(parts.shape[:2]) < 0.9,
        )
    assert cli.main([*COMMAND, "--plot", "parts", "--images", "query", "gallery", "--centralize", "--rerank"]) == 0
    out, err = capsys.readouterr()
    assert "identities.png needs features (N, D), not parts" in err
    assert out.endswith("Pictures in parts: cmc.png, ranking.png\n")
    rows = list(seen["cmc"].values())
    for view, scores in zip(seen["sheet"][1], (rows[0], rows[1]), strict=True):
        for row, ranking in view.items():
            assert ranking.average_precision == pytest.approx(scores.average_precision[row])
