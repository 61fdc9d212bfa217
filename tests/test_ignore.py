"""What a caller leaves out of rankings (`ignore`, `labels`), and sets against themselves."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import evaluation as reference
from reference.neighbors import distance_matrix
from reference.parts import distances as part_matrix
from reference.protocols import evaluate_sysu
from scipy import sparse
from support.arrays import ArrayKind

from pose2id import centralize, evaluate, evaluate_features, id_density, rerank
from pose2id.evaluation import PROTOCOLS, rank_gallery
from pose2id.parts import evaluate_parts, part_distances
from pose2id.study import FeatureSet, Setting, run_study

F32 = ArrayKind("numpy", "float32")
NAMES = ["market1501", "all"]
FORMATS = ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"]


def assert_same(scores, expected, tolerance=1e-12):
    for name in ("mAP", "mINP"):
        assert getattr(scores, name) == pytest.approx(getattr(expected, name), abs=tolerance)
    assert scores.cmc.shape == expected.cmc.shape
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=tolerance)
    assert (scores.valid_queries, scores.tied_rank1) == (expected.valid_queries, expected.tied_rank1)


def labels(q=25, g=70, seed=0, cams=4):
    """Identities with distractors, junk and unmatched queries, and cameras from 1."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 12, q), rng.integers(-1, 10, g), rng.integers(1, cams + 1, q), rng.integers(1, cams + 1, g)


def table(q=25, g=70, seed=0, decimals=9):
    return np.random.default_rng(seed).random((q, g)).round(decimals)


def marks(q=25, g=70, seed=0, share=0.3):
    return np.random.default_rng(100 + seed).random((q, g)) < share


@st.composite
def worlds(draw):
    """Distances with ties, labels of both sides, and marks."""
    q, g = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    arguments = rng.integers(-1, 3, q), rng.integers(-1, 3, g), rng.integers(1, 4, q), rng.integers(1, 4, g)
    return rng.integers(-2, 3, (q, g)) * 1.0, arguments, rng.random((q, g)) < rng.random()


def scores_or_nothing(call):
    """What a call gives, or None if no query has a match: the longest of no lists in the reference."""
    try:
        return call()
    except ValueError:
        return None


@given(world=worlds(), protocol=st.sampled_from([*NAMES, "sysu-mm01"]), form=st.sampled_from(FORMATS))
def test_all_forms_are_the_removal_of_rows(world, protocol, form):
    distances, arguments, ignored = world
    if protocol == "sysu-mm01":
        expected = scores_or_nothing(lambda: evaluate_sysu(distances, *arguments, ignored=ignored))
    else:
        expected = scores_or_nothing(
            lambda: reference.evaluate(distances, *arguments, protocol=protocol, ignored=ignored)
        )
    forms = (
        ignored,
        torch.from_numpy(ignored),
        sparse.coo_array(ignored).asformat(form),
        sparse.coo_matrix(ignored).asformat(form),
        lambda query, gallery: ignored[query["rows"]][gallery["rows"]],
        lambda query, _: torch.from_numpy(ignored)[query["rows"]],
    )
    for given_form in forms:
        found = scores_or_nothing(lambda f=given_form: evaluate(distances, *arguments, protocol=protocol, ignore=f))
        assert (found is None) == (expected is None)
        if found is not None:
            assert_same(found, expected)


@pytest.mark.parametrize("protocol", NAMES)
@pytest.mark.parametrize("cams", [True, False])
def test_ignoring_in_larger_sets(array_kind, protocol, cams):
    arguments = labels() if cams else labels()[:2]
    expected = reference.evaluate(array_kind.rounded(table()), *arguments, protocol=protocol, ignored=marks())
    scores = evaluate(array_kind.make(table()), *arguments, protocol=protocol, ignore=marks())
    assert_same(scores, expected)
    assert scores.mAP != evaluate(array_kind.make(table()), *arguments, protocol=protocol).mAP


def test_nothing_is_ignored_by_false():
    assert_same(evaluate(table(), *labels(), ignore=np.zeros((25, 70), bool)), evaluate(table(), *labels()))


def test_on_a_device(device):
    distances, ignored = (torch.tensor(array(), device=device) for array in (table, marks))
    assert_same(evaluate(distances, *labels(), ignore=ignored), evaluate(table(), *labels(), ignore=marks()))


