"""Rows that occur many times and distances that are equal: the same answers as ever, and no work done twice."""

import numpy as np
import pytest
import torch
from reference import evaluation as reference_scores
from reference.neighbors import distance_matrix, knn, mutual_neighbors
from torch.overrides import TorchFunctionMode

from pose2id import duplicates, evaluate, evaluate_features, knn_graph, reciprocal, rerank
from pose2id.centralization import mutual_neighbors as fast_mutual_neighbors
from pose2id.evaluation import counting, lists, tiles
from pose2id.neighbors import _exact, find_neighbors


class Work(TorchFunctionMode):
    """Counts the elements of the tensors that torch functions give, and of those that are sorted."""

    def __init__(self):
        super().__init__()
        self.elements, self.sorted = 0, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements += result.numel()
            self.sorted += result.numel() if "argsort" in str(function) else 0
        return result


@pytest.fixture
def measured(monkeypatch):
    """How many pairs of rows were measured, call by call."""
    calls = []

    def count(room, name):
        measure = getattr(room, name)

        def counted(queries, base, left, *others):
            calls.append(int((others[0] >= 0).sum()) if name == "rounded_distances" else len(left))
            return measure(queries, base, left, *others)

        monkeypatch.setattr(room, name, counted)

    for name in ("pair_distances", "rounded_distances"):
        count(_exact, name)
    for name in ("pair_distances", "pair_cosines"):
        count(tiles, name)
    return calls


