"""The compiler of the native engine: a hook of hatchling for wheels and `pip install -e`, and `python hatch_build.py`.

The library is loaded by ctypes and knows nothing of Python, so a wheel with it is `py3-none-<platform>`. Where nothing
compiles, or with POSE2ID_PURE=1, the wheel is `py3-none-any`, and torch does what the engine would. CXX names the
compiler, ARCHFLAGS has flags of macOS; within cibuildwheel what does not compile is an error.

`python hatch_build.py` compiles in place what is not up to date; with POSE2ID_PURE=1 it removes the library.
`python hatch_build.py FILE [FLAG ...]` compiles into a file, with more flags.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = "pose2id/neighbors/_native"
SOURCE = f"{FOLDER}/kernel.cpp"
LIBRARY = f"{FOLDER}/_kernel.{'dll' if os.name == 'nt' else 'so'}"

# Sums are rounded as they are written, with every compiler: no fused multiply-adds, no other order.
GNU = (
    "-O3",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-pthread",
)
MSVC = ("/nologo", "/O2", "/std:c++17", "/fp:precise", "/EHsc", "/LD")
# Another package may load an older libstdc++ first. Some distributions have no static one; theirs is then taken.
STATIC = ("-static-libstdc++", "-static-libgcc")


class NotCompiledError(Exception):
    """There is no compiler, or it failed; the message says which, in its own words."""


def compile_kernel(source: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile `source` to the shared library `target`; `flags` come last.

    The library is put in place when it is whole: a process that has loaded an older one keeps that. If nothing could be
    compiled no older one stays, and `NotCompiledError` is raised.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            _compile(source, made, flags)
            made.replace(target)
    except (NotCompiledError, OSError) as error:
        target.unlink(missing_ok=True)
        raise NotCompiledError(str(error)) from error


def _compile(source: Path, made: Path, flags: Sequence[str]) -> None:
    compiler, environment = find_compiler()
    if Path(compiler[0]).stem.lower() in {"cl", "clang-cl"}:
        tries = [[*MSVC, *flags, str(source), f"/Fe{made}", f"/Fo{made.parent}{os.sep}"]]
    else:
        general = [*GNU, *shlex.split(os.environ.get("ARCHFLAGS", "") if sys.platform == "darwin" else "")]
        ways = [()] if sys.platform == "darwin" else [STATIC, ()]
        tries = [[*general, *static, *flags, str(source), "-o", str(made)] for static in ways]
    for options in tries:
        done = subprocess.run(
            [*compiler, *options], env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode == 0 and made.exists():
            return
    raise NotCompiledError(f"{shlex.join(compiler)} failed ({done.returncode}):\n{done.stdout}{done.stderr}".strip())


def find_compiler() -> tuple[list[str], dict[str, str]]:
    """The command of the C++ compiler, that of CXX or the first there is, and the environment it runs in."""
    environment = dict(os.environ)
    if named := environment.get("CXX", "").strip():
        return shlex.split(named, posix=os.name != "nt"), environment
    names = ["c++", "g++", "clang++"]
    if os.name == "nt":
        names = ["cl", "clang-cl", "g++", "clang++"]
        environment = environment if shutil.which("cl") else _visual_studio() or environment
    for name in names:
        if path := shutil.which(name, path=environment.get("PATH")):
            return [path], environment
    raise NotCompiledError(f"there is no C++ compiler: none of {', '.join(names)} is on the PATH, and CXX names none")


def _visual_studio() -> dict[str, str]:
    """The environment in which the compiler of the newest Visual Studio runs; empty if there is none."""
    finder = Path(os.environ.get("PROGRAMFILES(X86)", ""), "Microsoft Visual Studio", "Installer", "vswhere.exe")
    if not finder.is_file():
        return {}
    question = [str(finder), "-latest", "-products", "*", "-property", "installationPath"]
    folder = subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()
    script = Path(folder, "VC", "Auxiliary", "Build", "vcvarsall.bat")
    kind = "arm64" if platform.machine() == "ARM64" else "x64"
    listed = subprocess.run(
        f'cmd /s /c ""{script}" {kind} >nul && set"', capture_output=True, text=True, errors="replace", check=False
    ).stdout
    pairs = [line.partition("=") for line in listed.splitlines() if "=" in line]
    return {name.upper(): value for name, _, value in pairs}


def wants_pure() -> bool:
    """Whether POSE2ID_PURE asks for a package without the library."""
    return os.environ.get("POSE2ID_PURE", "") not in {"", "0"}


def is_current(library: Path, source: Path) -> bool:
    """Whether a library is no older than its source and this file."""
    return library.exists() and library.stat().st_mtime >= max(source.stat().st_mtime, Path(__file__).stat().st_mtime)


def main() -> None:
    """Compile in place what is not up to date, or into the file that is named, with the flags that follow it."""
    root = Path(__file__).resolve().parent
    source, library = root / SOURCE, root / LIBRARY
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else library
    if target == library and wants_pure():
        library.unlink(missing_ok=True)
        return
    if target == library and (not source.exists() or is_current(library, source)):
        return
    try:
        compile_kernel(source, target, sys.argv[2:])
    except NotCompiledError as error:
        sys.exit(f"the native engine was not compiled: {error}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:
    pass  # `python hatch_build.py` needs nothing but a compiler
else:

    class KernelHook(BuildHookInterface[Any]):
        """Puts the library into a wheel; an editable installation finds it beside its source."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile, and name the wheel after the platform; or leave the wheel as it is, with a note why."""
            source, library = Path(self.root, SOURCE), Path(self.root, LIBRARY)
            if not source.exists():
                return
            if wants_pure():
                if version == "editable":
                    library.unlink(missing_ok=True)
                return
            try:
                compile_kernel(source, library)
            except NotCompiledError as error:
                if "CIBUILDWHEEL" in os.environ:
                    raise
                self.app.display_warning(f"pose2id without its native engine: {error}")
                return
            if version == "standard":
                # The builder's tag is that of an extension module: interpreter, its ABI, platform.
                *_, machine = self.build_config.builder.get_best_matching_tag().split("-")
                build_data.update(tag=f"py3-none-{machine}", pure_python=False)
                build_data["force_include"][str(library)] = LIBRARY


if __name__ == "__main__":
    main()
