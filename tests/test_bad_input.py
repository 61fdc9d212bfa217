"""Bad input gives ValueError or TypeError saying which argument, what was received and what is allowed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pose2id import (
    centralize,
    evaluate,
    evaluate_features,
    id_density,
    jaccard_distances,
    knn_graph,
    rerank,
    rerank_top,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
Q, G = X[:2], RNG.standard_normal((9, 4)).astype(np.float32)
TABLE = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]])
IDS = [0, 0, 1, 1, 2, 2]
QI, GI = [1, 2], [1, 2, 3, 1, 2, 3, 1, 2, 3]
D = RNG.random((2, 9))
FLAT = RNG.standard_normal(48).astype(np.float32)
ROLL = RNG.standard_normal((9, 4)).astype(np.float32)
T = torch.tensor(X)
EITHER = (ValueError, TypeError)


def changed(array, index, value):
    """Copy with one entry replaced."""
    result = array.copy()
    result[index] = value
    return result


def read_only(array):
    """Copy that cannot be written to."""
    result = array.copy()
    result.setflags(write=False)
    return result


@dataclass(frozen=True)
class Bad:
    """A call, what it must raise, and what the message must mention (whatever the case)."""

    name: str
    call: Callable[[], object]
    error: type[Exception] | tuple[type[Exception], ...]
    mentions: tuple[str, ...]


def bad(name, call, error, *mentions):
    return Bad(name, call, error, mentions)


FEATURES = [
    bad("nan", lambda f: f(changed(X, (3, 1), np.nan)), ValueError, "features", "nan", "row", "3"),
    bad("inf", lambda f: f(changed(X, (4, 0), np.inf)), ValueError, "features", "inf", "row", "4"),
    bad("minus inf", lambda f: f(changed(X, (5, 3), -np.inf)), ValueError, "features", "inf", "row", "5"),
    bad(
        "nan in float16",
        lambda f: f(changed(X, (2, 2), np.nan).astype(np.float16)),
        ValueError,
        "features",
        "2",
    ),
    bad("nan in bfloat16", lambda f: f(torch.tensor(changed(X, (2, 2), np.nan)).bfloat16()), ValueError, "2"),
    bad("nan in torch", lambda f: f(torch.tensor(changed(X, (2, 2), np.nan))), ValueError, "features", "2"),
    bad("1-D", lambda f: f(X[0]), ValueError, "features", "(4,)", "(N, D)"),
    bad("3-D", lambda f: f(X[:, None]), ValueError, "features", "(6, 1, 4)", "(N, D)"),
    bad("0-D", lambda f: f(np.array(1.0)), ValueError, "features", "()", "(N, D)"),
    bad("no columns", lambda f: f(X[:, :0]), ValueError, "features", "(6, 0)"),
    bad("int64", lambda f: f(np.ones((6, 4), dtype=np.int64)), TypeError, "features", "int64", "float32"),
    bad(
        "uint8 tensor",
        lambda f: f(torch.ones((6, 4), dtype=torch.uint8)),
        TypeError,
        "features",
        "uint8",
        "float32",
    ),
    bad("bool", lambda f: f(X > 0), TypeError, "features", "bool", "float32"),
    bad("complex", lambda f: f(X.astype(np.complex64)), TypeError, "features", "complex64", "float32"),
    bad("complex tensor", lambda f: f(torch.tensor(X) * 1j), TypeError, "features", "complex64", "float32"),
    bad("object", lambda f: f(X.astype(object)), TypeError, "features", "object", "float32"),
    bad("strings", lambda f: f(X.astype(str)), TypeError, "features", "float32"),
    bad("longdouble", lambda f: f(X.astype(np.longdouble)), TypeError, "features", "float128", "float64"),
    bad("list", lambda f: f(X.tolist()), TypeError, "features", "list", "numpy"),
    bad("None", lambda f: f(None), TypeError, "features", "NoneType", "numpy"),
    bad("text", lambda f: f("features.npz"), TypeError, "features", "str", "numpy"),
    bad("sparse tensor", lambda f: f(torch.tensor(X).to_sparse()), EITHER, "features", "sparse"),
]
TAKES_FEATURES = {
    "knn_graph": lambda x: knn_graph(x, 2),
    "centralize": centralize,
    "centralize raw": lambda x: centralize(x, normalize=False),
    "centralize off": lambda x: centralize(x, k1=0, k2=0),
    "id_density": lambda x: id_density(x, IDS),
}

COUNTS = [
    ("negative", -1, ValueError, "-1"),
    ("true", True, TypeError, "True"),
    ("false", False, TypeError, "False"),
    ("numpy bool", np.True_, TypeError, "True"),
    ("fraction", 1.5, TypeError, "1.5"),
    ("whole float", 2.0, TypeError, "2.0"),
    ("numpy float", np.float32(2), TypeError, "2.0"),
    ("text", "2", TypeError, "'2'"),
    ("none", None, TypeError, "None"),
    ("nan", float("nan"), TypeError, "nan"),
    ("list", [2], TypeError, "[2]"),
]
TAKES_COUNTS = {
    ("knn_graph", "k"): lambda k: knn_graph(X, k),
    ("centralize", "k1"): lambda k: centralize(X, k1=k),
    ("centralize", "k2"): lambda k: centralize(X, k2=k),
    ("rerank", "k1"): lambda k: rerank(Q, G, k1=k),
    ("rerank", "k2"): lambda k: rerank(Q, G, k2=k),
    ("rerank_top", "top"): lambda k: rerank_top(Q, G, k),
    ("jaccard_distances", "k1"): lambda k: jaccard_distances(X, k1=k),
    ("jaccard_distances", "k2"): lambda k: jaccard_distances(X, k2=k),
}

REALS = [
    ("negative", -0.5, ValueError, "-0.5"),
    ("nan", float("nan"), ValueError, "nan"),
    ("inf", float("inf"), ValueError, "inf"),
    ("text", "1", TypeError, "'1'"),
    ("none", None, TypeError, "None"),
    ("bool", True, TypeError, "True"),
    ("complex", 1j, TypeError, "1j"),
    ("list", [1.0], TypeError, "[1.0]"),
]
TAKES_REALS = {
    ("centralize", "eta"): lambda value: centralize(X, X, value),
    ("centralize", "alpha"): lambda value: centralize(X, alpha=value),
    ("rerank", "lambda_value"): lambda value: rerank(Q, G, lambda_value=value),
    ("jaccard_distances", "max_distance"): lambda value: jaccard_distances(X, max_distance=value),
}

ENGINES = {
    "knn_graph": lambda engine: knn_graph(X, 2, engine=engine),
    "centralize": lambda engine: centralize(X, engine=engine),
    "rerank": lambda engine: rerank(Q, G, engine=engine),
    "rerank_top": lambda engine: rerank_top(Q, G, engine=engine),
    "jaccard_distances": lambda engine: jaccard_distances(X, engine=engine),
}

OTHERS = [
    # knn_graph
    bad("knn_graph k zero", lambda: knn_graph(X, 0), ValueError, "k", "0", "1"),
    # exclude
    bad("exclude short", lambda: knn_graph(X, 2, exclude=[1, 2]), ValueError, "exclude", "2", "6"),
    bad("exclude long", lambda: centralize(X, exclude=list(range(7))), ValueError, "exclude", "7", "6"),
    bad("exclude 2-D", lambda: centralize(X, exclude=np.zeros((6, 1), int)), ValueError, "exclude", "(6, 1)"),
    bad(
        "exclude float",
        lambda: centralize(X, exclude=np.zeros(6)),
        TypeError,
        "exclude",
        "float64",
        "integers",
    ),
    bad("exclude list of float", lambda: centralize(X, exclude=[0.5] * 6), TypeError, "exclude", "float"),
    bad("exclude bool", lambda: knn_graph(X, 2, exclude=np.zeros(6, bool)), TypeError, "exclude", "bool"),
    bad(
        "exclude mixed",
        lambda: centralize(X, exclude=[1, "1", 2, 2, 2, 2]),
        TypeError,
        "exclude",
        "str",
        "int",
    ),
    bad(
        "exclude with None",
        lambda: centralize(X, exclude=[1, None, 2, 2, 2, 2]),
        TypeError,
        "exclude",
        "None",
    ),
    bad("exclude text", lambda: centralize(X, exclude="abcdef"), TypeError, "exclude", "str"),
    bad("exclude number", lambda: centralize(X, exclude=3), EITHER, "exclude", "int"),
    # generated
    bad(
        "generated no views",
        lambda: centralize(X, np.zeros((6, 0, 4), np.float32)),
        ValueError,
        "generated",
        "(6, 0, 4)",
    ),
    bad("generated empty list", lambda: centralize(X, []), ValueError, "generated", "empty", "(6, M, 4)"),
    bad("generated rows", lambda: centralize(X, X[:5]), ValueError, "generated", "(5, 4)", "(6, 4)"),
    bad("generated columns", lambda: centralize(X, X[:, :3]), ValueError, "generated", "(6, 3)", "(6, 4)"),
    bad(
        "generated views first",
        lambda: centralize(X, np.stack([X] * 3)),
        ValueError,
        "generated",
        "(3, 6, 4)",
    ),
    bad("generated 1-D", lambda: centralize(X, X[0]), ValueError, "generated", "(4,)"),
    bad("generated 4-D", lambda: centralize(X, X[:, None, None]), ValueError, "generated", "(6, 1, 1, 4)"),
    bad("generated nan", lambda: centralize(X, changed(X, (3, 0), np.nan)), ValueError, "generated", "3"),
    bad(
        "generated 3-D inf",
        lambda: centralize(X, changed(np.stack([X, X], axis=1), (4, 1, 0), np.inf)),
        ValueError,
        "generated",
        "4",
    ),
    bad(
        "generated list nan",
        lambda: centralize(X, [X, changed(X, (5, 0), np.nan)]),
        ValueError,
        "generated",
        "5",
    ),
    bad(
        "generated list of unlike",
        lambda: centralize(X, [X, X[:5]]),
        ValueError,
        "generated",
        "(5, 4)",
        "(6, 4)",
    ),
    bad(
        "generated int",
        lambda: centralize(X, np.ones((6, 4), int)),
        TypeError,
        "generated",
        "int64",
        "float32",
    ),
    bad(
        "generated list of int",
        lambda: centralize(X, [np.ones((6, 4), int)]),
        TypeError,
        "generated",
        "int64",
    ),
    bad("generated nested list", lambda: centralize(X, X.tolist()), EITHER, "generated"),
    bad("generated number", lambda: centralize(X, 2.0), TypeError, "generated", "float"),
    bad("generated torch", lambda: centralize(X, torch.tensor(X)), EITHER, "generated", "torch", "numpy"),
    bad("generated numpy", lambda: centralize(torch.tensor(X), X), EITHER, "generated", "numpy", "torch"),
    bad("generated list torch", lambda: centralize(X, [X, torch.tensor(X)]), EITHER, "generated", "torch"),
    bad(
        "generated device",
        lambda: centralize(torch.tensor(X), torch.tensor(X, device="meta")),
        EITHER,
        "generated",
        "meta",
        "cpu",
    ),
    # neighbors
    bad("neighbors 1-D", lambda: centralize(X, neighbors=TABLE[0]), ValueError, "neighbors", "(2,)"),
    bad("neighbors rows", lambda: centralize(X, neighbors=TABLE[:5]), ValueError, "neighbors", "(5, 2)", "6"),
    bad("neighbors narrow", lambda: centralize(X, k1=3, neighbors=TABLE), ValueError, "neighbors", "2", "3"),
    bad("neighbors narrow k2", lambda: centralize(X, k2=4, neighbors=TABLE), ValueError, "neighbors", "2", "4"),
    bad(
        "neighbors float",
        lambda: centralize(X, neighbors=TABLE * 1.0),
        TypeError,
        "neighbors",
        "float64",
        "integer",
    ),
    bad(
        "neighbors bool",
        lambda: centralize(X, neighbors=TABLE > 0),
        TypeError,
        "neighbors",
        "bool",
        "integer",
    ),
    bad(
        "neighbors object",
        lambda: centralize(X, neighbors=TABLE.astype(object)),
        TypeError,
        "neighbors",
        "object",
    ),
    bad(
        "neighbors N",
        lambda: centralize(X, neighbors=changed(TABLE, (2, 1), 6)),
        ValueError,
        "neighbors",
        "-1",
        "5",
        "6",
    ),
    bad(
        "neighbors -2",
        lambda: centralize(X, neighbors=changed(TABLE, (2, 1), -2)),
        ValueError,
        "neighbors",
        "-2",
    ),
    bad(
        "neighbors self",
        lambda: centralize(X, neighbors=changed(TABLE, (4, 1), 4)),
        ValueError,
        "neighbors",
        "4",
    ),
    bad(
        "neighbors twice",
        lambda: centralize(X, neighbors=changed(TABLE, (4, 1), 3)),
        ValueError,
        "neighbors",
        "4",
    ),
    # out
    bad("out list", lambda: centralize(X, out=X.tolist()), TypeError, "out", "list", "numpy", "float32"),
    bad("out torch", lambda: centralize(X, out=torch.tensor(X)), TypeError, "out", "Tensor", "numpy"),
    bad("out numpy", lambda: centralize(torch.tensor(X), out=X.copy()), TypeError, "out", "ndarray", "torch"),
    bad("out dtype", lambda: centralize(X, out=X.astype(np.float64)), TypeError, "out", "float64", "float32"),
    bad("out big endian", lambda: centralize(X, out=X.astype(">f4")), TypeError, "out", ">f4", "float32"),
    bad("out masked", lambda: centralize(X, out=np.ma.array(X)), TypeError, "out", "masked"),
    bad("out shape", lambda: centralize(X, out=X[:5].copy()), ValueError, "out", "(6, 4)", "(5, 4)"),
    bad("out columns", lambda: centralize(X, out=X[:, :3].copy()), ValueError, "out", "(6, 4)", "(6, 3)"),
    bad("out flat", lambda: centralize(X, out=X.ravel().copy()), ValueError, "out", "(6, 4)", "(24,)"),
    bad("out read-only", lambda: centralize(X, out=read_only(X)), ValueError, "out", "read-only", "r+"),
    bad("out itself", lambda: centralize(X, out=X), ValueError, "out", "features", "memory"),
    bad("out view", lambda: centralize(ROLL[1:7], out=ROLL[:6]), ValueError, "out", "features", "memory"),
    bad(
        "out by one",
        lambda: centralize(FLAT[23:47].reshape(6, 4), out=FLAT[:24].reshape(6, 4)),
        ValueError,
        "out",
        "features",
        "memory",
    ),
    bad("out generated", lambda: centralize(X, ROLL[:6], out=ROLL[:6]), ValueError, "out", "generated", "memory"),
    bad("out in list", lambda: centralize(X, [X, ROLL[3:]], out=ROLL[:6]), ValueError, "out", "generated", "memory"),
    bad("out tensor itself", lambda: centralize(T, out=T), ValueError, "out", "features", "memory"),
    bad("out tensor view", lambda: centralize(T, out=T.view(6, 4)), ValueError, "out", "features", "memory"),
    bad("out by columns", lambda: centralize(X, out=np.asfortranarray(X)), ValueError, "out", "(4, 24)"),
    bad("out reversed", lambda: centralize(X, out=X.copy()[::-1]), ValueError, "out", "(-16, 4)"),
    bad("out one row", lambda: centralize(T, out=T[:1].clone().expand(6, 4)), ValueError, "out", "(0, 4)"),
    bad("out device", lambda: centralize(T, out=torch.empty_like(T, device="meta")), ValueError, "out", "meta", "cpu"),
    bad("out sparse", lambda: centralize(T, out=T.to_sparse()), EITHER, "out", "sparse"),
    # id_density
    bad(
        "density variant",
        lambda: id_density(X, IDS, variant="mean"),
        ValueError,
        "variant",
        "'mean'",
        "paper",
        "released",
    ),
    bad("density variant None", lambda: id_density(X, IDS, variant=None), EITHER, "variant", "None", "paper"),
    bad("density empty", lambda: id_density(X[:0], []), ValueError, "features", "0"),
    bad("density lengths", lambda: id_density(X, IDS[:5]), ValueError, "ids", "5", "6"),
    bad("density float ids", lambda: id_density(X, [0.0] * 6), TypeError, "ids", "float"),
    bad("density bool ids", lambda: id_density(X, [True] * 6), TypeError, "ids", "bool"),
    bad("density 2-D ids", lambda: id_density(X, np.zeros((6, 2), int)), ValueError, "ids", "(6, 2)"),
    bad("density ids None", lambda: id_density(X, None), TypeError, "ids", "None"),
    # rerank
    bad("rerank k1 zero", lambda: rerank(Q, G, k1=0), ValueError, "k1", "0", "1"),
    bad("rerank k2 zero", lambda: rerank(Q, G, k2=0), ValueError, "k2", "0", "1"),
    bad("rerank lambda", lambda: rerank(Q, G, lambda_value=1.01), ValueError, "lambda_value", "1.01", "1"),
    bad("rerank no query", lambda: rerank(Q[:0], G), ValueError, "query", "(0, 4)"),
    bad("rerank no gallery", lambda: rerank(Q, G[:0]), ValueError, "gallery", "(0, 4)"),
    bad("rerank columns", lambda: rerank(Q, G[:, :3]), ValueError, "query", "gallery", "4", "3"),
    bad("rerank no columns", lambda: rerank(Q[:, :0], G[:, :0]), ValueError, "query", "(2, 0)"),
    bad("rerank query 1-D", lambda: rerank(Q[0], G), ValueError, "query", "(4,)"),
    bad("rerank gallery nan", lambda: rerank(Q, changed(G, (7, 0), np.nan)), ValueError, "gallery", "7"),
    bad("rerank query inf", lambda: rerank(changed(Q, (1, 0), np.inf), G), ValueError, "query", "1"),
    bad("rerank query int", lambda: rerank(np.ones((2, 4), int), G), TypeError, "query", "int64", "float32"),
    bad("rerank gallery object", lambda: rerank(Q, G.astype(object)), TypeError, "gallery", "object"),
    bad("rerank query list", lambda: rerank(Q.tolist(), G), TypeError, "query", "list"),
    bad("rerank containers", lambda: rerank(Q, torch.tensor(G)), EITHER, "query", "gallery", "torch", "numpy"),
    bad(
        "rerank devices",
        lambda: rerank(torch.tensor(Q), torch.tensor(G, device="meta")),
        EITHER,
        "gallery",
        "meta",
        "cpu",
    ),
    bad("rerank_top top zero", lambda: rerank_top(Q, G, 0), ValueError, "top", "0", "1"),
    bad("rerank_top gallery nan", lambda: rerank_top(Q, changed(G, (7, 0), np.nan)), ValueError, "gallery", "7"),
    bad("rerank_top columns", lambda: rerank_top(Q, G[:, :3]), ValueError, "query", "gallery", "4", "3"),
    # evaluate
    bad(
        "evaluate nan",
        lambda: evaluate(changed(D, (1, 3), np.nan), QI, GI),
        ValueError,
        "distances",
        "nan",
        "1",
    ),
    bad(
        "evaluate minus inf",
        lambda: evaluate(changed(D, (1, 3), -np.inf), QI, GI),
        ValueError,
        "distances",
        "inf",
        "1",
    ),
    bad("evaluate 1-D", lambda: evaluate(D[0], QI, GI), ValueError, "distances", "(9,)"),
    bad("evaluate turned", lambda: evaluate(D.T, QI, GI), ValueError, "query_ids", "9", "2"),
    bad("evaluate complex", lambda: evaluate(D + 1j, QI, GI), TypeError, "distances", "complex128"),
    bad("evaluate object", lambda: evaluate(D.astype(object), QI, GI), TypeError, "distances", "object"),
    bad("evaluate text", lambda: evaluate("distances", QI, GI), TypeError, "distances", "str"),
    bad("evaluate query ids", lambda: evaluate(D, QI[:1], GI), ValueError, "query_ids", "1", "2"),
    bad("evaluate gallery ids", lambda: evaluate(D, QI, GI[:5]), ValueError, "gallery_ids", "5", "9"),
    bad("evaluate query cams", lambda: evaluate(D, QI, GI, [1], GI), ValueError, "query_cams", "1", "2"),
    bad("evaluate gallery cams", lambda: evaluate(D, QI, GI, QI, [1]), ValueError, "gallery_cams", "1", "9"),
    bad("evaluate one side", lambda: evaluate(D, QI, GI, [0, 0]), ValueError, "query_cams", "gallery_cams"),
    bad("evaluate other side", lambda: evaluate(D, QI, GI, None, GI), ValueError, "query_cams", "gallery_cams"),
    bad("evaluate float ids", lambda: evaluate(D, [1.0, 2.0], GI), TypeError, "query_ids", "float"),
    bad(
        "evaluate float array ids",
        lambda: evaluate(D, QI, np.array(GI) * 1.0),
        TypeError,
        "gallery_ids",
        "float64",
    ),
    bad("evaluate bool ids", lambda: evaluate(D, [True, False], GI), TypeError, "query_ids", "bool"),
    bad("evaluate None ids", lambda: evaluate(D, None, GI), TypeError, "query_ids", "None"),
    bad("evaluate 2-D ids", lambda: evaluate(D, np.ones((2, 1), int), GI), ValueError, "query_ids", "(2, 1)"),
    bad(
        "evaluate ids mixed",
        lambda: evaluate(D, ["1", "2"], GI),
        TypeError,
        "query_ids",
        "gallery_ids",
        "str",
        "int",
    ),
    bad(
        "evaluate cams mixed",
        lambda: evaluate(D, QI, GI, ["a", "b"], GI),
        TypeError,
        "query_cams",
        "gallery_cams",
        "str",
        "int",
    ),
    bad("evaluate float cams", lambda: evaluate(D, QI, GI, [0.5, 1], GI), TypeError, "query_cams", "float"),
    bad(
        "evaluate protocol",
        lambda: evaluate(D, QI, GI, protocol="market"),
        ValueError,
        "protocol",
        "'market'",
        "market1501",
        "all",
    ),
    bad(
        "evaluate protocol None",
        lambda: evaluate(D, QI, GI, protocol=None),
        EITHER,
        "protocol",
        "None",
        "market1501",
    ),
    bad("evaluate no match", lambda: evaluate(D, [7, 8], GI), ValueError, "quer", "2"),
    bad("evaluate all junk", lambda: evaluate(D, QI, [-1] * 9), ValueError, "quer"),
    bad("evaluate same camera", lambda: evaluate(D, QI, GI, [0, 0], [0] * 9), ValueError, "quer", "2"),
    bad("evaluate no query", lambda: evaluate(D[:0], [], GI), ValueError, "quer", "0"),
    bad("evaluate no gallery", lambda: evaluate(D[:, :0], QI, []), ValueError, "0"),
    # Scores
    bad("rank zero", lambda: evaluate(D, QI, GI).rank(0), ValueError, "k", "0", "1"),
    bad("rank negative", lambda: evaluate(D, QI, GI).rank(-3), ValueError, "k", "-3", "1"),
    bad("rank bool", lambda: evaluate(D, QI, GI).rank(True), TypeError, "k", "True"),
    bad("rank float", lambda: evaluate(D, QI, GI).rank(1.0), TypeError, "k", "1.0"),
    # evaluate_features
    bad(
        "from features columns",
        lambda: evaluate_features(Q, G[:, :3], QI, GI),
        ValueError,
        "query",
        "gallery",
        "4",
        "3",
    ),
    bad(
        "from features metric",
        lambda: evaluate_features(Q, G, QI, GI, metric="l2"),
        ValueError,
        "metric",
        "'l2'",
        "euclidean",
        "cosine",
    ),
    bad(
        "from features nan",
        lambda: evaluate_features(Q, changed(G, (6, 1), np.nan), QI, GI),
        ValueError,
        "gallery",
        "6",
    ),
    bad(
        "from features int",
        lambda: evaluate_features(np.ones((2, 4), int), G, QI, GI),
        TypeError,
        "query",
        "int64",
    ),
    bad("from features list", lambda: evaluate_features(Q, G.tolist(), QI, GI), TypeError, "gallery", "list"),
    bad("from features 3-D", lambda: evaluate_features(Q[None], G, QI, GI), ValueError, "query", "(1, 2, 4)"),
    bad(
        "from features lengths",
        lambda: evaluate_features(Q, G, QI, GI[:4]),
        ValueError,
        "gallery_ids",
        "4",
        "9",
    ),
    bad(
        "from features one side",
        lambda: evaluate_features(Q, G, QI, GI, QI),
        ValueError,
        "query_cams",
        "gallery_cams",
    ),
    bad(
        "from features protocol",
        lambda: evaluate_features(Q, G, QI, GI, protocol="x"),
        ValueError,
        "protocol",
        "'x'",
        "market1501",
    ),
    bad(
        "from features containers",
        lambda: evaluate_features(torch.tensor(Q), G, QI, GI),
        EITHER,
        "query",
        "gallery",
    ),
    bad("from features no match", lambda: evaluate_features(Q, G, [7, 8], GI), ValueError, "quer", "2"),
]


def check(call, error, mentions):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    missing = [text for text in mentions if text.lower() not in message.lower()]
    assert not missing, f"{missing} not in the message: {message}"
    assert len(message) < 500, "the message must not print whole arrays"


@pytest.mark.parametrize("case", FEATURES, ids=lambda case: case.name)
@pytest.mark.parametrize("function", TAKES_FEATURES.values(), ids=TAKES_FEATURES.keys())
def test_features(function, case):
    check(lambda: case.call(function), case.error, case.mentions)


@pytest.mark.parametrize(("value", "error", "mention"), [row[1:] for row in COUNTS], ids=[row[0] for row in COUNTS])
@pytest.mark.parametrize("argument", TAKES_COUNTS, ids=" ".join)
def test_counts(argument, value, error, mention):
    check(lambda: TAKES_COUNTS[argument](value), error, (argument[1], mention))


@pytest.mark.parametrize(("value", "error", "mention"), [row[1:] for row in REALS], ids=[row[0] for row in REALS])
@pytest.mark.parametrize("argument", TAKES_REALS, ids=" ".join)
def test_reals(argument, value, error, mention):
    check(lambda: TAKES_REALS[argument](value), error, (argument[1], mention))


@pytest.mark.parametrize("value", ["cuda", "Exact", "", None, 3])
@pytest.mark.parametrize("function", ENGINES.values(), ids=ENGINES.keys())
def test_engines(function, value):
    check(lambda: function(value), EITHER, ("engine", repr(value), "auto", "exact", "faiss"))


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_others(case):
    check(case.call, case.error, case.mentions)


def test_mixed_devices(device):
    """Only where there is a second device; without one, the table uses torch's device without data."""
    if device == "cpu":
        pytest.skip("needs a second device")
    here, there = torch.tensor(X), torch.tensor(X, device=device)
    check(lambda: rerank(here, there), EITHER, ("query", "gallery", "cpu", device))
    check(lambda: evaluate_features(there, here, IDS, IDS), EITHER, ("query", "gallery", "cpu", device))
    check(lambda: centralize(here, there), EITHER, ("generated", "cpu", device))
    check(lambda: centralize(there, [here]), EITHER, ("generated", "cpu", device))
    check(lambda: centralize(there, out=here.clone()), ValueError, ("out", "on cpu", f"on, {device}"))


