"""`import pose2id` loads numpy at most, and the command line no torch; each check is a fresh interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

import pose2id

IMPORT = "import pose2id; dir(pose2id)"


def third_party_modules_loaded_by(code: str, folder: Path | None = None, said: Sequence[str] = ()) -> set[str]:
    """Top-level modules outside the standard library that `code` loads; `folder` is searched first.

    The lines that it `said` must be among those that it prints.
    """
    program = f"""
import json, sys
before = set(sys.modules)
{code}
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(added - set(sys.stdlib_module_names))))
"""
    environment = dict(os.environ)  # with -P the working directory, a checkout perhaps, is not searched
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in said] == list(said)
    # The random numbers of older numpy register what their compiler brings along.
    return {name for name in json.loads(done.stdout.splitlines()[-1]) if "cython" not in name}


def test_importing_loads_nothing_else() -> None:
    assert third_party_modules_loaded_by(IMPORT) <= {"pose2id", "numpy"}


@pytest.mark.parametrize("heavy", ["faiss", "matplotlib", "scipy", "sklearn", "torch", "tqdm"])
def test_the_check_can_fail(heavy: str, tmp_path: Path) -> None:
    # A copy of the package in which one module imports a stand-in for the heavy one at its top.
    copy = tmp_path / "pose2id"
    shutil.copytree(Path(pose2id.__file__).parent, copy, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (tmp_path / f"{heavy}.py").touch()
    with (copy / "__init__.py").open("a") as module:
        module.write(f"\nimport {heavy}\n")
    assert heavy in third_party_modules_loaded_by(IMPORT, tmp_path)


def test_the_generator_is_loaded_when_it_is_used() -> None:
    assert third_party_modules_loaded_by("import pose2id.ipg; dir(pose2id.ipg)") <= {"pose2id", "numpy"}
    assert third_party_modules_loaded_by("from pose2id.ipg import Pose, representative_poses") <= {"pose2id", "numpy"}


def test_the_generator_without_its_extra_names_the_pip_line() -> None:
    packages = ["diffusers", "accelerate", "safetensors", "huggingface_hub", "PIL"]
    program = f"""
import sys
for package in {packages}:
    loaded = {{name for name in sys.modules if name.partition(".")[0] in ("pose2id", package)}}
    kept = {{name: sys.modules.pop(name) for name in loaded}}
    sys.modules[package] = None
    from pose2id.errors import MissingExtraError
    try:
        from pose2id.ipg import IPGPipeline
    except MissingExtraError as error:
        print(error)
    else:
        print("it is not missed")
    sys.modules |= {{package: None, **kept}}
    if package not in kept:
        del sys.modules[package]
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == len(packages), done.stderr
    from pose2id.ipg import PACKAGES

    for package, line in zip(packages, lines, strict=True):
        assert "pip install 'pose2id[ipg]'" in line
        missing = [name for name in PACKAGES if name == package or find_spec(name) is None]
        assert line.startswith(f"pose2id.ipg.IPGPipeline needs {missing[0]}")


HELP = [
    [],
    ["demo"],
    ["evaluate"],
    ["generate"],
    ["weights", "convert"],
    ["train", "generator"],
    ["train", "encoder"],
    ["doctor"],
]


def test_help_loads_nothing_that_computes() -> None:
    program = f"""from pose2id.cli import main
for command in {HELP}:
    try:
        main([*command, '--help'])
    except SystemExit as end:
        print("Told.", end)
"""
    assert third_party_modules_loaded_by(program, said=["Told. 0"] * len(HELP)) <= {"pose2id", "numpy"}
