"""One fixture per axis: kind of array, engine, device. Plus the settings of the property tests."""

import gc
import importlib.util
import os

import pytest
import torch
from hypothesis import settings
from support.arrays import KINDS
from support.engines import ENGINES, Way
from support.faiss import STATES
from support.golden import GOLDEN
from support.postgresql import find_closed, serve
from support.standin import reason_to_skip, standin

from pose2id.neighbors._native import load_kernel

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each, also of those they start
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

settings.register_profile("ci", deadline=None, derandomize=True, database=None, max_examples=14)
settings.register_profile("search", deadline=None, database=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items):
    """What needs a server is called so, for `make test-postgresql` and `make test-milvus`."""
    for item in items:
        for fixture, mark in (("server", pytest.mark.postgresql), ("milvus", pytest.mark.milvus)):
            if fixture in item.fixturenames:
                item.add_marker(mark)


def pytest_collection_finish():
    """A million objects of libraries and tests stay to the end: whoever looks for garbage need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test goes the way of its `engine`: that fixture lives on, the way ends with the test."""
    way = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(way, Way):
            way.take(patch)
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    """Files are written and asked to be on the disk as ever; that they are is waited for in `test_atomic` only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: f"{kind.container}-{kind.dtype}")
def array_kind(request):
    """Every container and dtype."""
    return request.param


@pytest.fixture(scope="session", params=ENGINES)
def engine(request):
    """Every exact engine that is installed; `exact` also with its int8 filter, `native` on sets of any size."""
    if request.param == "faiss" and importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss is not installed")
    if request.param == "native" and load_kernel()[0] is None:
        pytest.skip(f"the native kernel is {load_kernel()[1]}")
    return request.param.partition(",")[0]


@pytest.fixture(params=["cpu", "cuda-standin", "cuda"])
def device(request):
    """Every kind of device that is present, and a stand-in for the one that may be missing, see support/standin.py."""
    if request.param == "cuda-standin":
        if reason_to_skip():
            pytest.skip(reason_to_skip())
        with standin():
            yield "cuda"
    elif request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    else:
        yield request.param


@pytest.fixture(scope="session")
def server():
    """The URL of a real PostgreSQL server, with pgvector."""
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pgserver", reason="the package pgserver, a PostgreSQL server, is not installed")
    if closed := find_closed(pgserver):
        pytest.skip(f"as root pgserver would open {closed[0]} to everybody; set CI=1 where that is no matter")
    with serve(pgserver) as url:
        yield url


@pytest.fixture(scope="session")
def golden():
    """Inputs and outputs of the released code, see golden/README.md."""
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(params=STATES, ids=lambda state: state.__name__.removeprefix("state_"))
def faiss_state(request, monkeypatch, tmp_path):
    """Every state, entered; gives whether faiss works then, and the sentence."""
    request.param(monkeypatch, tmp_path)
    return STATES[request.param]
