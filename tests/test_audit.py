"""The audit: pairs are drawn evenly, answers come back as they were given, the page's numbers are Python's."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.pictures import smooth_pictures

pytest.importorskip("jinja2")

from support.browser import Page, find_browser

from pose2id.cli import main
from pose2id.report import prepare_audit, write_report
from pose2id.report.audit import tabulate_verdicts
from pose2id.study import FeatureSet, Setting, Verdict, assess
from pose2id.study.counting import wilson
from pose2id.study.verdicts import judge_answers

ODD = '"><script>document.title = "broken"</script> Łódź 東京 \'.png'
AFTER = Setting("centralized", k1=3, k2=3, alpha=4)


def make_gallery(n=40, d=8, seed=0, **others):
    """Pairs of twins, so that row 2i and row 2i + 1 are mutual neighbours."""
    rng = np.random.default_rng(seed)
    features = np.repeat(rng.standard_normal((n // 2, d)), 2, axis=0) + 0.01 * rng.standard_normal((n, d))
    return FeatureSet(features.astype(np.float32), np.arange(n) // 2, **others)


@pytest.fixture
def folder(tmp_path):
    """A folder of photographs a0.png to a39.png, and a feature file of them."""
    Image.fromarray(smooth_pictures(1, 32, 16)[0]).save(tmp_path / "a0.png")
    for row in range(1, 40):
        (tmp_path / f"a{row}.png").write_bytes((tmp_path / "a0.png").read_bytes())
    gallery = make_gallery()
    np.savez(tmp_path / "g.npz", features=gallery.features, paths=np.array([f"a{row}.png" for row in range(40)]))
    return tmp_path


def names(n=40):
    return [f"a{row}.png" for row in range(n)]


def write_answers(path, audit, given, **others):
    said = [{"rows": [int(row) for row in rows], "answer": answer} for rows, answer in given.items()]
    content = {"form": "pose2id answers", "set": audit.identity, "seed": audit.seed, "count": len(audit.pairs)}
    path.write_text(json.dumps({**content, "answers": said, **others}), encoding="utf-8")
    return path


def test_pairs_are_mutual_and_drawn_evenly(folder):
    gallery = make_gallery()
    unit = gallery.features / np.linalg.norm(gallery.features, axis=1, keepdims=True)
    near = np.argsort(np.linalg.norm(unit[:, None] - unit, axis=2), axis=1)[:, 1:3]
    true = {(i, int(j)) for i in range(40) for j in near[i] if i < j and i in near[j]}
    found = prepare_audit(gallery, names(), folder, count=500)
    assert found.total == len(true) > 20
    assert set(found.pairs) == true
    assert len(found.pairs) == len(true)
    few = prepare_audit(gallery, names(), folder, count=7)
    assert few.pairs == found.pairs[:7]
    assert prepare_audit(gallery, names(), folder, count=7, seed=1).pairs != few.pairs
    assert few.verdict.pairs == 0
    grouped = replace(gallery, groups=np.arange(40) // 2)
    assert not set(prepare_audit(grouped, names(), folder, count=500).pairs) & {(i, i + 1) for i in range(0, 40, 2)}


def test_rows_of_zeros_are_nobodys_neighbours(folder):
    gallery = make_gallery()
    features = gallery.features.copy()
    features[[3, 8, 9]] = 0
    pairs = prepare_audit(replace(gallery, features=features), names(), folder, count=500).pairs
    assert not {3, 8, 9} & set(np.array(pairs).ravel().tolist())
    assert (0, 1) in pairs


def test_pairs_without_pictures_are_passed_over(folder):
    for row in range(0, 20, 2):
        (folder / f"a{row}.png").unlink()
    audit = prepare_audit(make_gallery(), names(), folder, count=500)
    assert set(np.array(audit.pairs).ravel().tolist()) <= {*range(1, 20, 2), *range(20, 40)}
    assert audit.missing
    with pytest.raises(ValueError, match=r"needs photographs, b\d+.png and others are not below"):
        prepare_audit(make_gallery(), [f"b{row}.png" for row in range(40)], folder)
    (folder / "damaged.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"needs photographs, damaged.png and others below .* cannot be read"):
        prepare_audit(make_gallery(), ["damaged.png"] * 40, folder)


def test_verdicts_follow_the_answers():
    estimated = Verdict(0.7, (0.0, 1.0), {"published": "helps", "recommended": "helps", "views": "unclear"})
    assert judge_answers(estimated, 0, 0) is estimated
    few = judge_answers(estimated, 1, 40)
    assert few.verdicts["published"] == "hurts"
    assert (few.precision, few.interval, few.pairs) == (1 / 40, wilson(1 / 40, 40), 40)
    assert judge_answers(estimated, 39, 40).verdicts == estimated.verdicts
    table = tabulate_verdicts(estimated, 40)
    assert table["published"][0] == [(0, "helps")]
    for count in range(41):
        for right in range(count + 1):
            for name, word in judge_answers(estimated, right, count).verdicts.items():
                assert [said for least, said in table[name][count] if least <= right][-1] == word


def test_answers_come_back(folder):
    gallery = make_gallery()
    first = prepare_audit(gallery, names(), folder, count=10, seed=5)
    said = dict(zip(first.pairs[2:6], ("yes", "no", "unknown", "yes"), strict=True))
    path = write_answers(folder / "answers.json", first, said)
    again = prepare_audit(gallery, names(), folder, answers=path)
    assert again.answers == said
    assert again.pairs[:4] == list(said)
    assert set(again.pairs) == set(first.pairs)  # the others are drawn as before
    assert str(again.verdict) == str(judge_answers(assess(gallery.features), 2, 3))
    assert len(prepare_audit(gallery, names(), folder, answers=path, count=12).pairs) == 12
    assert len(prepare_audit(gallery, names(), folder, answers=path, count=2).pairs) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"set": {"rows": 41}}, "is of another set: of features 41 x 8, the gallery's are 40 x 8"),
        ({"set": {"columns": 9}}, "is of another set: of features 40 x 9, the gallery's are 40 x 8"),
        ({"set": {"sha256": "0"}}, "is of another set: its features have the gallery's rows and columns, and other"),
        ({"set": {"k1": 3}}, "is of k1 = 3, k2 = 2, pairs are drawn with k1 = k2 = 2"),
        ({"set": {"rows": "40"}}, "'rows' must be an integer"),
        ({"set": None}, "saved: "),
        ({"form": "else"}, "with 'pose2id answers' as its 'form'"),
        ({"seed": -1}, "'seed' must be an integer >= 0, received -1"),
        ({"count": True}, "'count' must be an integer"),
        ({"answers": [{"rows": [0, 1], "answer": "maybe"}]}, "'answer' must be one of 'yes', 'no', 'unknown'"),
        ({"answers": [{"rows": [0], "answer": "yes"}]}, "saved: "),
        ({"answers": [{"rows": [0, 1]}]}, "'answer' is missing"),
        ({"answers": [{"rows": [0, 1], "answer": "yes"}, {"rows": [1, 0], "answer": "no"}]}, "rows 0 and 1 are there"),
        ({"answers": [{"rows": [0, 99], "answer": "yes"}]}, "rows 0 and 99, which are no mutual neighbours"),
        ({"answers": 3}, "saved: "),
        ({"answers": [{"rows": [0, row], "answer": "yes"} for row in (1, 2)], "count": 1}, "2 answers to 1 pairs"),
    ],
)
def test_other_answers_are_refused(folder, change, words):
    audit = prepare_audit(make_gallery(), names(), folder, count=3)
    content = {"set": audit.identity, "answers": [], **change}
    if isinstance(content["set"], dict):
        content["set"] = {**audit.identity, **content["set"]}
    path = write_answers(folder / "answers.json", audit, {}, **content)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        prepare_audit(make_gallery(), names(), folder, answers=path)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


def test_the_command(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    files = ["report", "--query", "g.npz", "--gallery", "g.npz", "--no-rerank", "--count", "1", "-o", "r.html"]
    for arguments, words in (
        (["--audit"], "--audit shows photographs, so it needs --images FOLDER"),
        (["--audit", "0", "--images", "."], "--audit must be an integer >= 1"),
        (["--seed", "1"], "--seed goes with --audit or --answers"),
        (["--generated", "drawn"], "--generated goes with --audit or --answers"),
        (["--audit", "--images", ".", "--generated", "drawn"], "drawn is not a folder"),
        (["--answers", "none.json", "--images", "."], "none.json"),
        (["--answers", "bad.json", "--images", "."], "bad.json cannot be read as JSON"),
    ):
        (folder / "bad.json").write_text('{"form": ')
        assert main([*files, *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    (folder / "empty").mkdir()
    assert main([*files, "--audit", "--images", "empty"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"an audit needs photographs, a\d+.png and others are not below empty; images must be", said)
    assert said.count("\n") == 1
    assert main([*files[:-1], "none/r.html", "--audit", "--images", "."]) == 2
    assert "none/r.html must be in an existing folder, none is none" in capsys.readouterr().err
    (folder / "drawn").mkdir()
    assert main([*files, "--audit", "4", "--images", ".", "--generated", "drawn"]) == 2
    assert "drawn holds no picture generated of the gallery's photographs, such as a" in capsys.readouterr().err
    for row in range(40):
        for pose in range(2):
            path = folder / f"drawn/a{row}/{pose}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((folder / "a0.png").read_bytes())
    assert main([*files, "--audit", "4", "--images", ".", "--generated", "drawn"]) == 0
    said = capsys.readouterr().out.split("\n")
    page = html.unescape((folder / "r.html").read_text(encoding="utf-8"))
    assert said[1:] == [re.search(r'id="verdict">(.*?)</p>', page)[1], ""]
    audit = prepare_audit(make_gallery(), names(), folder, count=4, generated=folder / "drawn")
    assert [len(x["generated"][side]) for x in audit.shown for side in range(2)] == [2] * 8
    assert {n for x in audit.shown for side in x["generated"] for n in side} == set(range(8, 24))
    write_answers(folder / "answers.json", audit, dict.fromkeys(audit.pairs[:3], "yes"))
    assert main([*files, "--answers", "answers.json", "--images", ".", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "mutual neighbours of one identity: 100% (44% to 100%), counted on 3 pairs\n" in said
    assert "published: " in said


def test_an_audit_of_another_gallery_is_refused(folder):
    gallery, other = make_gallery(), make_gallery(seed=1)
    audit = prepare_audit(gallery, names(), folder, count=3)
    with pytest.raises(ValueError, match="audit must be of this gallery"):
        write_report(other, other, folder / "r.html", AFTER, labelled=False, audit=audit)


@pytest.mark.parametrize("recommended", ["helps", "unclear"])
def test_the_page_says_what_hurts_without_labels(folder, recommended):
    gallery = make_gallery()
    words = {"published": "hurts", "recommended": recommended, "views": "unclear"}
    audit = replace(prepare_audit(gallery, names(), folder, count=1), estimated=Verdict(0.3, (0.1, 0.5), words))
    path = write_report(gallery, gallery, folder / "r.html", AFTER, labelled=False, audit=audit, reranked=False)
    told = {"helps": "helps", "unclear": "may help or not"}[recommended]
    said = f"the recommended setting {told}, the published setting hurts. "
    assert said in re.search(r'id="verdict">(.*?)</p>', path.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_parts_are_refused(folder, capsys):
    np.savez(folder / "p.npz", parts=np.ones((4, 2, 3), np.float32), paths=np.array(names(4)))
    files = [f"--{side}={folder / 'p.npz'}" for side in ("query", "gallery")]
    assert main(["report", *files, "-o", f"{folder / 'r.html'}", "--audit", "--images", str(folder)]) == 2
    assert "p.npz holds parts" in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with an audit of 12 pairs, odd names among them, in a browser."""
    if find_browser() is None:
        pytest.skip("needs a Chromium, such as Debian's package chromium")
    folder = tmp_path_factory.mktemp("audit")
    Image.fromarray(smooth_pictures(1, 64, 32)[0]).save(folder / "a.png")
    Image.fromarray(smooth_pictures(1, 64, 32)[0]).save(folder / "a.jpg")
    gallery = make_gallery(n=24, d=3, cams=[f'"><b>{row}' for row in range(24)])
    estimated = Verdict(0.7, (0.0, 1.0), {"published": "helps", "recommended": "helps", "views": "unclear"})
    audit = replace(prepare_audit(gallery, ["a.png"] * 24, folder, count=12), estimated=estimated)
    for words in audit.shown:
        words["names"][0] = ODD
    write_report(
        gallery, gallery, folder / "r.html", AFTER, labelled=False, images=folder, audit=audit, reranked=False, count=2
    )
    browser = Page(folder / "profile")
    browser.open(folder / "r.html")
    browser.folder, browser.audit, browser.gallery = folder, audit, gallery
    yield browser
    browser.close()


