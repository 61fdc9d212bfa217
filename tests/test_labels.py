"""Labels and arrays of every odd kind: the right value, or a sentence that names the argument, never torch's own."""

import enum
from collections import OrderedDict
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pose2id import centralize, centralize_queries, evaluate, evaluate_features, id_density, knn_graph, rerank
from pose2id.evaluation import rank_gallery
from pose2id.files import read_features, write_arrays
from pose2id.ipg.training.cleaning import mahalanobis_distances
from pose2id.poses import select_representative
from pose2id.validation import take_labels

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
T = torch.tensor(X)
TABLE = RNG.random((6, 6))
IDS = [1, 1, 2, 2, 3, 3]
QUIET = (
    "ignore:.*(nested tensors|[Ss]parse (CSR|CSC|BSR)|API of MaskedTensors|quantized|pointer of Fake|matrix subclass)"
)

TAKES_LABELS = {
    "id_density": lambda labels: id_density(X, labels),
    "knn_graph": lambda labels: knn_graph(X, 2, exclude=labels).indices.tolist(),
    "centralize": lambda labels: centralize(X, exclude=labels).tolist(),
    "ids": lambda labels: evaluate(TABLE, labels, labels).mAP,
    "cams": lambda labels: evaluate(TABLE, [7] * 6, [7] * 6, labels, labels).mAP,
    "features": lambda labels: evaluate_features(X, X, [7] * 6, [7] * 6, labels, labels).mAP,
    "sysu-mm01": lambda labels: evaluate(TABLE, [7] * 6, [7] * 6, labels, labels, protocol="sysu-mm01").mAP,
    "rankings": lambda labels: [
        ranking.rows.tolist() for ranking in rank_gallery(TABLE, IDS, IDS, labels, labels, queries=range(6))
    ],
}


class Camera(str, enum.Enum):  # noqa: UP042 - as people write it; its str() is another than its value
    FRONT = "1"
    BACK = "2"
    SIDE = "3"


class Loud(str):
    __slots__ = ()

    def __str__(self):
        return "the same for all"


def variable_width(labels, **missing):
    if not hasattr(np.dtypes, "StringDType"):
        return np.array(labels, dtype=object)  # numpy 1
    return np.array([str(label) if label is not None else None for label in labels], np.dtypes.StringDType(**missing))


SAME = {
    "array": np.array(IDS),
    "tensor": torch.tensor(IDS),
    "uint16 tensor": torch.tensor(IDS, dtype=torch.uint16),
    "strings": list(map(str, IDS)),
    "fixed width": np.array(IDS).astype(str),
    "variable width": variable_width(IDS),
    "objects": np.array(IDS, dtype=object),
    "objects of strings": np.array(list(map(str, IDS)), dtype=object),
    "strided": np.array([IDS, IDS]).T[:, 0],
    "foreign byte order": np.array(IDS, dtype=">i2"),
    "memoryview": memoryview(np.array(IDS)),
    "mixed integers": [np.uint64(1), 1, np.int8(2), 2, np.int64(3), 3],
    "members": [Camera(str(label)) for label in IDS],
    "members in an array": np.array([Camera(str(label)) for label in IDS], dtype=object),
    "loud strings": [Loud(label) for label in IDS],
    "of numpy's class for text": np.char.array(list(map(str, IDS))),
}


@pytest.mark.parametrize("function", TAKES_LABELS)
@pytest.mark.parametrize("form", SAME)
def test_labels_of_every_form(function, form):
    assert TAKES_LABELS[function](SAME[form]) == TAKES_LABELS[function](IDS)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40), max_size=8))
def test_strings_of_variable_width_come_out_as_they_are(words):
    assert take_labels(variable_width(words), len(words), "ids").tolist() == words


def test_text_is_compared_with_its_last_blanks():
    array = np.char.array(["a", "a ", "a", "a ", "b", "b"], itemsize=2)
    np.asarray(array)[:] = ["a", "a ", "a", "a ", "b", "b"]
    assert len(np.unique(take_labels(array, 6, "ids"))) == 3


