"""Attributes: vocabularies, annotation files with their traps, accuracy, re-weighting and the filter."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import attributes as reference
from scipy import sparse
from scipy.io import savemat
from support.arrays import as_float64
from support.golden import GOLDEN

from pose2id import attributes
from pose2id.attributes import (
    DUKEMTMC,
    MARKET1501,
    VOCABULARIES,
    Attribute,
    AttributeLabels,
    Vocabulary,
    attribute_accuracy,
    attribute_filter,
    from_official_order,
    read_attributes,
    reweight_attributes,
)

KNOWN = json.loads((GOLDEN / "parts" / "attributes.json").read_text())
VARIABLE = {"market1501": "market_attribute", "dukemtmc": "duke_attribute"}


@pytest.fixture(scope="module")
def apr():
    with np.load(GOLDEN / "parts" / "apr.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", ["market1501", "dukemtmc"])
def test_vocabularies(name):
    vocabulary, known = VOCABULARIES[name], KNOWN[name]
    assert {each.name: list(each.classes) for each in vocabulary.attributes} == known["classifiers"]
    assert set(vocabulary.fields) == set(known["mat_field_order"]["train"]) - {"image_index"}
    assert vocabulary.total == sum(vocabulary.counts) == sum(map(len, known["classifiers"].values()))
    assert [each.name for each in vocabulary.attributes if each.several] == ["upper colour", "lower colour"]
    ends = [vocabulary.columns(each).stop for each in vocabulary.names]
    assert ends == np.cumsum(vocabulary.counts).tolist()
    with pytest.raises(KeyError, match=r"no attribute 'hats'.*did you mean 'hat'"):
        vocabulary["hats"]
    with pytest.raises(KeyError, match="no attribute 0"):
        vocabulary[0]
    assert tuple(vocabulary) == vocabulary.attributes


def test_numbers_of_the_papers():
    assert (len(MARKET1501), len(MARKET1501.fields), len(DUKEMTMC), len(DUKEMTMC.fields)) == (12, 27, 10, 23)


def test_vocabularies_are_checked():
    with pytest.raises(ValueError, match="two or more different names"):
        Attribute("hat", ("no",))
    with pytest.raises(ValueError, match="different names"):
        Vocabulary("x", (Attribute("hat", ("no", "yes")),) * 2)


def annotate(vocabulary, count, seed):
    """Values of every field, as the files have them, of identities in no order; everything may happen to colours."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(1, 4 * count))[:count]
    fields = {}
    for each in vocabulary.attributes:
        for field in each.classes if each.several else (each.name,):
            fields[field] = rng.integers(1, 3 if each.several else len(each) + 1, count)
            if each.several:
                fields[field][rng.random(count) < 0.7] = 1
    fields[vocabulary.names[1]][0] = 0  # top of two people of Duke
    return ids, fields


def save(path, parts, *, dtype=np.float64, **options):
    """Write such a file with the fields of each part in an order of its own, as published."""
    vocabulary = next(name for name, variable in VARIABLE.items() if variable == path.stem)
    content = {}
    for part, (ids, fields) in parts.items():
        names = np.empty((1, len(ids)), object)
        names[0] = [f"{identity:04d}" for identity in ids]
        order = KNOWN[vocabulary]["mat_field_order"][part]
        rows = {"image_index": names} | {name: values[None].astype(dtype) for name, values in fields.items()}
        content[part] = {name: rows[name] for name in order if name in rows}
    savemat(path, {path.stem: content}, **options)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["market1501", "dukemtmc"])