def estimate(page):
    return page.run("document.getElementById('estimate').textContent").replace("\xa0", " ")


def forget(page):
    page.run("while (order.length) takeBack(); pair.scrollIntoView()")


def test_numbers_of_the_page_are_those_of_python(page):
    shares = page.run("[...Array(13).keys()].map(n => [...Array(n + 1).keys()].map(right => n ? wilson(right, n) : 0))")
    words = {
        name: page.run(f"[...Array(13).keys()].map(n => [...Array(n + 1).keys()].map(r => judge('{name}', r, n)))")
        for name in ("published", "recommended", "views")
    }
    for n in range(13):
        for right in range(n + 1):
            verdict = judge_answers(page.audit.estimated, right, n)
            assert {name: said[n][right] for name, said in words.items()} == verdict.verdicts
            if n:
                assert shares[n][right] == pytest.approx(verdict.interval, abs=1e-12)
    many = [(right, n) for n in (7, 60, 499, 500) for right in range(0, n + 1, 7)]
    found = page.run(f"{json.dumps(many)}.map(pair => wilson(...pair))")
    assert np.allclose(found, [wilson(right / n, n) for right, n in many], atol=1e-12)
    percents = page.run("[...Array(81).keys()].map(k => percent(k / 80))")
    assert percents == [f"{k / 80:.0%}".replace("%", "\xa0%") for k in range(81)]