def test_explicit_false_entries_and_duplicates_of_a_sparse_mask():
    rows, columns = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    mask = sparse.coo_array((np.array([True, False, True, True]), (rows, columns)), shape=(2, 3))
    dense = np.array([[True, False, False], [True, False, False]])
    arguments = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]), [1, 1], [1, 2, 1]
    assert_same(evaluate(*arguments, ignore=mask), evaluate(*arguments, ignore=dense))


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_block_size_changes_nothing(monkeypatch, elements):
    expected = evaluate(table(), *labels(), ignore=marks())
    monkeypatch.setattr("pose2id.evaluation.scores.BLOCK_ELEMENTS", elements)
    monkeypatch.setattr("pose2id.evaluation.tiles.BLOCK_ELEMENTS", elements)
    for ignore in (marks(), sparse.csr_array(marks()), lambda query, _: marks()[query["rows"]]):
        assert_same(evaluate(table(), *labels(), ignore=ignore), expected)


def test_the_given_mask_is_not_changed():
    given_mask = np.eye(20, dtype=bool)[::-1].copy()
    tensor = torch.from_numpy(given_mask.copy())
    rng = np.random.default_rng(0)
    for mask in (given_mask, tensor):
        evaluate(rng.random((20, 20)), np.arange(20) % 3, ignore=mask)
        np.testing.assert_array_equal(np.asarray(mask), np.eye(20, dtype=bool)[::-1])


def test_a_function_sees_the_labels_as_given():
    query_ids, gallery_ids = ["a", "b"], ["a", "b", "-1"]
    seen = []

    def ignore(query, gallery):
        seen.append((dict(query), {name: values.tolist() for name, values in gallery.items()}))
        return np.zeros(3, bool)

    more = {"clothes": ([7, 8], [7, 7, 8]), "tracklets": (["t", "u"], np.array(["t", "v", "w"]))}
    evaluate(np.zeros((2, 3)), query_ids, gallery_ids, [3, 2], [2, 3, 3], ignore=ignore, labels=more)
    gallery = {"ids": gallery_ids, "cams": [2, 3, 3], "rows": [0, 1, 2], "clothes": [7, 7, 8]}
    gallery["tracklets"] = ["t", "v", "w"]
    assert sorted(seen, key=lambda pair: pair[0]["rows"]) == [
        ({"ids": "a", "cams": 3, "rows": 0, "clothes": 7, "tracklets": "t"}, gallery),
        ({"ids": "b", "cams": 2, "rows": 1, "clothes": 8, "tracklets": "u"}, gallery),
    ]
    evaluate(np.zeros((2, 3)), query_ids, gallery_ids, ignore=lambda query, _: np.full(3, "cams" in query))


def test_clothes_changing():
    """As the evaluation code of the clothes-changing sets has it: same person and camera, or person and clothes."""
    rng = np.random.default_rng(3)
    arguments, clothes = labels(40, 120, 3), (rng.integers(0, 3, 40), rng.integers(0, 3, 120))
    distances = table(40, 120)
    same_person = arguments[0][:, None] == arguments[1]
    same_clothes = clothes[0][:, None] == clothes[1]
    for changing in (True, False):
        ignored = same_person & (same_clothes if changing else ~same_clothes)

        def rule(query, gallery, changing=changing):
            return (gallery["ids"] == query["ids"]) & ((gallery["clothes"] == query["clothes"]) == changing)

        scores = evaluate(distances, *arguments, ignore=rule, labels={"clothes": clothes})
        assert_same(scores, reference.evaluate(distances, *arguments, ignored=ignored))


def test_tracklets_of_one_set():
    rng = np.random.default_rng(4)
    tracklets = rng.integers(0, 20, 60)
    ids, distances = tracklets % 6, rng.random((60, 60))
    scores = evaluate(
        distances,
        ids,
        ignore=lambda query, gallery: gallery["tracklets"] == query["tracklets"],
        labels={"tracklets": tracklets},
    )
    assert_same(scores, reference.evaluate(distances, ids, ids, ignored=tracklets[:, None] == tracklets))