NOT_LABELS = {
    "trailing NUL": (["a", "a\0", "b", "b", "c", "c"], "must not end with NUL"),
    "trailing NUL, variable width": (variable_width(["a", "a\0", "b", "b", "c", "c"]), "must not end with NUL"),
    "trailing NUL among objects": (np.array(["a", "a\0"] * 3, dtype=object), "must not end with NUL"),
    "whole floats": (np.array(IDS, dtype=float), "must be integers or strings, received dtype float64"),
    "float tensor": (torch.tensor(IDS).float(), "must be integers or strings, received dtype torch.float32"),
    "row": (np.array([IDS]), r"must have shape \(6,\), one label per row, received \(1, 6\)"),
    "column": (np.array(IDS)[:, None], r"must have shape \(6,\), one label per row, received \(6, 1\)"),
    "column of variable width": (variable_width(IDS)[:, None], "must be all integers or all strings"),
    "matrix": (np.matrix(IDS), r"received \(1, 6\)"),
    "2-D memoryview": (memoryview(np.array([IDS])), r"received \(1, 6\)"),
    "missing in variable width": (
        variable_width(["a", None] * 3, na_object=None),
        "must be all integers or all strings, received a sequence of NoneType, str",
    ),
    "structured": (np.zeros(6, [("a", "i4")]), "must be integers or strings"),
    "records": (np.rec.array([(1,)] * 6, dtype=[("a", "i4")]), "must be integers or strings"),
    "masked": (np.ma.masked_array(IDS), "must not be a masked array"),
    "bytes": (np.array([b"a"] * 6), "must be integers or strings"),
    "mapping": (MappingProxyType(OrderedDict.fromkeys(range(6))), "must be a sequence"),
    "sparse tensor": (torch.tensor(IDS).to_sparse(), "must be a dense tensor"),
    "nested tensor": (lambda: torch.nested.nested_tensor([torch.tensor([1, 1]), torch.tensor([2])]), "nested"),
    "tensor without data": (torch.tensor(IDS, device="meta"), "must be on a device that holds data"),
    "quantized": (lambda: torch.quantize_per_tensor(T[:, 0], 0.1, 0, torch.qint8), "must be integers or strings"),
    "bool tensor": (torch.tensor(IDS) > 1, "must be integers or strings"),
    "too large": ([2**63, 1, 1, 1, 1, 1], "must fit into int64"),
    "too large for a float": (np.array([2**63] * 6, np.uint64), "must fit into int64"),
}


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("function", ["id_density", "knn_graph", "ids", "cams"])
@pytest.mark.parametrize("kind", NOT_LABELS)
def test_what_is_no_label(function, kind):
    name = {"id_density": "ids", "knn_graph": "exclude", "ids": "query_ids", "cams": "query_cams"}[function]
    labels, words = NOT_LABELS[kind]
    with pytest.raises((ValueError, TypeError), match=rf"^{name} .*{words}"):
        TAKES_LABELS[function](labels() if callable(labels) else labels)


# Arrays


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        return mode.from_tensor(T)