def test_keys_and_buttons_answer(page):
    forget(page)
    assert estimate(page).startswith("0 of 12 answered.")
    assert page.run("document.activeElement === document.body")
    for key in "ynysY":
        page.press(key)
    assert page.run("answers.slice(0, 6)") == ["yes", "no", "yes", "unknown", "yes", None]
    said = "5 of 12 answered. 1 could not be told and is left out. Of one person: 3 of 4, 75 % (30 % to 95 %"
    assert said in estimate(page)
    top = page.run("document.getElementById('audited').textContent")
    assert top.replace("\xa0", " ").startswith("By the pairs below, of one person: 3 of 4, 75 % (30 % to 95 %")
    page.press("u")
    page.press("Backspace")
    assert page.run("answers.slice(0, 5)") == ["yes", "no", "yes", None, None]
    page.run("document.querySelector('[data-answer=no]').focus()")
    page.press("Enter", held=3)
    page.press("y")  # with a button in focus too
    assert page.run("order.map(at => answers[at])") == ["yes", "no", "yes", "no", "yes"]
    page.run("filter.focus({preventScroll: true})")
    page.press("n")  # typed, not answered
    assert page.run("[order.length, filter.value]") == [5, "n"]
    page.run("filter.value = ''; filter.dispatchEvent(new Event('input')); filter.blur()")
    page.run("pair.scrollIntoView()")
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'y', ctrlKey: true}))")
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'y', repeat: true}))")
    assert page.run("order.length") == 5
    page.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'н', code: 'KeyY', bubbles: true}))")
    assert page.run("[order.length, answers[5]]") == [6, "yes"]
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.press("y")  # the pictures are out of sight
    assert page.run("order.length") == 6
    page.run("pair.scrollIntoView()")
    for _ in range(8):
        page.press("n")
    assert page.run("answers.includes(null)") is False
    assert estimate(page).startswith("12 of 12 answered.")
    assert page.run("document.activeElement.id") == "save"
    assert page.run("document.querySelector('.pair').hidden")
    assert page.run("document.getElementById('pair').innerText").startswith("All pairs are answered.")
    page.press("u")
    assert page.run("document.querySelector('.pair').hidden") is False
    assert page.messages == []