def test_published_files(tmp_path, name, compressed):
    vocabulary = VOCABULARIES[name]
    parts = {part: annotate(vocabulary, 30 + seed, seed) for seed, part in enumerate(("test", "train"))}
    path = save(tmp_path / f"{VARIABLE[name]}.mat", parts, do_compression=compressed)
    for part, (ids, fields) in parts.items():
        found = read_attributes(path, vocabulary, part=part)
        assert found.ids.tolist() == ids.tolist()
        classes = found.classes
        for place, each in enumerate(vocabulary.attributes):
            marks = found.marks[:, vocabulary.columns(each.name)]
            if each.several:
                assert np.array_equal(marks, np.stack([fields[field] == 2 for field in each.classes], axis=1))
                first = [next((n for n, mark in enumerate(row) if mark), -1) for row in marks]
                assert classes[:, place].tolist() == first
                assert {0, 1, 2} <= set(marks.sum(axis=1).tolist())
            else:
                assert classes[:, place].tolist() == (fields[each.name] - 1).tolist()
        assert classes[0, 1] == -1
        assert not found.marks[0, vocabulary.columns(vocabulary.names[1])].any()
        images = [*ids[[3, 3, 1]], -1, 0]
        unknown = 2 * [len(vocabulary) * [-1]]
        assert found.take(images).classes.tolist() == classes[[3, 3, 1]].tolist() + unknown
        with pytest.raises(ValueError, match=r"identities with attributes.* 99999"):
            found.take([*images, 99999])


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4"])
def test_published_files_saved_again(tmp_path, dtype):
    part = annotate(MARKET1501, 9, 3)
    path = save(tmp_path / "market_attribute.mat", {"test": part}, dtype=dtype)
    assert read_attributes(path).classes[:, 0].tolist() == (part[1]["gender"] - 1).tolist()


def changed(**fields):
    ids, known = annotate(MARKET1501, 6, 0)
    return ids, {name: values for name, values in (known | fields).items() if values is not None}


HAT = np.array([1, 1, 2, 1, 1, 1])
FAULTS = {
    "a field is missing": (changed(hat=None), r"must have the field 'hat', has: age, backpack"),
    "too short": (changed(hat=HAT[:5]), r"'hat' must have a number for each of the 6 identities, found 5 values"),
    "too large": (changed(hat=HAT + 1), r"'hat' must hold 1 to 2, or 0 where it is not known; identity \d+ has 3"),
    "a colour too large": (changed(upred=HAT + 1), r"'upred' must hold 1 to 2.* has 3"),
    "no whole number": (changed(age=HAT + 0.5), r"'age' must hold 1 to 4.* has 1.5"),
    "negative": (changed(age=HAT - 2), r"'age' must hold 1 to 4.* has -1"),
    "NaN": (changed(age=HAT * np.nan), r"'age' must hold 1 to 4.* has nan"),
    "an identity twice": ((np.array([3, 4, 5, 6, 7, 3]), changed()[1]), r"every identity once, names again: 3"),
}


