"""The report: what it says equals what is measured elsewhere, whatever the data; and it works in a real browser."""

import html
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from support.pictures import smooth_pictures

pytest.importorskip("jinja2")

from support.browser import Page, find_browser

from pose2id import evaluate_features
from pose2id.cli import main
from pose2id.datasets import load_demo
from pose2id.report import contents as report_contents
from pose2id.report import write_report
from pose2id.report.drawing import draw_curves, draw_histogram
from pose2id.report.pictures import Pictures
from pose2id.study import FeatureSet, Setting, assess, centralize_sets, run_study

AFTER = Setting("centralized", k1=3, k2=3, alpha=4, other_cameras=True)
ODD = '"><script>document.title = "broken"</script> Łódź 東京 \'.png'


def make_sets(q=20, g=80, people=12, d=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, d))
    sets = []
    for n in (q, g):
        ids = np.arange(n) % people
        features = (centres[ids] + 0.8 * rng.standard_normal((n, d))).astype(np.float32)
        sets.append(FeatureSet(features, ids, rng.integers(0, 3, n)))
    return sets


def text_of(path):
    return path.read_text(encoding="utf-8")


def table_of(page):
    """The rows of the first table, as lists of cells."""
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def test_numbers_are_those_of_evaluate(tmp_path):
    query, gallery = make_sets()
    page = text_of(write_report(query, gallery, tmp_path / "a.html", AFTER))
    assert re.search(r'</label>\s+<span id="count"', page)
    rows = {name: cells for name, *cells in table_of(page)}
    assert list(rows) == [
        "as given",
        "length 1",
        "as published, k1 = k2 = 2",
        "centralized",
        "length 1, re-ranked",
        "centralized, re-ranked",
    ]
    labels = (query.ids, gallery.ids, query.cams, gallery.cams)
    scores = evaluate_features(query.features, gallery.features, *labels)
    assert rows["as given"][0] == f"{100 * scores.mAP:.2f}"
    assert rows["as given"][3] == f"{100 * scores.rank(1):.2f}"
    one, other = centralize_sets(query, gallery, AFTER)
    after = evaluate_features(one, other, *labels)
    assert rows["centralized"][0] == f"{100 * after.mAP:.2f}"
    settings = [Setting("x", k1=3, k2=3, alpha=4, other_cameras=True, reranked=True), Setting("y", reranked=True)]
    row, base = run_study(query, gallery, settings)
    assert rows["centralized, re-ranked"][0] == f"{100 * row.mAP:.2f}"
    assert rows["length 1, re-ranked"][0] == f"{100 * base.mAP:.2f}"
    base = evaluate_features(query.features, gallery.features, *labels, metric="cosine")
    change = after.average_precision - base.average_precision
    means = [change[query.ids == who].mean() for who in np.unique(query.ids)]
    assert f"{100 * np.mean(change):+.2f} points" in page
    assert f"standard error of {100 * np.std(means, ddof=1) / len(means) ** 0.5:.2f}" in page


@pytest.mark.parametrize(
    ("gain", "word"), [((0.03, 0.01), "helps"), ((-0.03, 0.01), "hurts"), ((0.015, 0.01), "Unclear")]
)
def test_the_verdict_is_beyond_its_error(tmp_path, monkeypatch, gain, word):
    monkeypatch.setattr(report_contents, "compare_scores", lambda *_: gain)
    page = text_of(write_report(*make_sets(), tmp_path / "a.html", AFTER))
    assert word in re.search(r'id="verdict">(.*?)</p>', page)[1]