def test_a_function_is_asked_for_a_block_at_a_time():
    """Nothing of the size of all pairs is held, not even as bools."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 400, 3000)
    features = (rng.standard_normal((400, 16))[ids] + 0.1 * rng.standard_normal((3000, 16))).astype(np.float32)
    options = {"ignore": lambda query, gallery: gallery["t"] == query["t"], "labels": {"t": np.arange(3000) // 2}}
    tracemalloc.start()
    try:
        evaluate_features(features, None, ids, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 3000 / 2


# One set


def one_set(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, 9, n)
    features = rng.standard_normal((10, d))[ids] + 0.8 * rng.standard_normal((n, d))
    features[4::5] = features[3::5]  # twins, of any label
    return F32.rounded(features), ids, rng.integers(1, 4, n)


@pytest.mark.parametrize("protocol", NAMES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("cams", [True, False])
def test_leave_one_out(protocol, metric, cams):
    features, ids, cameras = one_set()
    cameras = cameras if cams else None
    matrix = {"euclidean": lambda x, y: distance_matrix(x, y, single=False), "cosine": reference.cosine_distances}
    distances = matrix[metric](features, features).astype(np.float32)
    both = (ids, ids, cameras, cameras)
    expected = reference.evaluate(distances, *both, protocol=protocol, ignored=np.eye(60, dtype=bool))
    given_features = features.astype(np.float32)
    options = {"protocol": protocol, "metric": metric}
    assert_same(evaluate_features(given_features, None, ids, None, cameras, **options), expected)
    assert_same(evaluate(distances, ids, None, cameras, protocol=protocol), expected)
    diagonal = sparse.eye_array(60, dtype=bool)
    assert_same(evaluate(distances, *both, protocol=protocol, ignore=diagonal), expected)
    assert_same(evaluate_features(given_features, given_features, *both, **options, ignore=diagonal), expected)
    twice = evaluate_features(given_features, given_features, *both, **options)
    assert_same(twice, reference.evaluate(distances, *both, protocol=protocol))
    if not cams or protocol == "all":
        assert twice.mAP > expected.mAP


@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), protocol=st.sampled_from([*PROTOCOLS]))
def test_leave_one_out_ignores_the_diagonal(seed, n, protocol):
    """For every protocol, also beside a mask."""
    rng = np.random.default_rng(seed)
    distances, ids, cams = rng.integers(0, 4, (n, n)) * 1.0, rng.integers(0, 3, n), rng.integers(1, 4, n)
    mask = rng.random((n, n)) < 0.2
    alone = scores_or_nothing(lambda: evaluate(distances, ids, None, cams, protocol=protocol, ignore=mask))
    if PROTOCOLS[protocol].drawn_gallery:
        return  # where a drawn item is no query
    mask = mask | np.eye(n, dtype=bool)
    both = scores_or_nothing(lambda: evaluate(distances, ids, ids, cams, cams, protocol=protocol, ignore=mask))
    assert (alone is None) == (both is None)
    if alone is not None:
        assert_same(alone, both)


def test_features_of_every_kind_of_tile():
    """Few distinct rows, few digits, and rows that a float32 product cannot tell apart."""
    rng = np.random.default_rng(0)
    close = rng.standard_normal((6, 40))[rng.integers(0, 6, 120)] + 1e-3 * rng.standard_normal((120, 40))
    for features in (
        rng.standard_normal((3, 5))[rng.integers(0, 3, 120)],
        rng.integers(0, 2, (120, 6)) * 1.0,
        close,
    ):
        rows = F32.rounded(features)
        ids, mask = rng.integers(0, 9, len(rows)), rng.random((len(rows), len(rows))) < 0.2
        distances = distance_matrix(rows, rows).astype(np.float32)
        expected = reference.evaluate(distances, ids, ids, ignored=mask | np.eye(len(rows), dtype=bool))
        assert_same(evaluate_features(rows.astype(np.float32), None, ids, ignore=mask), expected)


def test_rankings_leave_out_what_is_ignored():
    arguments = labels(9, 60, 7)
    distances, mask = table(9, 60, decimals=1), marks(9, 60)
    scores = evaluate(distances, *arguments, ignore=mask)
    rankings = rank_gallery(distances, *arguments, queries=range(9), ignore=sparse.csr_array(mask))
    for query, ranking in enumerate(rankings):
        junk = PROTOCOLS["market1501"].junk(arguments[0][query], arguments[1], arguments[2][query], arguments[3])
        left = [g for g in range(60) if not junk[g] and not mask[query, g]]
        assert ranking.rows.tolist() == sorted(left, key=lambda g, q=query: (distances[q, g], g))
    precisions = [ranking.average_precision for ranking in rankings]
    np.testing.assert_allclose(precisions, scores.average_precision, rtol=1e-12)
    (alone,) = rank_gallery(np.zeros((3, 3)), [1, 1, 2], queries=[1])
    assert alone.rows.tolist() == [0, 2]


# Parts


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("alone", [True, False])
def test_parts(reduce, alone):
    """Pairs without a common part are at inf in the matrix, and last in both."""
    rng = np.random.default_rng(5)
    query, seen = rng.standard_normal((20, 3, 4)), rng.random((20, 3)) < 0.4
    gallery, others = (query, seen) if alone else (rng.standard_normal((50, 3, 4)), rng.random((50, 3)) < 0.4)
    ids, gallery_ids = rng.integers(0, 4, 20), rng.integers(0, 4, len(gallery))
    gallery_ids = ids if alone else gallery_ids
    matrix = part_distances(query, gallery, seen, others, reduce=reduce)
    assert np.isinf(matrix).any()
    np.testing.assert_allclose(matrix, part_matrix(query, gallery, seen, others, reduce=reduce), rtol=1e-9)
    mask = rng.random(matrix.shape) < 0.2
    expected = reference.evaluate(
        matrix, ids, gallery_ids, ignored=mask | (np.eye(20, dtype=bool) if alone else np.zeros_like(mask))
    )
    sides = (query, None, ids) if alone else (query, gallery, ids, gallery_ids)
    visibility = {"query_visibility": seen, "gallery_visibility": None if alone else others}
    assert_same(evaluate_parts(*sides, **visibility, reduce=reduce, ignore=mask), expected)
    assert_same(evaluate(matrix, ids, None if alone else gallery_ids, ignore=mask), expected)


# Studies


def test_a_study_passes_it_on():
    features, ids, cams = one_set()
    rule = {"ignore": lambda query, gallery: gallery["clothes"] == query["clothes"]}
    query, gallery = (FeatureSet(features[s], ids[s], cams[s]) for s in (slice(0, 20), slice(20, 60)))
    clothes = np.arange(60) % 7
    more = {"clothes": (clothes[:20], clothes[20:])}
    settings = [Setting("given", normalize=False), Setting("re-ranked", normalize=False, reranked=True)]
    rows = run_study(query, gallery, settings, **rule, labels=more)
    sides = (query.ids, gallery.ids, query.cams, gallery.cams)
    assert_same(rows[0].scores, evaluate_features(query.features, gallery.features, *sides, **rule, labels=more))
    assert_same(rows[1].scores, evaluate(rerank(query.features, gallery.features), *sides, **rule, labels=more))


def test_a_study_of_one_set():
    features, ids, cams = one_set()
    whole = FeatureSet(features, ids, cams)
    settings = [Setting("given", normalize=False), Setting("pulled", k1=2, k2=2), Setting("not", k1=2, query=False)]
    given_rows, pulled, scaled = run_study(whole, None, settings)
    assert_same(given_rows.scores, evaluate_features(features, None, ids, None, cams))
    for row, x in ((pulled, centralize(features)), (scaled, centralize(features, k1=0))):
        assert_same(row.scores, evaluate_features(x, None, ids, None, cams))
        assert row.id2 == pytest.approx(id_density(x, ids))
    assert pulled.mAP != scaled.mAP
    with pytest.raises(ValueError, match="'again' re-ranks, which needs a query and a gallery set"):
        run_study(whole, None, [Setting("again", reranked=True)])
    parts = FeatureSet(features[:, None], ids)
    with pytest.raises(ValueError, match="'full' fills hidden parts of the gallery, which needs a query and a gallery"):
        run_study(parts, None, [Setting("full", k1=2, k2=2, fill_gallery=True)])


# Bad input

D, QI, GI = table(2, 3), [1, 2], [1, 2, 3]
OK = np.zeros((2, 3), bool)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: evaluate(D, QI, GI, ignore=OK.T), ValueError, r"ignore must have shape \(2, 3\), received \(3, 2\)"),
        (lambda: evaluate(D, QI, GI, ignore=OK[0]), ValueError, r"ignore must have shape \(2, 3\), received \(3,\)"),
        (lambda: evaluate(D, QI, GI, ignore=OK * 1), TypeError, "ignore must hold bools.* received dtype int64"),
        (lambda: evaluate(D, QI, GI, ignore=OK * 1.0), TypeError, "ignore must hold bools.* received dtype float64"),
        (lambda: evaluate(D, QI, GI, ignore=torch.zeros(2, 3)), TypeError, "ignore must hold bools.*torch.float32"),
        (lambda: evaluate(D, QI, GI, ignore=torch.zeros(2, 3).bool().to_sparse()), TypeError, "ignore must be a dense"),
        (lambda: evaluate(D, QI, GI, ignore=OK.tolist()), TypeError, "ignore must be an array of bools, received list"),
        (lambda: evaluate(D, QI, GI, ignore=np.ma.masked_array(OK)), TypeError, "ignore must be an array of bools"),
        (lambda: evaluate(D, QI, GI, ignore="all"), TypeError, "ignore must be an array of bools, received str"),
        (lambda: evaluate(D, QI, GI, ignore=sparse.csr_array(OK * 1)), TypeError, "ignore must hold bools.*int64"),
        (lambda: evaluate(D, QI, GI, ignore=sparse.csr_array(OK.T)), ValueError, r"ignore must have shape \(2, 3\)"),
        (
            lambda: evaluate(D, QI, GI, ignore=lambda *_: OK),
            ValueError,
            r"ignore gives .* shape \(3,\), received \(2, 3",
        ),
        (
            lambda: evaluate(D, QI, GI, ignore=lambda *_: [0]),
            TypeError,
            "ignore gives .* array of bools, received list",
        ),
        (lambda: evaluate(D, QI, GI, ignore=lambda *_: OK[0] * 1), TypeError, "ignore gives .* bools.* int64"),
        (lambda: evaluate(D, QI, GI, ignore=lambda q, _: q["clothes"]), KeyError, "clothes"),
        (lambda: evaluate(D, QI, GI, labels={"x": (QI, GI)}), ValueError, "labels are for a function as ignore"),
        (lambda: evaluate(D, QI, GI, ignore=OK, labels={}), ValueError, "labels .* function .* received ndarray"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels=[1]), TypeError, "labels must be a mapping"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels={"ids": (QI, GI)}), ValueError, "other than ids, cams, rows"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels={3: (QI, GI)}), ValueError, "names .* received 3"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels={"x": GI}), ValueError, r"labels\['x'\] must be a pair"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels={"x": (GI, QI)}), ValueError, r"labels\['x'\] .* shape \(2,\)"),
        (lambda: evaluate(D, QI, GI, ignore=len, labels={"x": ([0.5] * 2, GI)}), TypeError, r"labels\['x'\] .* float"),
        (lambda: evaluate(D, QI), ValueError, r"gallery_ids must be given .* received size \(2, 3\)"),
        (lambda: evaluate(D[:, :2], QI, None, QI, QI), ValueError, "gallery_cams must be left out"),
        (lambda: evaluate_features(D, None, QI, QI), ValueError, "gallery_ids must be left out where gallery is None"),
        (lambda: evaluate_features(D, None, QI, None, QI, QI), ValueError, "gallery_cams must be left out"),
        (lambda: evaluate_features(D, D, QI), TypeError, "gallery_ids must be given with a gallery"),
        (lambda: evaluate_parts(D[None], None, [1], [1]), ValueError, "gallery_ids must be left out"),
        (
            lambda: evaluate_parts(D[:, None], None, QI, gallery_visibility=np.ones((2, 1))),
            ValueError,
            "gallery_visibility must be left out",
        ),
        (lambda: evaluate(D, QI, GI, ignore=~OK), ValueError, "at least one query must have a match"),
        (lambda: evaluate(D[:1, :1], [1]), ValueError, "at least one query must have a match"),
        (lambda: evaluate(np.zeros((0, 0)), []), ValueError, "at least one query must have a match"),
        (lambda: evaluate(D[:, :0], QI, [], ignore=OK[:, :0]), ValueError, "at least one query must have a match"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