def repeated(n, distinct, d=5, seed=0):
    """n rows of a few distinct ones, and which each is."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, distinct, n)
    return rng.standard_normal((distinct, d)).astype(np.float32)[group], group


def exclusion(name, group):
    rng = np.random.default_rng(1)
    return {
        "nothing": None,
        "own group": group,
        "cameras": rng.integers(0, 3, len(group)),
        "nearly all": (rng.random(len(group)) < 0.02).astype(int),
        "all": np.zeros(len(group), int),
    }[name]


@pytest.mark.parametrize("exclude", ["nothing", "own group", "cameras", "nearly all", "all"])
@pytest.mark.parametrize(("n", "distinct", "k"), [(300, 3, 4), (300, 3, 110), (300, 60, 2), (260, 1, 5), (260, 7, 400)])
def test_neighbours_of_repeated_rows(engine, exclude, n, distinct, k):
    rows, group = repeated(n, distinct)
    labels = exclusion(exclude, group)
    graph = knn_graph(rows, k, exclude=labels, engine=engine)
    indices, distances = knn(rows.astype(np.float64), k, exclude=labels)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_array_equal(graph.distances, distances.astype(np.float32))


@pytest.mark.parametrize("order", ["as drawn", "sorted", "backwards"])
def test_few_pairs_of_repeated_rows_are_measured(measured, order):
    rows, group = repeated(2000, 10)
    at = {"as drawn": np.arange(2000), "sorted": group.argsort(), "backwards": group.argsort()[::-1]}[order]
    knn_graph(rows[at], 20, exclude=group[at], engine="exact")
    assert 0 < sum(measured) < 2000


def test_queries_that_occur_many_times(measured):
    rows, _ = repeated(1500, 6)
    found, _ = find_neighbors(torch.from_numpy(rows[:500]), torch.from_numpy(rows[500:]), 7, engine="exact")
    apart = distance_matrix(rows[:500].astype(np.float64), rows[500:].astype(np.float64))
    np.testing.assert_array_equal(found.numpy(), apart.argsort(axis=1, kind="stable")[:, :7])
    assert 0 < sum(measured) < 2000


def test_zeros_of_both_signs_are_equal():
    assert duplicates.find_duplicates(torch.tensor([[0.0, 1.0], [-0.0, 1.0]] * 2)).of.tolist() == [0, 0, 0, 0]


def test_rows_that_differ_in_one_column_are_not_equal():
    rows = torch.zeros(8, 40)
    rows[4:, 17] = 1e-30
    found = duplicates.find_duplicates(rows)
    assert sorted(found.first.tolist()) == [0, 4]
    assert found.place.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_different_rows_of_one_number_are_noticed(monkeypatch):
    monkeypatch.setattr(duplicates, "_number", lambda rows, _: torch.zeros(len(rows), dtype=torch.int64))
    assert duplicates.find_duplicates(torch.eye(4)) is None


def test_mutual_neighbours_take_work_in_proportion_to_the_table():
    n, k = 200, 120
    table = np.random.default_rng(0).random((n, n)).argsort(axis=1)[:, :k]
    with Work() as work:
        found = fast_mutual_neighbors(torch.from_numpy(table), k, k)
    expected = mutual_neighbors(table.tolist(), k, k)
    assert [[j for j in row if j >= 0] for row in found.tolist()] == expected
    assert work.elements < 40 * n * k


def labels(q, g):
    rng = np.random.default_rng(2)
    return rng.integers(0, 6, q), rng.integers(-1, 6, g), rng.integers(1, 4, q), rng.integers(1, 4, g)


def assert_equals_reference(scores, distances, marks):
    expected = reference_scores.evaluate(distances, *marks)
    assert (scores.mAP, scores.mINP) == pytest.approx((expected.mAP, expected.mINP), abs=1e-12)
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=1e-12)
    assert (scores.valid_queries, scores.tied_rank1) == (expected.valid_queries, expected.tied_rank1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("distinct", [1, 4])
def test_scores_of_repeated_rows(measured, metric, distinct):
    rows, _ = repeated(330, distinct)
    marks, wide = labels(30, 300), rows.astype(np.float64)
    scores = evaluate_features(rows[:30], rows[30:], *marks, metric=metric)
    apart = distance_matrix if metric == "euclidean" else reference_scores.cosine_distances
    assert_equals_reference(scores, apart(wide[:30], wide[30:]).astype(np.float32), marks)
    assert 0 < sum(measured) <= distinct**2


@pytest.mark.parametrize("values", [1, 3])
def test_equal_scores_are_not_sorted(values):
    distances = np.random.default_rng(3).integers(0, values, (30, 400)).astype(np.float32)
    distances[:, ::2] *= -0.0 if values == 1 else 1
    marks = labels(30, 400)
    with Work() as work:
        scores = evaluate(distances, *marks)
    assert_equals_reference(scores, distances, marks)
    assert work.sorted <= 4 * int((marks[0][:, None] == marks[1]).sum())


ROWS = np.random.default_rng(5)
ORDERS = {
    "random": ROWS.random((12, 1500)),
    "better": ROWS.random((12, 1500)) + 0.3 * (labels(12, 1500)[0][:, None] != labels(12, 1500)[1]),
    "float32": ROWS.random((12, 1500)).astype(np.float32),
    "whole numbers": ROWS.integers(-3, 4, (12, 1500)),
    "a few hundred values": ROWS.random((12, 1500)).round(2),
    "all equal": np.full((12, 1500), 7.0),
    "zeros of both signs": ROWS.choice([0.0, -0.0, 1.0], (12, 1500)),
    "one column apart": np.where(np.arange(1500) == 17, 1e30, 1.0) * np.ones((12, 1)),
    "large numbers": ROWS.random((12, 1500)) + 1e9,
    "the whole range": (ROWS.random((12, 1500)) - 0.5) * np.finfo(float).max * 2,
    "tiny": ROWS.integers(0, 9, (12, 1500)) * 5e-324,
    "long tail": np.exp(ROWS.standard_normal((12, 1500))),
}


def few_labels(matches):
    """Of 12 queries and 1,500 items, so many matches each on average, junk besides; some without any."""
    rng = np.random.default_rng(6)
    people = 1500 // matches
    return (
        rng.integers(0, people + 2, 12),
        rng.integers(-1, people, 1500),
        rng.integers(1, 4, 12),
        rng.integers(1, 4, 1500),
    )


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("matches", [1, 20, 100])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order(monkeypatch, order, matches, few):
    monkeypatch.setattr(counting, "FEW", few)
    marks = few_labels(matches)
    assert_equals_reference(evaluate(ORDERS[order], *marks), ORDERS[order], marks)


@pytest.mark.parametrize(("few", "ties", "rows"), [(0, 0, 0), (0, 1, 1), (0, 12, 12), (1, 12, 0)])
def test_columns_are_sorted_only_in_rows_with_ties(monkeypatch, few, ties, rows):
    """To sort scores alone takes a quarter of the time; a few ties are looked up."""
    monkeypatch.setattr(counting, "FEW", few)
    table, marks = ORDERS["random"].copy(), (np.full(12, 1), np.arange(1500) % 300)
    table[:ties, 7] = table[:ties, 1]  # 1 is right, 7 is wrong
    sorted_with_columns, order = [], lists._order_row

    def ordered(row, end, *rest):
        sorted_with_columns.append((row <= end).any())
        return order(row, end, *rest)

    monkeypatch.setattr(lists, "_order_row", ordered)
    assert_equals_reference(evaluate(table, *marks), table, marks)
    assert sum(sorted_with_columns) == rows


CODES = {
    "binary": lambda rng, shape: rng.integers(0, 2, shape) * 1.0,
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "quarters": lambda rng, shape: rng.integers(-4, 5, shape) / 4,
    "huge": lambda rng, shape: rng.integers(0, 2, shape) * 2.0**124,
    "tiny": lambda rng, shape: rng.integers(0, 3, shape) * 2.0**-110,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("codes", CODES)
def test_codes_are_not_measured(measured, codes, dtype):
    """Different rows are often equally far, and the product says exactly how far."""
    rows = CODES[codes](np.random.default_rng(7), (930, 12)).astype(dtype)
    marks, wide = labels(30, 900), rows.astype(np.float64)
    scores = evaluate_features(rows[:30], rows[30:], *marks)
    assert_equals_reference(scores, distance_matrix(wide[:30], wide[30:], single=dtype != "float64"), marks)
    assert not measured


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("step", [1.0, 0.1, 1e-3])
def test_equally_far_rows_that_are_no_codes(metric, step):
    rng = np.random.default_rng(8)
    rows = (rng.choice([-2, -1, 1, 2], (330, 4)) * step).astype(np.float32)
    rows[0, 0] += 1e-4  # so many digits that float32 products are not exact
    marks, wide = labels(30, 300), rows.astype(np.float64)
    scores = evaluate_features(rows[:30], rows[30:], *marks, metric=metric)
    apart = distance_matrix if metric == "euclidean" else reference_scores.cosine_distances
    assert_equals_reference(scores, apart(wide[:30], wide[30:]).astype(np.float32), marks)


@pytest.mark.parametrize("k1", [3, 25])
def test_reranking_in_small_pieces(monkeypatch, k1):
    rows = np.random.default_rng(4).standard_normal((60, 4))
    whole = rerank(rows[:15], rows[15:], k1=k1)
    monkeypatch.setattr(reciprocal, "MEETINGS", 7)
    monkeypatch.setattr(reciprocal, "PRODUCT", 100)
    np.testing.assert_array_equal(rerank(rows[:15], rows[15:], k1=k1), whole)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distances_beyond_the_dtype_do_not_hide_items(dtype):
    far = np.array([[2.0**127]] * 3, dtype)
    gallery = np.array([[0], [-(2.0**127)]] * 50, dtype)
    assert evaluate_features(far, gallery, [7] * 3, [-1, 7] * 50).mAP == 1.0