def test_shown_rankings_are_right():
    query, gallery = make_sets()
    found = report_contents.gather(query, gallery, AFTER, labelled=True, count=5)
    one, other = centralize_sets(query, gallery, AFTER)
    for shown in found.shown:
        junk = (gallery.ids == query.ids[shown.query]) & (gallery.cams == query.cams[shown.query])
        order = [row for row in np.argsort(-(one @ other.T)[shown.query], kind="stable") if not junk[row]][:10]
        assert [row for row, _ in shown.views["after"]] == order
        assert [right for _, right in shown.views["after"]] == [gallery.ids[i] == query.ids[shown.query] for i in order]
    gains = [abs(shown.gain) for shown in found.shown]
    assert gains == sorted(gains, reverse=True)
    everyone = report_contents.gather(query, gallery, AFTER, labelled=True, count=100)
    assert len(everyone.shown) == 20
    assert max(abs(x.gain) for x in everyone.shown) == gains[0]
    right = np.histogram([], 60)[0] + np.array(found.histograms[0]["series"]["right"])
    assert right.sum() == pytest.approx(1)
    stats = found.cameras[-1]
    assert stats["rows"] == 80
    assert stats["elsewhere"] == 1


def test_without_labels(tmp_path):
    query, gallery = make_sets()
    plain = [FeatureSet(data.features, np.zeros(len(data.features), int)) for data in (query, gallery)]
    path = write_report(*plain, tmp_path / "a.html", Setting("x", k1=2, k2=2), labelled=False)
    page = text_of(path)
    assert "cannot say whether it helps" in page
    assert "tell more: --audit 60." in page
    assert "other cameras" not in page
    assert [row[4] for row in table_of(page)] == ["–"]  # from another camera
    cams = [FeatureSet(data.features, data.ids, full.cams) for data, full in zip(plain, (query, gallery), strict=True)]
    page = text_of(write_report(*cams, tmp_path / "b.html", Setting("x", k1=2, k2=2), labelled=False))
    assert "how many neighbours come from other cameras" in page
    assert "3 of the gallery&#39;s cameras, before" in page
    assert "a letter is one camera." in page
    assert '<h2 id="scores">' not in page
    assert "identity" not in re.search(r'<ul class="queries">(.*?)</ul>', page, re.S)[1]


def test_the_verdict_without_labels_is_that_of_assess(tmp_path):
    data = load_demo()
    both = (data.query, data.gallery)
    plain = [FeatureSet(data.features[at], [0] * len(data.ids[at]), data.cams[at]) for at in both]
    page = text_of(write_report(*plain, tmp_path / "a.html", AFTER, labelled=False, count=1))
    verdict = re.search(r'id="verdict">(.*?)</p>', page, re.S)[1]
    assert "the recommended setting helps, the published setting helps" in verdict
    assert "perhaps 98% are of one identity (71% to 100%" in verdict
    assert "cannot say" not in verdict


def test_the_precision_stands_beside_the_verdict(tmp_path):
    query, gallery = make_sets()
    page = text_of(write_report(query, gallery, tmp_path / "a.html", AFTER, count=1))
    known = assess(gallery.features, ids=gallery.ids)
    low, high = known.interval
    assert f"{known.precision:.0%} are of one identity ({low:.0%} to {high:.0%})" in page


def test_junk_does_not_count_among_the_mutual_neighbours():
    """Rows labelled -1 are of nobody, not of somebody unknown: 96 % are right, not 91 %."""
    data, rng = load_demo(), np.random.default_rng(0)
    features, ids, cams = (part[data.gallery] for part in (data.features, data.ids, data.cams))
    far = 0.1 * rng.standard_normal((1500, 32)).astype(np.float32)
    junk = FeatureSet(
        np.vstack([features, far]), np.append(ids, [-1] * 1500), np.append(cams, rng.integers(0, 6, 1500))
    )
    query = FeatureSet(*(part[data.query] for part in (data.features, data.ids, data.cams)))
    found = report_contents.gather(query, junk, Setting("x", k1=2, k2=2), labelled=True, reranked=False, count=1)
    known = assess(features, ids=ids)
    assert found.counted.precision == pytest.approx(known.precision, abs=0.01)
    assert found.counted.interval == pytest.approx(known.interval, abs=0.02)
    assert found.counted.precision == pytest.approx(found.cameras[-1]["right"])