ODD = {
    "nested": (lambda: torch.nested.nested_tensor([T[:3], T[3:]]), "nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([T[:3], T[3:]], layout=torch.jagged), "nested tensor"),
    "coo": (T.to_sparse, "layout torch.sparse_coo"),
    "csr": (T.to_sparse_csr, "layout torch.sparse_csr"),
    "csc": (T.to_sparse_csc, "layout torch.sparse_csc"),
    "bsr": (lambda: T.to_sparse_bsr((2, 2)), "layout torch.sparse_bsr"),
    "mkldnn": (T.to_mkldnn, "layout torch._mkldnn"),
    "quantized": (lambda: torch.quantize_per_tensor(T, 0.1, 0, torch.qint8), "quantized"),
    "by channel": (lambda: torch.quantize_per_channel(T, torch.ones(4), torch.zeros(4), 1, torch.quint8), "quantized"),
    "meta": (lambda: T.to("meta"), "device meta"),
    "fake": (fake, "FakeTensor"),
    "masked tensor": (lambda: torch.masked.masked_tensor(T, T > 0), "MaskedTensor"),
    "functional": (lambda: torch._to_functional_tensor(T), "data of its own"),
    "zeros without memory": (lambda: torch._efficientzerotensor((6, 4)), "data of its own"),
    "not yet sized": (torch.nn.UninitializedParameter, "UninitializedParameter"),
    "complex": (lambda: torch.complex(T, T).conj(), "complex64"),
    "bits": (lambda: torch.empty(6, 4, dtype=torch.bits8), "bits8"),
    "bool": (lambda: T > 0, "bool"),
    "masked array": (lambda: np.ma.masked_array(X), "masked array"),
    "structured": (lambda: np.zeros((6, 4), [("a", "f4")]), "dtype"),
    "records": (lambda: np.rec.array(np.zeros((6, 4), [("a", "f4")])), "dtype"),
    "strings": (lambda: variable_width("abcdef"), "dtype"),
    "dates": (lambda: np.zeros((6, 4), "M8[s]"), "datetime64"),
    "memoryview": (lambda: memoryview(X), "memoryview"),
}
TAKES_ARRAYS = {
    "features": (centralize, lambda x: knn_graph(x, 2), lambda x: id_density(x, IDS)),
    "query": (lambda x: rerank(x, x), lambda x: centralize_queries(x, x), lambda x: evaluate_features(x, x, IDS, IDS)),
    "generated": (lambda x: centralize(T if torch.is_tensor(x) else X, x),),
    r"generated\[0\]": (lambda x: centralize(T if torch.is_tensor(x) else X, [x]),),
    "neighbors": (lambda x: centralize(T if torch.is_tensor(x) else X, neighbors=x),),
    "out": (lambda x: centralize(T if torch.is_tensor(x) else X, out=x),),
    "distances": (
        lambda x: evaluate(x, IDS, IDS[:4]),
        lambda x: rank_gallery(x, IDS, IDS[:4], queries=[0]),
    ),
}


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("name", TAKES_ARRAYS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays_are_told_by_the_name_of_the_argument(name, kind):
    make, words = ODD[kind]
    for function in TAKES_ARRAYS[name]:
        with pytest.raises((ValueError, TypeError), match=f"^{name} must") as caught:
            function(make())
        # `out` and `neighbors` may rather say which dtype they want
        assert words in str(caught.value) or (name in ("out", "neighbors") and "received" in str(caught.value))


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("view", ["negative bit", "conjugate", "gradient", "strided", "expanded", "matrix", "memmap"])
def test_views_give_what_their_numbers_give(view, tmp_path):
    whole = torch.complex(T, T.flip(0)).conj()
    array = {
        "negative bit": lambda: whole.imag,
        "conjugate": lambda: whole.real,
        "gradient": lambda: T.clone().requires_grad_(),
        "strided": lambda: T.T.contiguous().T,
        "expanded": lambda: T[:1].expand(6, 4),
        "matrix": lambda: np.matrix(X),
        "memmap": lambda: np.memmap(tmp_path / "x", np.float32, "w+", shape=(6, 4)),
    }[view]()
    plain = array.detach().resolve_neg().numpy() if torch.is_tensor(array) else np.array(array)
    assert np.array_equal(np.asarray(centralize(array)), centralize(plain))
    assert np.array_equal(np.asarray(knn_graph(array, 2).indices), knn_graph(plain, 2).indices)
    assert evaluate(array, IDS, [1, 2, 3, 4]).mAP == evaluate(plain, IDS, [1, 2, 3, 4]).mAP
    assert id_density(array, IDS) == id_density(plain, IDS)
    generated = T if torch.is_tensor(array) else X
    assert np.array_equal(np.asarray(centralize(generated, array)), centralize(X, plain))


def test_out_must_be_memory_as_it_is():
    with pytest.raises(ValueError, match=r"out must be memory to write to, .* call .resolve_neg\(\) first"):
        centralize(T, out=torch._neg_view(torch.zeros(6, 4)))


# Integer distances


@pytest.mark.parametrize("container", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
@pytest.mark.parametrize("offset", [0, 2**53 - 4, 2**62, -(2**62), 2**63 - 60, 2**63, 2**64 - 60])
def test_integers_are_compared_exactly(container, dtype, offset):
    """As small numbers of the same order and ties are."""
    if not np.iinfo(dtype).min <= offset <= np.iinfo(dtype).max - 50:
        pytest.skip("does not fit")
    rng = np.random.default_rng(1)
    small = rng.integers(0, 50, (9, 40))
    large = np.array([[offset + int(value) for value in row] for row in small], dtype=dtype)
    labels = rng.integers(0, 5, 9), rng.integers(-1, 5, 40), rng.integers(0, 3, 9), rng.integers(0, 3, 40)
    expected = evaluate(small.astype(np.float64), *labels)
    found = evaluate(large if container == "numpy" else torch.from_numpy(large), *labels)
    assert (found.mAP, found.mINP, found.tied_rank1) == (expected.mAP, expected.mINP, expected.tied_rank1)
    assert found.cmc.tolist() == expected.cmc.tolist()
    rankings = rank_gallery(large, *labels, queries=range(9))
    for one, other in zip(rankings, rank_gallery(small, *labels, queries=range(9)), strict=True):
        assert one.rows.tolist() == other.rows.tolist()


def test_the_ends_of_the_integers():
    row = np.array([[np.iinfo(np.int64).max, np.iinfo(np.int64).max - 1, np.iinfo(np.int64).min + 1]])
    ends = np.concatenate([row, [[np.iinfo(np.int64).min]]], axis=1)
    (ranking,) = rank_gallery(ends, [1], [1, 1, 1, 1], queries=[0])
    assert ranking.rows.tolist() == [3, 2, 1, 0]
    assert evaluate(ends, [1], [1, 2, 2, 2]).mAP == 0.25
    unsigned = np.array([[2**64 - 1, 2**64 - 2, 0, 2**63, 2**63 - 1]], dtype=np.uint64)
    (ranking,) = rank_gallery(unsigned, [1], [1] * 5, queries=[0])
    assert ranking.rows.tolist() == [2, 4, 3, 1, 0]
    assert evaluate(unsigned, [1], [1, 2, 2, 2, 2]).mAP == 0.2


def test_ties_of_large_integers_are_counted():
    tied, near = np.array([[2**60, 2**60]]), np.array([[2**60 + 1, 2**60]])
    assert evaluate(tied, [1], [1, 2]).tied_rank1 == 1
    assert (evaluate(near, [1], [1, 2]).tied_rank1, evaluate(near, [1], [1, 2]).mAP) == (0, 0.5)


# Where numbers of numpy are worked on


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays_where_numpy_does_the_work(kind, tmp_path):
    """Cleaning and the choice of poses; and files, for tensors that hold no plain numbers."""
    make, words = ODD[kind]
    calls = [lambda: mahalanobis_distances(make()), lambda: select_representative(make(), IDS, [None] * 6)]
    if kind == "memoryview":
        return  # numpy takes it as what it is
    if torch.is_tensor(make()) and kind not in ("complex", "bits", "bool"):
        calls += [
            lambda suffix=suffix: write_arrays(tmp_path / f"x{suffix}", {"features": make()})
            for suffix in (".npz", ".npy", ".pt")
        ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"^features must") as caught:
            call()
        assert words in str(caught.value) or "received dtype" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
def test_tensors_where_numpy_does_the_work(dtype):
    rows = (torch.arange(40).reshape(10, 4) % 7).to(dtype)
    expected = mahalanobis_distances(rows.double().numpy())
    np.testing.assert_array_equal(mahalanobis_distances(rows), expected)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_views_are_written_as_their_numbers(tmp_path, suffix):
    view = torch.complex(T, T.flip(0)).conj().imag
    path = write_arrays(tmp_path / f"x{suffix}", {"features": view})
    assert np.asarray(read_features(path).features).tolist() == view.tolist()
