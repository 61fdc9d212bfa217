"""Dask arrays: the numbers of one machine to the last bit, however rows are cut, and with workers that die."""

import os
import re
import socket
import subprocess
import sys
import warnings
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from support import starting

import pose2id
from pose2id import distributed
from pose2id.cli import main
from pose2id.distributed import blocks, graphs, pivots, sources

dask = pytest.importorskip("dask", reason="dask is not installed: pip install 'pose2id[dask]'")
da = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'pose2id[dask]'")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Chunks stay as small as they are given, searched in pieces, and computed by this thread."""
    monkeypatch.setattr(sources, "SMALLEST", 1)
    monkeypatch.setattr(blocks, "SEARCHED", 30 * 12 * 4)
    monkeypatch.setattr(graphs, "FAN", 3)
    with dask.config.set(scheduler="sync"):
        yield


def make_rows(n, width=12, dtype=np.float32):
    """People of four photographs, rows of zeros, and ties across blocks: rows that are there several times."""
    random = np.random.default_rng(5)
    people = random.standard_normal((n // 4 + 1, width))
    rows = people[random.integers(0, len(people), n)] + 0.5 * random.standard_normal((n, width))
    if n > 20:
        rows[[3, n // 2]] = 0
        rows[[7, n // 2 + 1, n - 2]] = rows[19]
        rows[[8, n // 2 + 2, n - 1]] = np.eye(width)[:3]  # as far from each other to the last bit
    return rows.astype(dtype)


def same(result, expected):
    """Equal to the last bit, in one dtype."""
    result = np.asarray(result)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


CUTS = [(1, 11), (7, 83), (1000, 300), ((40, 0, 3, 40), 83), (1000, 1), (3, 0), (1, 2)]


@pytest.mark.parametrize(("chunks", "n"), CUTS)
@pytest.mark.parametrize("k", [1, 4])
def test_neighbors_are_those_of_one_machine(chunks, n, k):
    x = make_rows(n)
    found = distributed.knn_graph(da.from_array(x, chunks=(chunks, 5)), k)
    expected = pose2id.knn_graph(x, k)
    indices, distances = dask.compute(found.indices, found.distances)
    same(indices, expected.indices)
    same(distances, expected.distances)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"k1": 4, "k2": 3, "alpha": 2.0},
        {"normalize": False},
        {"k1": 0},
        {"generated": True, "eta": 0.5},
        {"generated": True, "eta": 0.0},
        {"exclude": True, "k2": 3, "engine": "faiss"},
    ],
)
def test_rows_are_those_of_one_machine(dtype, settings):
    if "engine" in settings:
        pytest.importorskip("faiss", reason="faiss is not installed")
    x, random = make_rows(83, dtype=dtype), np.random.default_rng(0)
    given, as_dask = dict(settings), dict(settings)
    if "generated" in settings:
        given["generated"] = random.standard_normal((83, 3, 12)).astype(dtype)
        as_dask["generated"] = da.from_array(given["generated"], chunks=(30, 2, 5))
    if "exclude" in settings:
        given["exclude"] = as_dask["exclude"] = random.integers(0, 4, 83)
    result = distributed.centralize(da.from_array(x, chunks=(31, 12)), **as_dask)
    assert (result.shape, result.dtype) == (x.shape, dtype)
    same(result.compute(), pose2id.centralize(x, **given))


@pytest.mark.parametrize("rows_of_a_block", [64, 128])
def test_every_pair_of_rows_is_multiplied_once(monkeypatch, rows_of_a_block):
    """Only pieces of 64 rows, into which blocks are cut, are multiplied with themselves as whole squares."""
    monkeypatch.setattr(blocks, "SEARCHED", 64 * 12 * 4)
    x = np.random.default_rng(0).standard_normal((512, 12), dtype=np.float32)
    expected, products = pose2id.knn_graph(x, 3).indices, []
    for name, factor in (("mm", 0), ("addmm", 1)):
        original = getattr(torch, name)

        def count(*factors, original=original, factor=factor, **options):
            products.append(len(factors[factor]) * factors[factor + 1].shape[1])
            return original(*factors, **options)

        monkeypatch.setattr(torch, name, count)
    found = distributed.knn_graph(da.from_array(x, chunks=(rows_of_a_block, 12)), 3).indices.compute()
    assert sum(products) == (512**2 + 8 * 64**2) / 2
    same(found, expected)


def test_bytes_in_another_order():
    x, cams = make_rows(83), np.random.default_rng(0).integers(0, 4, 83)
    turned = da.from_array(x.astype(x.dtype.newbyteorder()), chunks=(31, 12))
    found = distributed.centralize(turned, turned, exclude=da.from_array(cams.astype(cams.dtype.newbyteorder()), 50))
    assert found.dtype == turned.dtype
    np.testing.assert_array_equal(found.compute(), pose2id.centralize(x, x, exclude=cams))


def test_rows_of_a_file_of_numpy(tmp_path):
    """As on the page: workers read their rows themselves, and none travels with the graph."""
    x, path = make_rows(83), str(tmp_path / "x.npy")
    np.save(path, x)

    def read(path, block_info):
        rows, _ = block_info[None]["array-location"]
        return np.load(path, mmap_mode="r")[slice(*rows)]

    file = np.load(path, mmap_mode="r")
    chunks = da.core.normalize_chunks((30, -1), file.shape)
    features = da.map_blocks(read, path, chunks=chunks, dtype=file.dtype, meta=np.empty((0, 0), file.dtype))
    result = distributed.centralize(features)
    assert not any(isinstance(each, np.ndarray) for each in features.__dask_graph__().values())
    same(result.compute(), pose2id.centralize(x))


@pytest.mark.filterwarnings("ignore:Dask currently has limited support for converting pandas")
def test_columns_of_parquet(tmp_path):
    """As on the page; Dask cuts the columns of one file otherwise than the file."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    x, columns = make_rows(83), [f"f{number}" for number in range(12)]
    cams = np.array(["a", "bb", "c"])[np.arange(83) % 3]
    table = pandas.DataFrame(x, columns=columns).assign(cam=cams, other=0.5)
    for start in range(0, 83, 20):
        table[start : start + 20].to_parquet(tmp_path / f"{start:02}.parquet")
    frame = pytest.importorskip("dask.dataframe").read_parquet(tmp_path)
    features = frame[columns].to_dask_array().compute_chunk_sizes()
    labels = frame["cam"].to_dask_array().compute_chunk_sizes().astype(str)
    same(distributed.centralize(features, exclude=labels).compute(), pose2id.centralize(x, exclude=cams))
    with pytest.raises(TypeError, match="received Series; to_dask_array"):
        distributed.centralize(features, exclude=frame["cam"])


@pytest.mark.parametrize("kind", [np.int32, str])
def test_labels_may_be_a_dask_array(kind):
    x, labels = make_rows(83), np.random.default_rng(0).integers(0, 4, 83).astype(kind)
    found = distributed.centralize(da.from_array(x, chunks=(31, 12)), exclude=da.from_array(labels, chunks=50))
    same(found.compute(), pose2id.centralize(x, exclude=labels))
    both = da.from_array(x, chunks=(31, 12))
    same(distributed.centralize(both, both, exclude=labels).compute(), pose2id.centralize(x, x, exclude=labels))


def test_small_chunks_are_put_together(monkeypatch):
    monkeypatch.setattr(sources, "SMALLEST", 12 * 4 * 10)
    x = da.from_array(make_rows(83), chunks=(1, 12))
    assert distributed.centralize(x).chunks[0] == (10,) * 7 + (13,)


def count_bytes(value):
    """Bytes of all arrays in what a task gives."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(map(count_bytes, value)) if isinstance(value, tuple | list) else 0


@pytest.mark.parametrize("settings", [{"k1": 8, "k2": 8}, {"k1": 1, "k2": 1, "generated": 6}])
def test_no_task_is_given_more_than_three_blocks(settings):
    """Of many mutual neighbours, and of many generated features, tasks of parts of a block are given parts."""
    x, given, expected = make_rows(144, 64), dict(settings), dict(settings)
    if "generated" in settings:
        expected["generated"] = np.random.default_rng(0).standard_normal((144, 6, 64), dtype=np.float32)
        given["generated"] = da.from_array(expected["generated"], chunks=(12, 6, 64))
    held = []

    def note(key, _, state):
        if str(key).startswith(("centralize", "('centralize")):
            held.append(sum(count_bytes(state["cache"][each]) for each in state["dependencies"][key]))

    with dask.callbacks.Callback(pretask=note):
        found = distributed.centralize(da.from_array(x, chunks=(48, 64)), **given).compute()
    same(found, pose2id.centralize(x, **expected))
    assert 2 < max(held) / (48 * 64 * 4) < 3.1  # and tables


HOLDING = """
import re
from pathlib import Path

import numpy as np
import torch

from pose2id.distributed import blocks, pivots

ROWS, WIDTH = 256, 16_384
BLOCK = ROWS * WIDTH * 4
most = {}


def status(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def call(function, *arguments, **settings):
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    begun = status("VmRSS")
    result = function(*arguments, **settings)
    most[function.__name__] = max(most.get(function.__name__, 0), (status("VmHWM") - begun) / BLOCK)
    return result


people = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
given = [people + np.random.default_rng(1 + i).standard_normal(people.shape, np.float32) for i in range(3)]
generated, starts = np.stack(given[1:], axis=1), [0, ROWS, 2 * ROWS]
small = [blocks.fuse_block(each[:32, :64], first=32 * i) for i, each in enumerate(given)]
for pair in ((0, 0), (0, 1)):  # libraries are loaded
    blocks.search_pair(small[pair[0]], small[pair[1]], k=2, engine="exact", zeros=False)
call(blocks.fuse_block, given[0], generated, first=0, eta=1.0, normalize=True)
del generated
fused = [call(blocks.fuse_block, each, first=first, normalize=True) for each, first in zip(given, starts)]
del given, people
how = {"k": 2, "engine": "exact", "zeros": False}
pairs = {(i, j): call(blocks.search_pair, fused[i], fused[j], **how) for i in range(3) for j in range(i, 3)}
tables = []
for i in range(3):
    sides = [(pairs[min(i, j), max(i, j)], int(j < i)) for j in range(3)]
    tables.append(call(blocks.merge_sides, *zip(*sides)))
part = slice(0, ROWS)
asks = [call(blocks.ask, tables[i], first=starts[i], part=part, starts=starts, k1=2) for i in range(3)]
told = [
    call(blocks.answer, fused[j], tables[j], [asks[0][j]], firsts=starts[:1], k2=2)[0] for j in range(3)
]
assert sum(each.rows.nbytes for each in told) == 2 * BLOCK
for alpha in (0.0, 2.0):
    call(blocks.add_block, fused[0], told, part=part, alpha=alpha, normalize=True, dtype=torch.float32)
del told
call(blocks.join_parts, fused[:1])
samples = [call(pivots.take_sample, each, count=100) for each in fused]
trained = call(pivots.train, samples, parts=3)
for each in fused:
    call(pivots.join, each, trained, parts=3, zeros=False)
joined = pivots.Joined(np.arange(ROWS // 2), np.zeros(ROWS // 2, np.int64))
sent = [call(pivots.send, each, joined, first=0, stop=1) for each in fused]
del fused
met = call(pivots.search_part, sent, k=2, device="cpu")
call(pivots.join_tables, met[:1], rows=ROWS, first=0, k=2, dtype=np.float32)
for name, peak in most.items():
    print(name, round(peak, 2))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_a_task_takes_two_and_a_half_blocks_beside_what_it_is_given():
    """Its result included; measured in a process in which nothing else happens, with the allocator as Dask sets it."""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", HOLDING], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    taken = {name: float(peak) for name, peak in map(str.split, ran.stdout.splitlines())}
    assert len(taken) == 13
    assert {name: peak for name, peak in taken.items() if peak > 2.5} == {}


@pytest.mark.parametrize("scale", [1, 1e30])
def test_pivots_find_most(monkeypatch, scale):
    monkeypatch.setattr(blocks, "SEARCHED", 2**24)
    x = make_rows(4000, 16) * np.float32(scale)
    expected = pose2id.knn_graph(x, 2)
    found = distributed.knn_graph(da.from_array(x, chunks=(700, 16)), 2, engine="pivots")
    indices, distances = dask.compute(found.indices, found.distances)
    recall = (indices[:, :, None] == expected.indices[:, None, :]).any(axis=2).mean()
    assert recall > 0.97
    hit = indices == expected.indices
    np.testing.assert_array_equal(distances[hit], expected.distances[hit])
    own = np.linalg.norm(x[:, None].astype(np.float64) - x[indices], axis=2)
    np.testing.assert_allclose(distances, own, rtol=1e-6)
    assert (indices != np.arange(4000)[:, None]).all()


@pytest.mark.parametrize("columns", [16, 600])
@pytest.mark.parametrize("structured", [True, False])
def test_parts_are_about_as_large_as_blocks(structured, columns):
    """Also where all rows are about as far from each other, and the pivots nearest to the mean near to all."""
    x = make_rows(4000, columns) if structured else np.random.default_rng(0).standard_normal((4000, columns)) + 9
    block = blocks.fuse_block(x, first=0)
    trained = pivots.train([pivots.take_sample(block, count=900)], parts=7)
    sizes = np.bincount(pivots.join(block, trained, parts=7, zeros=True).part, minlength=7)
    assert sum(sizes) >= 4000
    assert max(sizes) < 1.6 * sum(sizes) / 7


@pytest.mark.parametrize("parts", [1, 2, 8, 9, 64, 65, 100])
def test_rows_for_parts_are_sent_over_groups(parts):
    """Every part gets its rows of every block once; no task sends to more than `GROUPS` groups of what it is given."""
    rng = np.random.default_rng(parts)
    block = blocks.Block(rng.standard_normal((40, 3)), 100, rng.integers(0, 9, 40))
    joins = rng.random((parts, 40)) < 0.2
    part, row = joins.nonzero()
    graph = graphs._Graph(SimpleNamespace(sizes=[40]), "knn", "token")
    graph._send(0, parts, "block", "joined")
    given = {"block": block, "joined": pivots.Joined(row, part)}

    def run(key):
        call, *needed = graph.tasks[key]
        users[tuple(needed)] = users.get(tuple(needed), 0) + 1
        for each in needed:
            if each not in given:
                given[each] = run(each)
        return call(*(given[each] for each in needed))

    users = {}
    for p in range(parts):
        sent = run(graph.key("sent1", 0, p))
        np.testing.assert_array_equal(sent.indices, 100 + joins[p].nonzero()[0])
        np.testing.assert_array_equal(sent.rows, block.rows[joins[p]])
        np.testing.assert_array_equal(sent.labels, block.labels[joins[p]])
    assert max(users.values()) <= graphs.GROUPS


def test_a_sample_is_no_larger_than_a_block():
    counts = pivots.share_sample([1000] * 122, pivots.count_parts([1000] * 122), 16_384)
    assert 40_000 < sum(counts) <= 64_000 + 122  # times 256 columns
    block = blocks.fuse_block(np.random.default_rng(0).standard_normal((50, 1000)), first=0)
    sample = pivots.take_sample(block, count=counts[0])
    assert sample.rows.shape == (50, 256)
    assert np.abs(sample.rows).max() == 1
    lengths = np.linalg.norm(sample.rows[1:] - sample.rows[0], axis=1) * sample.largest
    np.testing.assert_allclose(lengths, np.linalg.norm(block.rows[1:] - block.rows[0], axis=1), rtol=0.25)


@pytest.mark.parametrize("n", [0, 1, 5, 83])
def test_pivots_of_few_rows_are_all_neighbors(n):
    x = make_rows(n)
    same(
        distributed.centralize(da.from_array(x, chunks=(1000, 12)), engine="pivots").compute(),
        pose2id.centralize(x),
    )
    found = distributed.centralize(da.from_array(np.zeros_like(x), chunks=(30, 12)), engine="pivots").compute()
    same(found, np.zeros_like(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: distributed.centralize(x.compute()), "features must be a dask array, received ndarray"),
        (lambda x: distributed.centralize(x.astype(int)), "received dtype int64"),
        (lambda x: distributed.centralize(x[0]), r"features must have shape \(N, D\), received \(12,\)"),
        (lambda x: distributed.centralize(x[:, :0]), "at least one column"),
        (lambda x: distributed.centralize(x[x[:, 0] > 0]), "compute_chunk_sizes"),
        (lambda x: distributed.centralize(x, x[:5]), "generated must have shape"),
        (lambda x: distributed.centralize(x, exclude=[1, 2]), "one label per row"),
        (lambda x: distributed.centralize(x, exclude=x[:, 0]), "exclude must be integers or strings"),
        (lambda x: distributed.centralize(x, exclude=x[:, 0].astype(object)), r"make strings by .astype\(str\)"),
        (lambda x: distributed.centralize(x, exclude=x[:, 0][x[:, 0] > 0]), "exclude .* compute_chunk_sizes"),
        (
            lambda x: distributed.centralize(x, exclude=dask.delayed(x)),
            "exclude must be a dask array, received Delayed",
        ),
        (lambda x: distributed.centralize(x, engine="faiss-ivf"), "engine on a cluster must be one of"),
        (lambda x: distributed.centralize(x, device="tpu"), "device must be one of"),
        (lambda x: distributed.knn_graph(x, 0), "k must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make(da.from_array(make_rows(83), chunks=(31, 12)))


def test_rows_that_are_not_finite_are_named():
    x = make_rows(83)
    x[50] = np.nan
    with pytest.raises(ValueError, match=r"features\[31:62\] must be finite, .* in 1 row\(s\): 19;"):
        distributed.centralize(da.from_array(x, chunks=(31, 12))).compute()


@contextmanager
def started(**options):
    """The client of a cluster of this machine."""
    package = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'pose2id[dask]'")
    options |= {"threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": starting.METHOD}),
        mock.patch("distributed.utils._forkserver_preload_set", True),  # by `starting`
        package.LocalCluster(**options) as cluster,
        package.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what libraries say of a worker that dies
def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    x = make_rows(300)
    marker = str(tmp_path / "died")

    def load(rows, marker):
        """The rows; the third block kills the process that reads it first, and whatever that has done by then."""
        import os
        import pathlib
        import signal

        if rows[0, 0] == x[100, 0] and not pathlib.Path(marker).exists():
            pathlib.Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    source = da.from_array(x, chunks=(50, 12)).map_blocks(load, marker, dtype=x.dtype, meta=x[:0])
    with started(n_workers=2) as client:
        found = client.compute(distributed.centralize(source, alpha=2.0)).result(120)
    assert (tmp_path / "died").exists()
    same(found, pose2id.centralize(x, alpha=2.0))


@pytest.mark.filterwarnings("ignore")
def test_the_command_shows_no_warning_of_a_taken_port_or_of_text(tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    package = pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(package, "LocalCluster", partial(package.LocalCluster, processes=False))
    x, cams = make_rows(9), np.array(list("abcabcabc"))
    group = zarr.open_group("in.zarr", mode="w")
    group.create_array("features", data=x)
    group.create_array("cams", data=cams)
    with socket.socket() as usual, warnings.catch_warnings(record=True) as told:
        with suppress(OSError):  # somebody has it already
            usual.bind(("", 8787))
            usual.listen()
        warnings.simplefilter("always")
        assert main(["centralize", "in.zarr", "-o", "out.zarr", "--exclude-cams", "--scheduler", "local"]) == 0
    assert [line for each in told if re.search("Port|Zarr V3", line := str(each.message))] == []
    written = zarr.open_group("out.zarr", mode="r")
    same(written["features"][:], pose2id.centralize(x, exclude=cams))
    same(written["cams"][:], cams)


@pytest.mark.filterwarnings("ignore")
def test_the_command_goes_from_one_zarr_group_to_another(tmp_path, capsys):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    x, cams = make_rows(83), np.random.default_rng(0).integers(0, 3, 83)
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="w")
    for name, array in {"features": x, "generated": np.stack([x[::-1], x], axis=1), "cams": cams}.items():
        group.create_array(name, data=array, chunks=(20, *array.shape[1:]))
    command = ["centralize", str(tmp_path / "in.zarr"), "-o", str(tmp_path / "out.zarr"), "--exclude-cams"]
    with started(n_workers=1, processes=False) as client:
        assert main([*command, "--scheduler", client.scheduler.address]) == 0
    assert "83 x 12, float32" in capsys.readouterr().out
    written = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    same(written["features"][:], pose2id.centralize(x, np.stack([x[::-1], x], axis=1), exclude=cams))
    same(written["cams"][:], cams)


class Elsewhere:
    """A client of a cluster of which one worker sees no folder of this machine but its root."""

    def run(self, function, folder):
        return {"tcp://here:1": function(folder), "tcp://there:2": folder == "/"}

    def scheduler_info(self):
        return {"workers": {}}


def test_workers_must_see_what_they_read_and_write(tmp_path):
    said = []
    sources._check_reach(Elsewhere(), ["/"], said.append)
    assert said == ["the scheduler has no workers; waiting for the first"]
    with pytest.raises(
        ValueError, match=r"1 of 2 workers, such as tcp://there:2, do not see /.*: both groups must lie on"
    ):
        sources._check_reach(Elsewhere(), ["/", str(tmp_path)], said.append)


def test_chunks_that_did_not_arrive_are_missed(tmp_path, monkeypatch):
    pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.setattr(da, "store", lambda *_, **__: None)
    monkeypatch.setattr(sources, "_connect", lambda _: nullcontext(mock.Mock(dashboard_link=None)))
    monkeypatch.setattr(sources, "_check_reach", mock.Mock())
    x = da.zeros((5, 3), chunks=(3, 3))
    with pytest.raises(ValueError, match="2 of 2 chunks are not there"):
        sources.write_zarr(str(tmp_path / "y.zarr"), x, {}, "local", mock.Mock(), source="x.zarr")


@pytest.mark.filterwarnings("ignore")
def test_what_ends_a_computation_is_explained():
    package = pytest.importorskip("distributed", reason="distributed is not installed")
    with pytest.raises(ValueError, match=r"workers died .* \(--memory-limit\)"), sources._explain():
        raise package.KilledWorker("task", mock.Mock(address="tcp://there:1"), 3)
    with pytest.raises(ValueError, match="scheduler went away"), sources._explain():
        raise CancelledError("lost")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.zarr", "-o", "y.zarr"], "add --scheduler local"),
        (
            ["x.npz", "-o", "y.zarr", "--scheduler", "local"],
            "--scheduler goes with .zarr groups, received the feature file",
        ),
        (["x.zarr", "-o", "y.npy", "--scheduler", "local"], "--scheduler goes with .zarr groups, received -o"),
        (["x.zarr", "-o", "y.zarr", "--scheduler", "local", "--fill"], "--fill does not go with --scheduler"),
        (["x.zarr", "-o", "y.zarr", "--scheduler", "local"], "x.zarr must be a zarr group"),
        (["in.zarr", "-o", "y.zarr", "--scheduler", "nowhere"], "scheduler must be 'local' or an address such as"),
        (["in.zarr", "-o", "y.zarr", "--scheduler", "local", "--exclude-cams"], "needs an array 'cams' in in.zarr"),
        (
            ["in.zarr", "-o", "in.zarr", "--scheduler", "local"],
            "output in.zarr exists already; name another or pass --overwrite",
        ),
        (
            ["bare.zarr", "-o", "y.zarr", "--scheduler", "local"],
            'it is a bare array; write it with component="features"',
        ),
        (["in.zarr", "-o", "y.zarr", "--scheduler", "local", "--engine", "faiss-ivf"], "engine on a cluster must be"),
        (["empty.zarr", "-o", "y.zarr", "--scheduler", "local"], "must hold an array 'features', it holds none"),
    ],
)
def test_the_command_says_what_is_wrong(words, said, tmp_path, monkeypatch, capsys):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.chdir(tmp_path)
    zarr.open_group("in.zarr", mode="w").create_array("features", data=make_rows(5))
    zarr.open_group("empty.zarr", mode="w")
    da.to_zarr(da.ones((5, 3)), "bare.zarr")
    assert main(["centralize", *words]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
