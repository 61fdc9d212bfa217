"""A stand-in for faiss, with the worst order of ties that faiss allows; and all that can be wrong with faiss."""

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types

import numpy as np

from pose2id.neighbors import _faiss, engines

INSTALL = "pip install 'pose2id[faiss-cpu]'"
CPU_WHEELS = ("faiss-cpu",)


class StandInIndex:
    """A flat index; equal distances come with the higher index first."""

    def __init__(self, module, width, place="CPU"):
        self.module, self.place, self.rows = module, place, np.empty((0, width), np.float32)

    def add(self, rows):
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries, k):
        assert queries.dtype == np.float32
        assert queries.flags.c_contiguous
        self.module.searches.append((self.place, len(queries), k))
        if self.place == "GPU" and k > 2048:
            raise RuntimeError("GPU index only supports min/max-K selection up to 2048")
        squared = np.square(queries).sum(axis=1)[:, None] + np.square(self.rows).sum(axis=1) - 2 * queries @ self.rows.T
        order = len(self.rows) - 1 - np.argsort(squared[:, ::-1], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(squared, order, axis=1), order


class StandIn(types.ModuleType):
    """A module `faiss` that keeps a record: `searches` (place, rows, k) and `gpu_calls`."""

    __version__ = "9.9.9"

    def __init__(self, gpus=0):
        super().__init__("faiss")
        self.gpus, self.searches, self.gpu_calls = gpus, [], []

    def get_num_gpus(self):
        return self.gpus

    def IndexFlatL2(self, width):
        return StandInIndex(self, width)

    def index_cpu_to_all_gpus(self, index):
        self.gpu_calls.append("index_cpu_to_all_gpus")
        if not self.gpus:  # faiss ends the process here, with SIGABRT
            raise AssertionError("a GPU function was called without a GPU")
        index.place = "GPU"
        return index

    def __getattr__(self, name):
        if "gpu" in name.lower():
            self.gpu_calls.append(name)
        raise AttributeError(name)


def pretend_installed(monkeypatch, *names):
    """Let the metadata say that of all faiss wheels these are installed, whether they are or not."""
    real = importlib.metadata.distribution

    def distribution(name):
        if name in names:
            return types.SimpleNamespace(version="1.2.3")
        if name in _faiss.DISTRIBUTIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def put(monkeypatch, module, *wheels):
    """Let `import faiss` give this module, or ModuleNotFoundError for None."""
    engines._faiss_works.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", module)
    pretend_installed(monkeypatch, *wheels)
    return module


def fail_on_import(monkeypatch, folder, source, *wheels):
    """Let `import faiss` run this source, which raises."""
    (folder / "faiss.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    engines._faiss_works.cache_clear()
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    pretend_installed(monkeypatch, *wheels)


def empty_namespace(folder):
    """The module that Python makes of a folder without files."""
    (folder / "faiss").mkdir()
    return importlib.util.module_from_spec(importlib.machinery.PathFinder.find_spec("faiss", [str(folder)]))


RUNTIME_ERROR = "raise RuntimeError('libcublas.so.12:\\n  cannot open shared object file')"
LOST_LIBRARY = "raise ImportError('libfaiss.so: cannot\\nopen')"


def state_missing(monkeypatch, _folder):
    put(monkeypatch, None)


def state_runtime_error(monkeypatch, folder):
    fail_on_import(monkeypatch, folder, RUNTIME_ERROR, "faiss-gpu")


def state_runtime_error_without_wheel(monkeypatch, folder):
    fail_on_import(monkeypatch, folder, RUNTIME_ERROR)


def state_import_error(monkeypatch, folder):
    fail_on_import(monkeypatch, folder, LOST_LIBRARY, "faiss-cpu")


def state_empty_namespace(monkeypatch, folder):
    put(monkeypatch, empty_namespace(folder))


def state_empty_namespace_of_one_wheel(monkeypatch, folder):
    put(monkeypatch, empty_namespace(folder), "faiss-gpu")


def state_empty_namespace_of_two_wheels(monkeypatch, folder):
    put(monkeypatch, empty_namespace(folder), "faiss-cpu", "faiss-gpu")


def state_both_wheels(monkeypatch, _folder):
    put(monkeypatch, StandIn(), "faiss-cpu", "faiss-gpu")


def state_cpu(monkeypatch, _folder):
    put(monkeypatch, StandIn(), "faiss-gpu")  # the wheel for GPUs on a machine without a driver


def state_gpu(monkeypatch, _folder):
    put(monkeypatch, StandIn(gpus=2), "faiss-gpu")


NO_CUBLAS = "faiss cannot be imported (RuntimeError: libcublas.so.12: cannot open shared object file)"
LOST = "faiss-cpu is installed but cannot be imported (libfaiss.so: cannot open)"
EMPTY = "faiss is an empty package, left over from an uninstalled wheel"
SEVERAL = "several faiss wheels are installed over each other (faiss-cpu, faiss-gpu)"
STATES = {
    state_missing: (False, f"not installed: {INSTALL} (or 'pose2id[faiss-gpu]' on Linux x86-64 with CUDA)"),
    state_runtime_error: (False, f"{NO_CUBLAS}: pip uninstall -y faiss-gpu && {INSTALL}"),
    state_runtime_error_without_wheel: (False, f"{NO_CUBLAS}: {INSTALL}"),
    state_import_error: (False, f"{LOST}: pip uninstall -y faiss-cpu && {INSTALL}"),
    state_empty_namespace: (False, f"{EMPTY}: {INSTALL}"),
    state_empty_namespace_of_one_wheel: (False, f"{EMPTY}: pip uninstall -y faiss-gpu && {INSTALL}"),
    state_empty_namespace_of_two_wheels: (False, f"{SEVERAL}: pip uninstall -y faiss-cpu faiss-gpu && {INSTALL}"),
    state_both_wheels: (
        True,
        f"faiss 9.9.9, CPU; {SEVERAL}; keep one: pip uninstall -y faiss-cpu faiss-gpu && {INSTALL}",
    ),
    state_cpu: (True, "faiss 9.9.9, CPU"),
    state_gpu: (True, "faiss 9.9.9, 2 GPU(s)"),
}
"""What can be the matter with faiss: whether it works, and the sentence about it."""