def test_the_table_is_long_enough_and_has_no_name_twice():
    names = [case.name for case in OTHERS]
    assert len(set(names)) == len(names)
    assert len(FEATURES) + len(COUNTS) + len(REALS) + len(names) >= 60


def test_the_good_neighbours_of_the_bad_calls_work():
    """The table would prove nothing if the plain calls failed too."""
    for call in (
        *(lambda f=f: f(X) for f in TAKES_FEATURES.values()),
        *(lambda f=f: f(1) for f in TAKES_COUNTS.values()),
        *(lambda f=f: f(0.5) for f in TAKES_REALS.values()),
        *(lambda f=f: f("auto") for f in ENGINES.values()),
        lambda: centralize(X, neighbors=TABLE, exclude=IDS),
        lambda: centralize(X, [X, X]),
        lambda: centralize(X, [X, X], out=X.copy()),
        lambda: centralize(T, out=T.clone()),
        lambda: centralize(FLAT[24:].reshape(6, 4), out=FLAT[:24].reshape(6, 4)),
        lambda: evaluate(D, QI, GI, QI, GI, protocol="all").rank(1),
        lambda: evaluate_features(Q, G, QI, GI),
    ):
        call()


@pytest.mark.parametrize("count", [1, 5, 4000])
def test_rows_that_are_not_finite_are_named_but_not_all(count):
    x = np.ones((5000, 2), dtype=np.float32)
    x[-count:, 1] = np.nan
    check(lambda: centralize(x), ValueError, ("features", str(5000 - count)))


PARTED = {
    "centralize": lambda x: centralize(x),
    "evaluate_features": lambda x: evaluate_features(x, x, IDS, IDS),
    "rerank": lambda x: rerank(x, x),
    "knn_graph": lambda x: knn_graph(x, 2),
    "id_density": lambda x: id_density(x, IDS),
    "a gallery": lambda x: evaluate_features(X, x, IDS, IDS),
    "tensors": lambda x: centralize(torch.tensor(x)),
}


@pytest.mark.parametrize("call", PARTED.values(), ids=PARTED.keys())
def test_parts_are_told_where_they_go(call):
    words = r"\(6, 3, 4\); part features \(N, P, D\) are for pose2id\.parts: centralize_parts, evaluate_parts, rerank_"
    with pytest.raises(ValueError, match=words):
        call(np.stack([X, X, X], axis=1))
    for shape in ((1, 6, 4), (6, 1, 4), (6, 4, 1), (24,)):  # these are no parts
        with pytest.raises(ValueError, match=r"must have shape") as caught:
            call(X.reshape(shape))
        assert "parts" not in str(caught.value)