@pytest.mark.parametrize(("part", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_of_files(tmp_path, part, words):
    path = save(tmp_path / "market_attribute.mat", {"test": part})
    with pytest.raises(ValueError, match=rf"market_attribute.mat, test.*{words}"):
        read_attributes(path)


def test_files_that_are_others(tmp_path):
    path = tmp_path / "market_attribute.mat"
    for content, words in (
        ({"x": 1}, "must hold a variable 'market_attribute', it holds: x"),
        ({"market_attribute": np.ones(3)}, "must be a struct with one entry, found numbers or cells"),
        ({"market_attribute": "text"}, "must be a struct with one entry, found text"),
        ({"market_attribute": {"train": {"a": 1}}}, "must have the field 'test', has: train"),
        ({"market_attribute": {"test": np.ones(3)}}, "'test' must be a struct with one entry, found numbers"),
        ({"market_attribute": {"test": {"image_index": np.ones(3)}}}, "must be cells of identities such as '0002'"),
        (
            {"market_attribute": {"test": {"image_index": np.array(["x1", "0002"], object)}}},
            "must hold identities such as '0002', found 'x1'",
        ),
    ):
        savemat(path, content)
        with pytest.raises(ValueError, match=f"market_attribute.mat.*{re.escape(words)}"):
            read_attributes(path)
    with pytest.raises(ValueError, match="must be a MATLAB file, it is none"):
        read_attributes(tmp_path / "nothing.mat")
    with pytest.raises(ValueError, match="must be one of market1501, dukemtmc, received 'other'"):
        read_attributes(path, Vocabulary("other", MARKET1501.attributes))


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files(tmp_path, compressed):
    """Cut, and with bytes changed: an error that names the file, or what the vocabulary allows."""
    path = save(tmp_path / "market_attribute.mat", {"test": annotate(MARKET1501, 3, 1)}, do_compression=compressed)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for round_ in range(120):
        bytes_ = bytearray(content)
        if round_ % 3 == 0:
            del bytes_[rng.integers(len(content)) :]
        else:
            for at in rng.integers(128, len(content), 1 + round_ % 4):
                bytes_[at] = rng.integers(256)
        path.write_bytes(bytes(bytes_))
        try:
            found = read_attributes(path)
        except ValueError as error:
            assert "market_attribute.mat" in str(error)  # noqa: PT017
        else:
            assert found.marks.shape == (len(found.ids), 39)


def test_json_files(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"0002": {"hair": "long", "upper colour": ["upred", "upblue"], "age": null}, "7": {}}')
    found = read_attributes(path)
    assert found.ids.tolist() == [2, 7]
    assert found.classes.tolist() == [[-1, 1, *8 * [-1], 2, -1], 12 * [-1]]
    assert found.marks.sum() == 3
    for text, words in (
        ("[]", "must map identities to attributes, holds a list"),
        ('{"x": {}}', "must hold identities such as '0002', found 'x'"),
        ('{"2": {}, "02": {}}', "names again: 2"),
        ('{"2": []}', r"2: must map attributes \(gender, .*\) to classes, found \[\]"),
        ('{"2": {"hats": "no"}}', r"must map attributes"),
        ('{"2": {"hat": "maybe"}}', "2: 'hat' must be one of no, yes, found 'maybe'"),
        ('{"2": {"hat": ["no"]}}', "2: 'hat' must be one of no, yes, found"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"a\.json.*{words}"):
            read_attributes(path)


def test_labels_are_checked():
    coat = Vocabulary("coats", (Attribute("length", ("short", "long")),))
    with pytest.raises(ValueError, match="identity 4 must have one class of 'length', has 2"):
        AttributeLabels(coat, [3, 4], np.array([[True, False], [True, True]]))
    with pytest.raises(ValueError, match=r"marks must be bools of shape \(1, 2\)"):
        AttributeLabels(coat, [3], np.array([[1, 0]]))
    with pytest.raises(TypeError, match="integers"):
        AttributeLabels(coat, ["3"], np.array([[True, False]]))
    nobody = AttributeLabels(coat, np.empty(0, int), np.empty((0, 2), bool))
    assert nobody.take([-1, 0]).classes.tolist() == [[-1], [-1]]
    assert nobody.classes.shape == (0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_of_the_published_script(tmp_path, seed):
    ids, fields = annotate(MARKET1501, 20, seed)
    fields["hair"][0] = 1  # Market-1501 knows all but colours
    labels = read_attributes(save(tmp_path / "market_attribute.mat", {"test": (ids, fields)}))
    rng = np.random.default_rng(seed)
    images = rng.choice([*ids, -1, 0], 200)
    columns, order = (KNOWN["market1501"][f"official_evaluation_{name}"] for name in ("columns", "colours"))
    colours = {"upper colour": [f"up{c}" for c in order["upper"]], "lower colour": [f"down{c}" for c in order["lower"]]}
    sizes = [len(MARKET1501[name]) for name in columns]
    predictions = np.stack([rng.integers(1, size + 1, 200) for size in sizes], axis=1)
    by_field = {name: dict(zip(ids.tolist(), values.tolist(), strict=True)) for name, values in fields.items()}
    expected = reference.official_accuracy(predictions, images.tolist(), by_field, columns, colours)
    for given_as in (predictions, predictions.astype(float), torch.from_numpy(predictions)):
        found = attribute_accuracy(from_official_order(given_as), images, labels)
        by_name = dict(zip(found.names, found.accuracy.tolist(), strict=True))
        assert [by_name[name] for name in columns] == pytest.approx(expected, abs=1e-12)
        assert found.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert set(found.images.tolist()) == {int((images > 0).sum())}
    plain = attribute_accuracy(from_official_order(predictions), images, labels, unknown="skip")
    for name, share, count in zip(plain.names, plain.accuracy, plain.images, strict=True):
        known = labels.take(images).marks[:, MARKET1501.columns(name)].any(axis=1)
        assert count == known.sum()
        assert share * count == pytest.approx(by_name[name] * (images > 0).sum())
    assert str(plain).splitlines()[-1].split()[:2] == ["mean", f"{100 * plain.mean:.2f}"]


def test_accuracy_of_probabilities(array_kind):
    coat = Vocabulary(
        "coats", (Attribute("length", ("short", "long")), Attribute("colour", ("red", "blue", "grey"), True))
    )
    labels = AttributeLabels(
        coat, [3, 4], np.array([[True, False, False, True, True], [False, True, True, False, False]])
    )
    rows = array_kind.make(np.array([[0.75, 0.25, 0.25, 0.25, 0.5], [0.75, 0.25, 0.5, 0.5, 0]]))
    found = attribute_accuracy(rows, [3, 4], labels)
    assert (found.accuracy.tolist(), found.mean) == ([0.5, 1.0], 0.75)


def test_faults_of_accuracy():
    coat = Vocabulary("coats", (Attribute("length", ("short", "long")),))
    labels = AttributeLabels(coat, [3, 4], np.zeros((2, 2), bool))
    for call, wrong, words in (
        (
            lambda: attribute_accuracy(np.array([[2]]), [3], labels),
            ValueError,
            "attribute 0 must be 0 to 1, received 2",
        ),
        (lambda: attribute_accuracy(np.array([[-1]]), [3], labels), ValueError, "must be 0 to 1, received -1 in row 0"),
        (lambda: attribute_accuracy(np.array([[1, 1]]), [3], labels), ValueError, r"must have shape \(N, 1\)"),
        (lambda: attribute_accuracy(np.array([[0.5]]), [3], labels), ValueError, "must have 2 columns"),
        (lambda: attribute_accuracy(np.array([[1]]), [5], labels), ValueError, "received 5"),
        (lambda: attribute_accuracy(np.array([[1]]), [-1], labels), ValueError, "other than -1 and 0"),
        (lambda: attribute_accuracy(np.array([[1]]), [3], labels, unknown="skip"), ValueError, "they know none"),
        (lambda: attribute_accuracy(np.array([[1]]), [3], coat), TypeError, "must be AttributeLabels"),
        (
            lambda: attribute_accuracy(None, [3], labels),
            TypeError,
            "predictions are None: .* without attributes gives none",
        ),
        (lambda: from_official_order(np.ones((2, 11), int)), ValueError, r"\(N, 12\)"),
        (lambda: from_official_order(np.ones((2, 12)) / 2), ValueError, "whole numbers"),
        (lambda: from_official_order(np.zeros((2, 12), int)), ValueError, "'gender' must be 1 to 2"),
    ):
        with pytest.raises(wrong, match=words):
            call()


def test_reweighting(apr):
    found = reweight_attributes(apr["arm_scores"], apr["arm_v"], apr["arm_b"])
    np.testing.assert_allclose(found, apr["arm_reweighted"], rtol=1e-12)
    fused = np.concatenate([apr["arm_global_feature"], found], axis=1)
    np.testing.assert_allclose(fused, apr["arm_fused"], rtol=1e-12)


def test_reweighting_of_every_kind(apr, array_kind):
    given = [array_kind.make(apr[name]) for name in ("arm_scores", "arm_v", "arm_b")]
    found = reweight_attributes(*given)
    assert (type(found), found.dtype) == (type(given[0]), given[0].dtype)
    a, v, b = (as_float64(each) for each in given)
    expected = a / (1 + np.exp(-(a @ v.T + b)))
    tolerance = {"float64": 1e-12, "float32": 1e-6}.get(array_kind.dtype, 1e-2)
    np.testing.assert_allclose(as_float64(found), expected, atol=tolerance)


def test_faults_of_reweighting():
    a, v, b = np.ones((3, 2)), np.ones((2, 2)), np.ones(2)
    for call, wrong, words in (
        (lambda: reweight_attributes(a, np.ones((2, 3)), b), ValueError, r"shape \(2, 2\) and \(2,\)"),
        (lambda: reweight_attributes(a, v, np.ones(3)), ValueError, r"received \(2, 2\) and \(3,\)"),
        (lambda: reweight_attributes(a, v, b * np.nan), ValueError, "bias must be finite"),
        (lambda: reweight_attributes(a, torch.ones(2, 2), b), TypeError, "scores and matrix must be of the same kind"),
    ):
        with pytest.raises(wrong, match=words):
            call()


@pytest.mark.parametrize("threshold", ["0.0", "0.5", "0.7", "0.9", "0.99"])
def test_filter(apr, array_kind, threshold):
    n, rows = int(apr["n_query"]), apr["probabilities"]
    if array_kind.dtype in ("float16", "bfloat16"):  # others are reliable then
        expected = reference.keep(*np.split(array_kind.rounded(rows), [n]), apr["sizes"], float(threshold))
    else:
        expected = apr[f"keep_{threshold}"]
    query, gallery = array_kind.make(rows[:n]), array_kind.make(rows[n:])
    for vocabulary in (apr["sizes"], MARKET1501):
        kept = attribute_filter(query, gallery, vocabulary, threshold=float(threshold))
        assert isinstance(kept, sparse.csr_array)
        assert (kept.dtype, kept.has_sorted_indices) == (np.bool_, True)
        assert np.array_equal(kept.toarray(), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_at_threshold_1_nothing_is_dropped(kind):
    """Not where a rounded softmax is a little above 1 either."""
    above = np.nextafter(kind(1), kind(2))
    rows = np.array([[above, 0], [0, above]], kind)
    assert attribute_filter(rows, rows, [2], threshold=1).toarray().all()
    assert attribute_filter(rows, rows, [2], threshold=0.999).toarray().tolist() == [[True, False], [False, True]]


def test_the_direction_of_the_threshold(apr):
    n, rows = int(apr["n_query"]), apr["probabilities"]
    shares = [attribute_filter(rows[:n], rows[n:], MARKET1501, threshold=t).nnz / (n * 25) for t in (0, 0.7, 0.99, 1)]
    assert [round(share, 3) for share in shares] == [0.007, 0.073, 0.873, 1.0]
    assert attribute_filter(rows[:n], rows[n:], MARKET1501).nnz == shares[1] * n * 25


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 40), st.sampled_from([1, 7, 2**15]))
def test_filter_equals_reference(seed, q, g, at_once):
    """Few or many classes, words of 64 bits, ties, probabilities at the threshold, pieces of any size."""
    rng = np.random.default_rng(seed)
    counts = rng.choice([1, 2, 3, 5, 40], rng.integers(1, 6)).tolist()
    rows = rng.integers(0, 5, (q + g, sum(counts))) / 4
    rows[:, rng.random(sum(counts)) < 0.4] = 0
    threshold = rng.choice([0, 0.25, 0.5, 0.75, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pose2id.attributes.filtering._AT_ONCE", at_once)
        kept = attribute_filter(rows[:q], rows[q:], counts, threshold=threshold)
    assert np.array_equal(kept.toarray(), reference.keep(rows[:q], rows[q:], counts, threshold))


def test_a_filter_looks_at_few_pairs(monkeypatch):
    """Where all is reliable and few agree, pairs are not gone through one by one."""
    looked = []
    compare = attributes.filtering._Search._compare
    monkeypatch.setattr(
        "pose2id.attributes.filtering._Search._compare",
        lambda self, rows, block: (looked.append(len(rows) * (block.stop - block.start)), compare(self, rows, block)),
    )
    rng, counts = np.random.default_rng(0), MARKET1501.counts
    sides = [np.concatenate([np.eye(k)[rng.integers(0, k, n)] for k in counts], axis=1) for n in (2000, 6000)]
    kept = attribute_filter(*sides, MARKET1501)
    assert kept.nnz < 1e-3 * 2000 * 6000
    assert sum(looked) < 0.1 * 2000 * 6000
    assert max(looked) <= 2**15


def test_faults_of_the_filter():
    rows = np.full((3, 4), 0.5)
    for call, wrong, words in (
        (lambda: attribute_filter(rows, rows, [2, 3]), ValueError, "must have 5 columns, one for each class"),
        (lambda: attribute_filter(rows, 3 * rows, [2, 2]), ValueError, "gallery_probabilities must be probabilities"),
        (lambda: attribute_filter(-rows, rows, [2, 2]), ValueError, "query_probabilities .* received -0.5 to -0.5"),
        (lambda: attribute_filter(rows * np.nan, rows, [2, 2]), ValueError, "query_probabilities"),
        (lambda: attribute_filter(rows, rows, [2, 2.0]), TypeError, "numbers of classes"),
        (lambda: attribute_filter(rows, rows, 4), TypeError, "received 4"),
        (lambda: attribute_filter(rows, None, [2, 2]), TypeError, "gallery_probabilities are None: an encoder without"),
        (lambda: attribute_filter(rows, rows, []), ValueError, "received none"),
        (lambda: attribute_filter(rows, rows, [4, 0]), ValueError, "each number of classes"),
        (lambda: attribute_filter(rows, rows, [2, 2], threshold=1.5), ValueError, "threshold"),
        (lambda: attribute_filter(rows.tolist(), rows, [2, 2]), TypeError, "query_probabilities"),
    ):
        with pytest.raises(wrong, match=words):
            call()