def test_rows_of_zeros_are_nobodys_neighbours():
    twins = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0) + 0.01 * np.eye(8, 4, dtype=np.float32)
    both = [FeatureSet(np.vstack([twins, np.zeros((2, 4), np.float32)]), np.arange(10) // 2) for _ in range(2)]
    found = report_contents.gather(*both, Setting("x", k1=1, k2=1), labelled=True, protocol="all", reranked=False)
    (stats,) = found.cameras
    assert (stats["rows"], stats["linked"], stats["each"], stats["right"]) == (10, 0.8, 0.8, 1)


@pytest.mark.parametrize("kind", [int, str])
def test_junk_is_of_no_identity(tmp_path, kind):
    places = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0) + 0.01 * np.eye(8, 4, dtype=np.float32)
    ids = np.array([-1, -1, 1, 2, 3, 3, 0, 0]).astype(kind)  # twins: junk, two people, one, distractors
    both = [FeatureSet(places, ids) for _ in range(2)]
    found = report_contents.gather(*both, Setting("x", k1=1, k2=1), labelled=True, protocol="all", reranked=False)
    (stats,) = found.cameras
    assert stats["each"] == 1
    assert stats["right"] == 4 / 6
    near = {kind: shares[0] for kind, shares in found.histograms[0]["series"].items()}
    assert near == {"right": 1, "wrong": pytest.approx(2 / 26)}
    page = text_of(write_report(*both, tmp_path / "a.html", Setting("x", k1=1, k2=1), protocol="all"))
    assert "leaves out rows labelled -1" in page
    assert "of the gallery&#39;s identities, before" in page


def test_names_that_are_no_text_are_shown_as_on_a_terminal(tmp_path):
    query, gallery = make_sets(2, 4, 2)
    names = ["a\u202eb", "line\nend", "bad\udcff", "Łódź 東京 مرحبا"]
    labels = FeatureSet(gallery.features, np.array(["x\x1b[1m", "y"] * 2), np.array(["c\u2067"] * 4))
    ask = FeatureSet(query.features, np.array(["x\x1b[1m", "y"]), np.array(["d"] * 2))
    page = text_of(write_report(ask, labels, tmp_path / "a.html", Setting("x", k1=2, k2=2), gallery_paths=names))
    for shown in ("a\\u202eb, identity", "line\\nend, identity", "bad\\udcff, identity", names[3], "camera c\\u2067"):
        assert shown in page
    assert "x\\x1b[1m" in page
    assert not {"\u202e", "\x1b", "\u2067"} & set(page)


@pytest.mark.parametrize(("q", "g", "people"), [(1, 5, 2), (3, 1, 1), (2, 2, 2)])
def test_small_sets(tmp_path, q, g, people):
    query, gallery = make_sets(q, g, people)
    cams = [FeatureSet(data.features, data.ids, np.full(len(data.ids), at)) for at, data in enumerate((query, gallery))]
    setting = Setting("x", k1=2, k2=2)
    page = text_of(write_report(*cams, tmp_path / "a.html", setting, count=2))
    assert f"{q} {'query' if q == 1 else 'queries'} against {g} gallery row{'s' if g > 1 else ''}." in page


@pytest.mark.parametrize(("other", "cameras", "told"), [(True, 1, True), (True, 2, False), (False, 1, False)])
def test_a_setting_that_finds_no_other_camera_is_told(other, cameras, told):
    query, gallery = make_sets(4, 12, 3)
    sets = [FeatureSet(side.features, side.ids, np.arange(len(side.ids)) % cameras) for side in (query, gallery)]
    setting = Setting("x", k1=2, k2=2, other_cameras=other)
    found = report_contents.gather(*sets, setting, labelled=False, reranked=False, count=1)
    assert any("--all-cams" in note for note in found.notes) == told


def test_parts(tmp_path):
    rng = np.random.default_rng(0)
    sets = []
    for n in (8, 24):
        ids = np.arange(n) % 6
        parts = np.random.default_rng(1).standard_normal((6, 3, 8))[ids] + 0.3 * rng.standard_normal((n, 3, 8))
        sets.append(FeatureSet(parts, ids, rng.integers(0, 3, n), visibility=rng.random((n, 3)) < 0.8))
    page = text_of(write_report(*sets, tmp_path / "a.html", Setting("x", k1=2, k2=2, fill_gallery=True)))
    assert [row[0] for row in table_of(page)][:2] == ["length 1", "as published, k1 = k2 = 2"]
    assert "8 x 3 x 8" in page


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, data in zip(("q", "g"), make_sets(), strict=True):
        paths = [f"{name}{row}.png" for row in range(len(data.ids))]
        np.savez(f"{name}.npz", features=data.features, ids=data.ids, cams=data.cams, paths=np.array(paths))
        np.savez(f"{name}_bare.npz", features=data.features)
    Image.fromarray(smooth_pictures(1)[0]).save("q0.png")
    files = ["--query", "q.npz", "--gallery", "g.npz"]
    assert main(["report", *files, "-o", "r.html", "--images", ".", "--count", "40"]) == 0
    said = capsys.readouterr()
    page = text_of(tmp_path / "r.html")
    first, verdict, end = said.out.split("\n")
    assert (first[:8], end) == ("r.html: ", "")
    assert verdict == html.unescape(re.search(r'id="verdict">(.*?)</p>', page, re.S)[1])
    assert "on these features: mAP changes by " in verdict
    assert len(json.loads(re.search(r"const pictures = (\[.*?\]);", page)[1])) == 1
    assert "pictures are not below ., such as " in html.unescape(page)
    assert "neighbours of other cameras only" in page
    assert main(["report", *files, "-o", "all.html", "--all-cams"]) == 0
    assert "neighbours of other cameras only" not in text_of(tmp_path / "all.html")
    assert main(["report", *files, "-o", "r.html"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["report", *files, "-o", "other.html", "--images", "none"]) == 2
    assert capsys.readouterr() == ("", "pose2id report: --images none is not a folder\n")
    (tmp_path / "empty").mkdir()
    assert main(["report", *files, "-o", "other.html", "--images", ".", "empty", "--count", "40"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no picture of g.npz is there, such as empty/g0.png; --images must be" in said
    assert "pictures are not below . and empty, such as" in html.unescape(text_of(tmp_path / "other.html"))
    bare = ["--query", "q_bare.npz", "--gallery", "g_bare.npz"]
    for name, data in zip(("query", "gallery"), make_sets(), strict=True):
        for label in ("ids", "cams"):
            np.save(f"{name}-{label}.npy", getattr(data, label))
            bare += [f"--{name}-{label}", f"{name}-{label}.npy"]
    assert main(["report", *bare, "-o", "labels.html"]) == 0
    assert table_of(text_of(tmp_path / "labels.html")) == table_of(page)
    bare = bare[:4]
    assert main(["report", *bare, "-o", "bare.html", "--no-rerank"]) == 0
    assert 'value="re-ranked"' not in text_of(tmp_path / "bare.html")
    for arguments, words in (
        (["--query", "q.npz", "--gallery", "g_bare.npz"], "q.npz holds 'ids' and g_bare.npz does not"),
        ([*bare, "--exclude-cams"], "--exclude-cams needs an array 'cams' in q_bare.npz"),
        ([*files, "--fill"], "--fill needs an array 'parts'"),
    ):
        capsys.readouterr()
        assert main(["report", *arguments, "-o", "x.html"]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "x.html").exists()


def test_pictures_stay_below_their_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    for name in ("secret.png", "inside/a.png"):
        Image.fromarray(smooth_pictures(1, 200, 100)[0]).save(tmp_path / name)
    pictures = Pictures(tmp_path / "inside")
    assert pictures.number("a.png") == pictures.number("a.png") == 0
    for path in ("../secret.png", str(tmp_path / "secret.png"), "none.png"):
        assert pictures.number(path) is None
    assert len(pictures.missing) == 3
    assert Pictures(None).number("a.png") is None
    two = Pictures([tmp_path, tmp_path / "inside"])
    assert [two.number("a.png"), two.number("a.png", -1), two.number("secret.png"), two.number("secret.png", -1)] == [
        *(None, 0),
        *(1, None),
    ]


def test_links_that_lead_nowhere_and_damaged_pictures_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/loop.png").symlink_to("loop.png")
    (tmp_path / "images/damaged.png").write_bytes(b"damaged")
    pictures = Pictures(tmp_path / "images")
    for path in ("loop.png", "damaged.png", "x" * 400, "a\0b", ""):
        assert pictures.number(path) is None
    assert pictures.missing == ["loop.png", "x" * 400, "a\0b", ""]
    assert pictures.damaged == ["damaged.png"]
    for name, data, paths in zip("qg", make_sets(), (["damaged.png"] * 20, ["x" * 400] * 80), strict=True):
        np.savez(f"{name}.npz", features=data.features, ids=data.ids, cams=data.cams, paths=np.array(paths))
    files = ["report", "--query", "q.npz", "--gallery", "g.npz", "--images", "images"]
    assert main([*files, "-o", "r.html"]) == 0
    assert "no picture of g.npz is there, such as images/xx" in capsys.readouterr().err
    page = text_of(tmp_path / "r.html")
    assert "<p>1 picture is not below images, such as xxx" in page
    assert "<p>1 picture cannot be read, such as damaged.png.</p>" in page
    assert main([*files, "-o", "r.html", "--overwrite"]) == 0
    content = (tmp_path / "q.npz").read_bytes()
    capsys.readouterr()
    for output in ("q.npz", "images/damaged.png"):
        assert main([*files, "-o", output, "--overwrite"]) == 2
        assert f"output {output} is a file that is no page, which a page does not replace" in capsys.readouterr().err
    assert (tmp_path / "q.npz").read_bytes() == content
    os.mkfifo("pipe")
    assert main([*files, "-o", "pipe", "--overwrite"]) == 2
    assert "output pipe is a device, a pipe or a socket, which is never replaced" in capsys.readouterr().err


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_a_side_without_rows_is_named(tmp_path, labelled, side):
    sets = dict(zip(("query", "gallery"), make_sets(), strict=True))
    sets[side] = FeatureSet(*(array[:0] for array in (sets[side].features, sets[side].ids, sets[side].cams)))
    with pytest.raises(ValueError, match=f"{side} must have at least one row, received none"):
        write_report(**sets, output=tmp_path / "a.html", setting=AFTER, labelled=labelled)


def test_very_many_cameras_are_cut(tmp_path):
    query, gallery = make_sets()
    many = FeatureSet(gallery.features, gallery.ids, np.repeat(np.arange(70), [2] * 10 + [1] * 60))
    page = text_of(write_report(query, many, tmp_path / "a.html", AFTER, reranked=False))
    table = re.search(r"<caption>By k1.*?<tbody>(.*?)</tbody>", page, re.S)[1]
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert names == [*map(str, range(50)), "all"]
    assert "has the 50 cameras with most rows, not 20 more." in page


def test_a_query_without_an_answer_has_no_precision(tmp_path):
    query, gallery = make_sets()
    alone = FeatureSet(query.features, np.where(query.ids == 3, 999, query.ids), query.cams)
    page = text_of(write_report(alone, gallery, tmp_path / "a.html", AFTER, reranked=False))
    assert re.search(r"identity 999, camera \d<br>no right answer in the gallery", page)
    assert "nan" not in re.sub(r"<script>.*", "", page, flags=re.S)


def test_shapes():
    assert draw_curves({}, {}) is None
    drawn = draw_curves({"before": [0.5, 1.0]}, {"before": "before"})
    assert drawn["lines"][0]["points"].split()[1] == "390.0,12.0"
    part = draw_histogram(
        {"name": "before", "top": 2.0, "series": {"right": [1.0, 0.0], "wrong": [0.0, 1.0]}}, "before"
    )
    assert part["lines"][0]["path"] == "M40.0,220.0V12.0H215.0V220.0H390.0V220.0Z"
    assert "right: 0.50 on average; wrong: 1.50 on average" in part["caption"]
    alone = draw_histogram({"name": "x", "top": 2.0, "series": {"right": [1.0, 0.0], "wrong": [0.0, 0.0]}}, "before")
    assert "right: 0.50 on average; wrong: none." in alone["caption"]
    perfect = draw_curves({"before": [1.0, 1.0]}, {"before": "before"})
    assert [line["text"] for line in perfect["grid"]] == ["90", "92.5", "95", "97.5", "100"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with odd names and pictures, in a browser."""
    if find_browser() is None:
        pytest.skip("needs a Chromium, such as Debian's package chromium")
    folder = tmp_path_factory.mktemp("report")
    query, gallery = make_sets()
    for name in ("a.png", "b.png"):
        Image.fromarray(smooth_pictures(1, 64, 32)[0]).save(folder / name)
    names = ["a.png", ODD, *(f"q{row}.png" for row in range(18))]
    write_report(
        query,
        gallery,
        folder / "r.html",
        AFTER,
        query_paths=names,
        gallery_paths=["b.png"] * 80,
        images=folder,
        title=f"On {ODD}",
        command=["pose2id", "report", ODD],
        count=20,
    )
    browser = Page(folder / "profile")
    browser.open(folder / "r.html")
    yield browser
    browser.close()


def test_in_a_browser(page):
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in page.requests) == 1  # the page itself
    assert page.run("document.title") == f"On {ODD}"  # as text
    assert page.run("document.querySelectorAll('a, link, iframe, form, script[src]').length") == 0
    assert page.run("document.querySelectorAll('.queries > li').length") == 20
    loaded = "[...document.querySelectorAll('img')].every(image => image.complete && image.naturalWidth > 0)"
    assert page.run(loaded)
    assert page.run("document.querySelectorAll('img').length") > 20
    assert page.run("[...document.querySelectorAll('img')].every(image => image.alt)")
    assert page.run(f"document.body.textContent.includes({json.dumps(ODD)})")


def test_views_and_filters(page):
    visible = (
        "[...document.querySelectorAll('ol[data-view]')].filter(list => !list.hidden).map(list => list.dataset.view)"
    )
    assert set(page.run(visible)) == {"after"}
    page.run("document.querySelector('input[value=after]').focus()")
    page.press("ArrowRight")  # the keyboard alone
    assert set(page.run(visible)) == {"re-ranked"}
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert set(page.run(visible)) == {"before"}
    page.press("Tab")
    assert page.run("document.activeElement.id") == "filter"
    for letter in "q17":
        page.press(letter)
    assert page.run("filter.value") == "q17"
    shown = "[...document.querySelectorAll('.queries > li')].filter(item => !item.hidden).length"
    assert page.run(shown) == 1
    assert page.run("document.getElementById('count').textContent") == "1 of 20 queries"
    for typed in ("東京", "\u0142O\u0301d"):  # letters and marks apart, as some keyboards and file systems have them
        page.run(f"filter.value = '{typed}'; filter.dispatchEvent(new Event('input'))")
        assert page.run(shown) == 1
    page.run("filter.value = ''; filter.dispatchEvent(new Event('input'))")
    counts = []
    for way in ("up", "down", ""):
        page.run(f"direction.value = '{way}'; direction.dispatchEvent(new Event('change'))")
        counts.append(page.run(shown))
    better = page.run("[...document.querySelectorAll('[data-direction=up]')].length")
    assert counts == [better, page.run("[...document.querySelectorAll('[data-direction=down]')].length"), 20]
    assert better > 0
    assert page.messages == []


def test_narrow_and_printed(page):
    page.run("document.querySelector('input[value=after]').click()")
    for width in (320, 400):
        page.resize(width, 900)
        assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelector('tbody th').offsetWidth") > 60  # words are not broken into letters
    page.resize(718, 900, media="print")  # A4
    assert page.run("document.documentElement.scrollWidth <= 718")
    assert page.run("document.querySelector('.controls').offsetHeight") == 0
    assert page.run("document.querySelector('p.printed').innerText") == "Shown: centralized."
    page.resize(1200, 900)
    assert page.run("document.querySelector('p.printed').offsetHeight") == 0
    figures = page.run("[...document.querySelectorAll('figure')].map(figure => figure.offsetWidth)")
    assert max(figures) < 1.1 * min(figures)


def test_structure_for_screen_readers(page):
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label'))")
    assert page.run("[...document.querySelectorAll('table')].every(table => table.caption)")
    assert page.run("[...document.querySelectorAll('input, select')].every(input => input.labels.length)")
    levels = page.run("[...document.querySelectorAll('h1, h2, h3')].map(head => +head.tagName[1])")
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
