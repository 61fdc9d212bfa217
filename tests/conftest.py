"""One fixture per axis: kind of array, engine, device. Plus the settings of the property tests."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from standin import reason_to_skip, standin

from pose2id.neighbors._int8 import filter as _filter

settings.register_profile("ci", deadline=None, derandomize=True, database=None, max_examples=30)
settings.register_profile("search", deadline=None, database=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class ArrayKind:
    """A container and a dtype that the package must accept and give back."""

    container: str
    dtype: str

    def make(self, values, device="cpu"):
        """Build an array of this kind from float64 numpy values."""
        values = np.asarray(values, dtype=np.float64)
        if self.container == "torch":
            return torch.tensor(values).to(getattr(torch, self.dtype)).to(device)
        array = values.astype(self.dtype)
        if self.container == "numpy-readonly":
            array.setflags(write=False)
        return array

    def rounded(self, values):
        """Give the float64 values that ``make(values)`` really holds."""
        return as_float64(self.make(values))

    def holds(self, array):
        """Whether ``array`` has this container and this dtype."""
        return self.has_container(array) and str(array.dtype).removeprefix("torch.") == self.dtype

    def has_container(self, array):
        """Whether ``array`` has this container, whatever its dtype."""
        return isinstance(array, torch.Tensor if self.container == "torch" else np.ndarray)

    @property
    def single(self):
        """Whether distances of this kind are float32."""
        return self.dtype != "float64"

    @property
    def distance_dtype(self):
        """The dtype of distances computed from this kind."""
        return "float32" if self.single else "float64"

    @property
    def epsilon(self):
        """A few roundings to this dtype, relative."""
        return {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-13}[self.dtype]


def as_float64(array):
    """Turn any array into float64 numpy values."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


KINDS = [
    ArrayKind("numpy", "float16"),
    ArrayKind("numpy", "float32"),
    ArrayKind("numpy", "float64"),
    ArrayKind("numpy-readonly", "float32"),
    ArrayKind("numpy-readonly", "float64"),
    ArrayKind("torch", "float16"),
    ArrayKind("torch", "bfloat16"),
    ArrayKind("torch", "float32"),
    ArrayKind("torch", "float64"),
]


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: f"{kind.container}-{kind.dtype}")
def array_kind(request):
    """Every container and dtype."""
    return request.param


def filter_everything(patch, *, projection=False):
    """The int8 filter on sets of any size and kind, with rotation or, where columns are enough, projection codes."""
    columns = 16 if projection else 0
    thresholds = _filter.Thresholds(smallest=24, fewest=1, captured=0.0, structure=False, speed=0.0, columns=columns)
    patch.setattr(_filter, "THRESHOLDS", thresholds)


@pytest.fixture(scope="session", params=["exact", "exact, int8", "exact, projection", "faiss"])
def engine(request):
    """Every exact engine that is installed; `exact` also with its int8 filter on sets of any size and kind."""
    if request.param == "faiss" and importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if "," in request.param:
            filter_everything(patch, projection="projection" in request.param)
        yield request.param.partition(",")[0]


@pytest.fixture(params=["cpu", "cuda-standin", "cuda"])
def device(request):
    """Every kind of device that is present, and a stand-in for the one that may be missing, see standin.py."""
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
def golden():
    """Inputs and outputs of the released code, see golden/README.md."""
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(GOLDEN / "golden.safetensors")
