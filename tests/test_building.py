"""What `hatch_build.py` makes of a project like this one with a kernel of one function: wheels, or a note."""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BUILDING: dict[str, Any] = runpy.run_path(str(ROOT / "hatch_build.py"))
SOURCE, LIBRARY, NotCompiledError = (BUILDING[name] for name in ("SOURCE", "LIBRARY", "NotCompiledError"))
KERNEL = """
#if defined(_WIN32)
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C"
#endif
EXPORTED int answer() { return ANSWER; }
"""


def compiler() -> list[str] | None:
    try:
        return BUILDING["find_compiler"]()[0]  # type: ignore[no-any-return]
    except NotCompiledError:
        return None


needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the real pyproject.toml and hook, and next to nothing in the package."""
    for name in ("CIBUILDWHEEL", "CXX", "POSE2ID_PURE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    for name in ("pyproject.toml", "hatch_build.py", ".gitignore", "README.md", "LICENSE", "pose2id/data/LICENSE"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "pose2id/__init__.py").write_text('__version__ = "1.2.3"\n')
    (root / SOURCE).parent.mkdir(parents=True)
    (root / SOURCE).write_text(KERNEL.replace("ANSWER", "42"))
    (root / SOURCE).with_name("__init__.py").touch()
    return root


def build(root: Path, kind: str = "standard", target: str = "wheel") -> Path:
    """What the build backend makes; the builders are asked directly, which installs nothing."""
    for name in ("hatchling", "editables"):
        pytest.importorskip(name, reason=f"{name}, of the dependency group `test`, is not installed")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    builder = {"wheel": WheelBuilder, "sdist": SdistBuilder}[target](str(root))
    (made,) = builder.build(directory=str(root.parent / "made"), versions=[kind])
    return Path(made)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def answer(library: Path) -> int:
    """What the function in a library says, in a process of its own, because a library is never unloaded."""
    program = f"import ctypes; print(ctypes.CDLL({str(library)!r}).answer())"
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


@needs_compiler
def test_a_wheel_with_the_library_is_of_this_platform_and_any_python(project: Path, tmp_path: Path) -> None:
    (project / LIBRARY).write_text("of an older source")
    wheel = build(project)
    files = contents(wheel)
    machine = wheel.name.removeprefix("pose2id-1.2.3-py3-none-").removesuffix(".whl")
    assert machine.startswith(("linux_", "macosx_", "win")), wheel.name
    assert f"Tag: py3-none-{machine}" in files["pose2id-1.2.3.dist-info/WHEEL"].decode()
    assert "Root-Is-Purelib: false" in files["pose2id-1.2.3.dist-info/WHEEL"].decode()
    assert [name for name in files if Path(name).parent == Path(LIBRARY).parent] == [
        str(Path(SOURCE).with_name("__init__.py")),
        LIBRARY,
    ]
    library = tmp_path / Path(LIBRARY).name
    library.write_bytes(files[LIBRARY])
    assert ctypes.CDLL(str(library)).answer() == 42


def assert_pure(wheel: Path) -> None:
    assert wheel.name == "pose2id-1.2.3-py3-none-any.whl"
    files = contents(wheel)
    assert "Root-Is-Purelib: true" in files["pose2id-1.2.3.dist-info/WHEEL"].decode()
    assert not [name for name in files if name.endswith((".cpp", ".so", ".dll"))]


def test_a_pure_wheel_is_made_if_asked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / LIBRARY).write_text("left by a developer")
    monkeypatch.setenv("POSE2ID_PURE", "1")
    monkeypatch.setenv("CXX", "never asked")
    assert_pure(build(project))


@pytest.mark.parametrize("reason", ["no such compiler", "no compiler", "an error in the source"])
def test_without_a_library_the_wheel_is_pure_and_a_note_says_why(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    words = "pose2id without its native engine: "
    if reason == "no such compiler":
        monkeypatch.setenv("CXX", "/nowhere/c++")
        words += "[Errno 2] No such file or directory: '/nowhere/c++'"
    elif reason == "no compiler":
        monkeypatch.setenv("PATH", str(project))
        monkeypatch.setenv("PROGRAMFILES(X86)", str(project))
        words += "there is no C++ compiler: none of"
    elif compiler() is None:
        pytest.skip("there is no C++ compiler")
    else:
        (project / SOURCE).write_text("#error out of ideas\n")
    (project / LIBRARY).write_text("left by a developer")
    wheel = build(project)
    said = "".join(capsys.readouterr())
    assert_pure(wheel)
    assert words in said
    assert ("out of ideas" in said) == (reason == "an error in the source")


def test_where_wheels_are_released_what_does_not_compile_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIBUILDWHEEL", "1")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(Exception, match="/nowhere/c"):
        build(project)


@needs_compiler
def test_an_editable_installation_has_the_library_beside_its_source(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(project, "editable").name == "pose2id-1.2.3-py3-none-any.whl"
    assert answer(project / LIBRARY) == 42
    monkeypatch.setenv("POSE2ID_PURE", "1")
    build(project, "editable")
    assert not (project / LIBRARY).exists()


def test_the_source_archive_builds_itself(project: Path, tmp_path: Path) -> None:
    (project / LIBRARY).write_text("left by a developer")
    shutil.unpack_archive(build(project, target="sdist"), tmp_path / "unpacked", filter="data")
    unpacked = tmp_path / "unpacked/pose2id-1.2.3"
    assert (unpacked / "hatch_build.py").is_file()
    assert (unpacked / SOURCE).is_file()
    assert not (unpacked / LIBRARY).exists()
    assert (LIBRARY in contents(build(unpacked))) == (compiler() is not None)


def run_hook(project: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "hatch_build.py"), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


@needs_compiler
def test_as_a_program_it_compiles_what_is_not_up_to_date(project: Path, tmp_path: Path) -> None:
    library = project / LIBRARY
    assert run_hook(project).returncode == 0
    assert answer(library) == 42
    assert run_hook(project, CXX="/nowhere/c++").returncode == 0  # nothing to do
    (project / SOURCE).write_text(KERNEL)
    os.utime(library, ns=(0, 0))
    done = run_hook(project)  # ANSWER is not defined
    assert done.returncode == 1
    assert done.stderr.startswith("the native engine was not compiled: ")
    assert "ANSWER" in done.stderr
    assert not library.exists()
    assert sorted(path.name for path in library.parent.iterdir()) == ["__init__.py", "kernel.cpp"]
    library.touch()
    assert run_hook(project, POSE2ID_PURE="1").returncode == 0
    assert not library.exists()

    define = "/D" if Path((compiler() or [""])[0]).stem.lower() in {"cl", "clang-cl"} else "-D"
    elsewhere = tmp_path / "other.so"
    assert run_hook(project, elsewhere, f"{define}ANSWER=43").returncode == 0
    assert answer(elsewhere) == 43


def test_as_a_program_it_says_what_is_missing(project: Path) -> None:
    done = run_hook(project, CXX="/nowhere/c++")
    assert done.returncode == 1
    assert "/nowhere/c++" in done.stderr
    assert "Traceback" not in done.stderr