def test_answers_survive_a_reload_and_are_saved(page):
    forget(page)
    for key in "ynsy":
        page.press(key)
    page.open(page.folder / "r.html")
    assert page.run("order.map(at => answers[at])") == ["yes", "no", "unknown", "yes"]
    saved = page.download("document.getElementById('save').click()", page.folder)
    assert saved.name == "answers.json"
    content = json.loads(saved.read_text(encoding="utf-8"))
    assert content["answers"][0]["paths"] == ["a.png", "a.png"]
    again = prepare_audit(page.gallery, ["a.png"] * 24, page.folder, answers=saved)
    assert list(again.answers.values()) == ["yes", "no", "unknown", "yes"]
    assert again.pairs[:4] == page.audit.pairs[:4]
    assert (again.verdict.precision, again.verdict.pairs) == (2 / 3, 3)
    sets = page.gallery, page.gallery
    page.open(write_report(*sets, page.folder / "again.html", AFTER, labelled=False, audit=again, reranked=False))
    assert estimate(page).startswith("4 of 12 answered.")
    page.open(page.folder / "r.html")
    assert page.messages == []


def test_an_audit_that_is_open_twice_loses_no_answer(page):
    page.open(page.folder / "r.html")
    forget(page)
    first = page.open_tab(page.folder / "r.html")
    page.run("answer('yes'); answer('no')")
    second = page.turn_to(first)
    for _ in range(1000):  # the browser tells the other tab in a moment
        if page.run("order.length") == 2:
            break
    assert estimate(page).startswith("2 of 12 answered.")
    page.run("answers.fill(null); order = []; answer('unknown'); answer('yes'); takeBack()")  # as if it was not told
    assert page.run("order.map(at => [at, answers[at]])") == [[0, "unknown"], [1, "no"]]
    page.turn_to(second)
    page.open(page.folder / "r.html")
    assert page.run("order.map(at => [at, answers[at]])") == [[0, "unknown"], [1, "no"]]
    page.close_tab()
    page.turn_to(first)
    assert page.messages == []


