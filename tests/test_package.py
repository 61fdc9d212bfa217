"""What the installed distribution promises; runs on a checkout and, from a wheel, anywhere else."""

from __future__ import annotations

import ctypes
import re
from importlib import metadata, resources

import pytest

import pose2id
from pose2id.neighbors import describe_engines
from pose2id.neighbors._native import ABI_VERSION

EXTRAS = {
    "faiss-cpu": {"faiss-cpu"},
    "faiss-gpu": {"faiss-gpu"},
    "ipg": {"accelerate", "diffusers", "filelock", "huggingface-hub", "pillow", "safetensors"},
    "train": {"tensorboard"},
    "poses": {"onnxruntime"},
    "onnx": {"onnxruntime", "pillow"},
    "report": {"jinja2", "pillow"},
    "plots": {"matplotlib", "pillow"},
    "dask": {"dask", "distributed", "zarr"},
    "gallery": {"filelock", "sqlalchemy"},
    "postgresql": {"filelock", "psycopg", "sqlalchemy"},
    "milvus": {"filelock", "pymilvus", "sqlalchemy"},
    "pgvector": {"filelock", "psycopg", "sqlalchemy"},
    "completion": {"shtab"},
}
# Not faiss-gpu: the two faiss wheels install into the same folder, and faiss-cpu exists on every platform.
EXTRAS["all"] = set().union(*EXTRAS.values()) - {"faiss-gpu"}


def required(extra: str | None) -> dict[str, str]:
    """Package name -> requirement, of the hard dependencies (None) or of one extra."""
    found = {}
    for requirement in metadata.requires("pose2id") or []:
        belongs_to = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if (belongs_to.group(1) if belongs_to else None) == extra:
            name = re.match(r"[\w-]+", requirement)
            assert name is not None
            found[name.group().lower()] = requirement
    return found


def test_the_version_is_that_of_the_metadata() -> None:
    assert pose2id.__version__ == metadata.version("pose2id")


def test_hard_dependencies() -> None:
    assert set(required(None)) == {"numpy", "scipy", "torch", "tqdm"}


def test_extras() -> None:
    declared = metadata.metadata("pose2id").get_all("Provides-Extra")
    assert {extra: set(required(extra)) for extra in declared or []} == EXTRAS


def test_faiss_gpu_is_asked_for_only_where_its_wheel_exists() -> None:
    requirement = required("faiss-gpu")["faiss-gpu"]
    assert re.search(r"platform_system == ['\"]Linux['\"]", requirement)
    assert re.search(r"platform_machine == ['\"]x86_64['\"]", requirement)


def test_python_and_licence() -> None:
    described = metadata.metadata("pose2id")
    assert described["Requires-Python"] == ">=3.11"
    assert described["License-Expression"] == "MIT"
    licences = [file for file in metadata.files("pose2id") or [] if file.match("licenses/LICENSE")]
    assert len(licences) == 1
    assert "Copyright (c) 2026 the pose2id authors" in licences[0].read_text()


def test_the_command_is_installed() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="pose2id")
    assert command.value == "pose2id.cli:main"


def test_a_wheel_of_one_platform_has_the_native_engine_and_another_none() -> None:
    described = metadata.distribution("pose2id").read_text("WHEEL") or ""
    libraries = [file for file in metadata.files("pose2id") or [] if file.match("neighbors/_native/_kernel.*")]
    assert len(libraries) == (0 if "Tag: py3-none-any" in described else 1)
    for library in libraries:
        assert ctypes.CDLL(str(library.locate())).pose2id_abi_version() == ABI_VERSION
        assert [works for name, works, _ in describe_engines() if name == "native"] == [True]


SHIPPED = ["py.typed", "data/omniglot_tiny.npz", "data/README.md", "data/LICENSE", "data/tiny.toml"]
SHIPPED += ["data/tiny/README.md", "data/tiny/model_index.json", "data/tiny/unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("path", SHIPPED)
def test_files_beside_the_code_are_installed(path: str) -> None:
    assert resources.files("pose2id").joinpath(path).is_file()


@pytest.mark.parametrize("name", pose2id.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(pose2id, name).__name__ == name
    assert getattr(pose2id, name).__module__.startswith("pose2id.")


def test_public_names_are_sorted_and_listed() -> None:
    assert pose2id.__all__ == sorted(set(pose2id.__all__))
    assert set(pose2id.__all__) <= set(dir(pose2id))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'centralise'.*centralize"):
        pose2id.centralise  # noqa: B018