def test_pictures_and_names(page):
    forget(page)
    assert "--audit" not in page.run("document.getElementById('verdict').textContent")
    assert page.run("[...document.querySelectorAll('#pair img')].every(image => image.alt && image.naturalWidth > 0)")
    assert page.run("document.querySelectorAll('#pair img').length") == 2
    assert page.run("document.querySelector('#pair figcaption').textContent") == ODD
    assert 'camera "><b>' in page.run("document.querySelectorAll('#pair figcaption')[1].textContent")
    assert page.run("document.title") == "Does centralization help?"
    assert page.run("document.getElementById('pair').getAttribute('aria-label')") == "Pair 1 of 12"
    assert page.run("document.querySelectorAll('a, link, iframe, form, script[src]').length") == 0
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_answers_that_are_not_kept_warn_before_leaving(page):
    leave = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    forget(page)
    page.press("y")
    assert page.run("kept")
    assert page.run(leave) is False
    forget(page)
    page.begin_with("Object.defineProperty(window, 'localStorage', {get() { throw new Error('refused'); }})")
    page.open(page.folder / "r.html")
    assert page.run(leave) is False
    page.run("pair.scrollIntoView()")
    page.press("n")
    assert page.run("[kept, order.length]") == [False, 1]
    assert page.run(leave) is True
    page.download("save.click()", page.folder)
    assert page.run(leave) is False
    assert page.messages == []
