"""What reaches the terminal, and how a command ends: hostile names, odd encodings, signals, short memory and disk."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.starting import run

import pose2id
from pose2id.atomic import write_folder
from pose2id.cli import features, main
from pose2id.cli.signals import EndedError, end_on_signals
from pose2id.errors import escape, explain_write, is_out_of_memory, one_line
from pose2id.files import read_features, write_arrays
from pose2id.plots import write_picture
from pose2id.tables import format_markdown, format_text

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
FEATURES = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
HOSTILE = {
    "escape": "a\x1b[31mred\x1b]0;title\x07",
    "line ends": "a\npose2id demo: all is well\r\x0b\x0c",
    "C1": "a\x9b31m\x85b",
    "directions": "a\u202egnp.exe\u2066b\u200f",
    "separators": "a\u2028b\u2029c",
    "no text": "a\udcff\udc9b",
    "delete": "a\x7f\x08b",
    "invisible": "a\u200bb\ufeffc\U000e0041",
}
PLAIN = ("naïve name", "名前", "فارسی", "a\u3000b", "a\xa0b", "C:\\new\\x1b", "😀")


def harmless(text):
    """Whether each line of a text is what a terminal shows as it is."""
    return all(letter.isprintable() or letter in "\u3000\xa0" for line in text.split("\n") for letter in line)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("query.npz", features=FEATURES, ids=np.arange(64) // 4)
    return tmp_path


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_obeys_is_escaped(name):
    shown = escape(name)
    assert harmless(shown)
    assert "\n" not in shown
    assert shown.encode("ascii").decode("unicode_escape") == name
    assert harmless(one_line(ValueError(name)))
    assert "\n" not in one_line(ValueError(name))
    assert len(one_line(ValueError(name * 100), 50)) == 50
    for text in (format_text((name, "b"), [("c", name)]), format_markdown((name, "b"), [("c", name)])):
        assert harmless(text)
        assert text.count("\n") < 3


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_people_stay(name):
    assert escape(name) == name


@posix
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("here")
def test_hostile_file_names(capsys, name):
    """As an input, as an output, and as one that does not exist."""
    Path(f"{name}.npz").write_bytes(Path("query.npz").read_bytes())
    assert main(["centralize", f"{name}.npz", "-o", f"{name}-out.npz"]) == 0
    assert main(["density", f"{name}-none.npz"]) == 2
    assert main(["centralize", f"{name}.npz", "-o", f"{name}-out.npz"]) == 2
    assert main(["centralize", "query.npz", "-o", f"{name}.xyz"]) == 2
    Path("damaged.npz").write_bytes(b"")
    for refused in (["centralize", "query.npz", "-o", "o.npz", "--k1", name], [name], ["evaluate", name]):
        with pytest.raises(SystemExit, match="2"):
            main(refused)
    captured = capsys.readouterr()
    assert captured.out == f"{escape(name)}-out.npz: 64 x 8, float32\n"
    assert harmless(captured.err)
    assert captured.err.count("\n") == 6
    assert all(line.startswith("pose2id") for line in captured.err.splitlines())


@pytest.mark.usefixtures("here")
def test_hostile_keys_in_files(capsys):
    np.savez("odd.npz", **{"\x1b[2Jfeature\nb": FEATURES})
    assert main(["density", "odd.npz"]) == 2
    line = "pose2id density: odd.npz must hold an array 'features', it holds: \\x1b[2Jfeature b; "
    line += "store it under that name, as in np.savez(..., features=...)\n"
    assert capsys.readouterr() == ("", line)


@posix
def test_hostile_photographs(here, capsys):
    pytest.importorskip("diffusers")
    (here / "refs").mkdir()
    (here / "refs" / "a\x1b[31m\nb.png").write_bytes(b"no picture")
    assert main(["generate", "refs", "-o", "out", "--weights", "tiny"]) == 1
    captured = capsys.readouterr()
    assert harmless(captured.out + captured.err)
    assert "generate: a\\x1b[31m\\nb.png skipped: " in captured.err
    assert "\n  a\\x1b[31m\\nb.png\n" in captured.err


@pytest.mark.usefixtures("here")
def test_json_stays_json(capsys):
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pose2id"] == pose2id.__version__


def warn(folder):
    def say(*_, **__):
        logging.getLogger("pose2id.x").warning("see %s", "a\x1b[1m\nb")
        return 1.0

    features.id_density = say
    return main(["density", str(folder / "query.npz")])


def test_a_line_of_the_log(here):
    """Warnings too, which are shown without `-v`."""
    code, _, err = run(warn, here, said=here / "said")
    assert (code, err) == (0, "pose2id.x: see a\\x1b[1m\\nb\n" * 2)


def environment(**more):
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | more


class Strict(io.StringIO):
    """A stream that is no `TextIOWrapper` and encodes strictly, as `codecs.getwriter` makes them."""

    encoding = "cp1252"

    def write(self, text):
        text.encode(self.encoding)
        return super().write(text)


@pytest.mark.parametrize("name", ["名前", "a\udcff", "é\u0141"])
@pytest.mark.usefixtures("here")
def test_a_path_that_the_streams_cannot_encode(monkeypatch, name):
    """The command has done its work, and ends so."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Strict())
    assert main(["centralize", "query.npz", "-o", f"{name}.npz"]) == 0
    assert main(["density", f"{name}-none.npz"]) == 2
    shown = name.encode("cp1252", "backslashreplace").decode("cp1252")
    assert sys.stdout.getvalue() == f"{shown}.npz: 64 x 8, float32\n"
    assert sys.stderr.getvalue() == f"pose2id density: {shown}-none.npz is not a file\n"


@posix
@pytest.mark.parametrize(
    ("arguments", "written", "redirected"),
    [
        ("centralize query.npz -o 名前.npz", "名前.npz", ""),
        ("synthetic 名前 --ids 2 --cams 2 --height 32 --width 16", "名前/README.txt", ">&-"),
    ],
)
def test_the_locale_c(here, arguments, written, redirected):
    odd = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="")
    command = f"exec {sys.executable} -m pose2id.cli {arguments} {redirected}"
    done = subprocess.run(["sh", "-c", command], cwd=here, capture_output=True, env=odd)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (here / written).is_file()
    if written.endswith(".npz"):
        assert read_features(written).features.shape == (64, 8)


# Signals


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_an_interrupt_does(here, capsys, monkeypatch, name):
    number = signal.Signals[name]

    def write_half(path, **_arrays):
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), number)

    monkeypatch.setattr(np, "savez", write_half)
    before = signal.getsignal(number)
    assert main(["centralize", "query.npz", "-o", "out.npz"]) == 128 + number
    assert capsys.readouterr() == ("", f"pose2id centralize: ended by {name}\n")
    assert [path.name for path in here.iterdir()] == ["query.npz"]
    assert signal.getsignal(number) is before is signal.SIG_DFL


@posix
def test_a_signal_that_is_ignored_stays_so(here, monkeypatch):
    """As `nohup` ignores SIGHUP."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            "pose2id.cli.features.id_density", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP) or 1.0
        )
        assert main(["density", str(here / "query.npz")]) == 0
    finally:
        signal.signal(signal.SIGHUP, former)


@posix
def test_a_signal_that_is_sent_twice_does_not_disturb_the_cleaning():
    """`timeout` sends it to the process and to its group."""
    seen = []
    with pytest.raises(EndedError, match="SIGTERM"), end_on_signals():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("cleaned")
    assert seen == ["cleaned"]


@posix
def test_a_signal_while_an_object_is_removed_is_not_lost(capsys):
    class Removed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    def wait():
        Removed()
        threading.Event().wait(60)

    with pytest.raises(EndedError, match="SIGTERM"), end_on_signals():
        wait()
    assert capsys.readouterr().err == ""


@posix
def test_a_signal_that_compiled_code_makes_another_error_of():
    def convert():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except EndedError:
            raise ValueError("Invalid affine transformation matrix") from None

    with pytest.raises(EndedError, match="SIGTERM"), end_on_signals():
        convert()
    with pytest.raises(ValueError, match="ours"), end_on_signals():
        raise ValueError("ours")


@pytest.mark.usefixtures("here")
def test_a_command_in_another_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["density", "query.npz"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.slow
@posix
def test_asked_or_killed_at_several_moments(here):
    """Nothing is half there; after SIGTERM nothing is left, after SIGKILL nothing once the same is run again."""
    assert run(send_signals, here, said=here.with_name("said")) == (0, "16 moments", "")


def send_signals(folder):
    """Send each signal at four moments of each command, and look at what it leaves."""
    os.chdir(folder)
    torch.set_num_threads(1)  # a fork has no more
    count = 0
    for command in (["centralize", "query.npz", "-o", "x.npz"], ["synthetic", "x", "--ids", "2", "--cams", "2"]):
        clear()
        lasted, whole = run_in_child(command)[1], listing()
        for number, moment in itertools.product((signal.SIGTERM, signal.SIGKILL), range(4)):
            clear()
            code, _ = run_in_child(command, number, lasted * (moment + 0.5) / 4)
            assert code in (0, -number, 128 + number), (command, moment, code)
            left = [entry for entry in listing() if number == signal.SIGTERM or ".pose2id-" not in entry]
            assert left in (["query.npz"], whole), (command, moment, left)
            assert run_in_child(command)[0] == (0 if left != whole else 2)
            assert listing() == whole, (command, moment)
            count += 1
    sys.stdout.write(f"{count} moments")


def run_in_child(command, number=0, delay=0.0):
    """Exit code and seconds of a command in a fork, which spares the imports."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        os._exit(main(command))
    if number:
        time.sleep(delay)
        os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, time.perf_counter() - start


def clear():
    for path in [path for path in Path().iterdir() if path.name != "query.npz"]:
        path.unlink() if path.is_file() else shutil.rmtree(path)


def listing():
    return sorted(path.as_posix() for path in Path().rglob("*"))


# Memory

SHORT = (
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:97] . DefaultCPUAllocator: not enough memory: you tried to allocate 8"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64"),
    OSError(12, "Cannot allocate memory"),
    ImportError("libx.so: failed to map segment from shared object"),
)
NOT_SHORT = (
    ValueError("out of memory.npz is not a file"),
    FileNotFoundError(2, "No such file or directory", "out of memory.npz"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    KeyError("not enough memory"),
    OSError(28, "No space left on device"),
)


@pytest.mark.parametrize("error", SHORT, ids=str)
@pytest.mark.usefixtures("here")
def test_short_memory_is_one_line_and_says_what_to_do(capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    assert is_out_of_memory(error)
    monkeypatch.setattr("pose2id.cli.features.centralize", fail)
    monkeypatch.setattr("pose2id.cli.features.id_density", fail)
    assert main(["centralize", "query.npz", "-o", "out.npz"]) == 2
    words = f"out of memory ({one_line(error)}): another --engine may need less; in Python centralize(..., out=)"
    assert capsys.readouterr().err.startswith(f"pose2id centralize: {words}")
    assert main(["density", "query.npz"]) == 2
    words = f"out of memory ({one_line(error)})" if str(error) else "MemoryError"
    assert capsys.readouterr() == ("", f"pose2id density: {words}\n")


@pytest.mark.parametrize("error", NOT_SHORT, ids=str)
def test_other_errors_are_not_short_memory(error):
    assert is_out_of_memory(error) == isinstance(error, KeyError)


def test_short_memory_behind_another_error():
    error = ValueError("x.npz cannot be read")
    error.__cause__ = MemoryError()
    assert is_out_of_memory(error)


# Disk

FULL = {
    28: "{}",
    122: "{}",
    27: "it grows beyond what the file system, or a limit (ulimit -f), allows ({})",
}


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_is_named(number):
    errors = (OSError(number, os.strerror(number)), Exception(f"Error while serializing: I/O (os error {number})"))
    for error in errors:
        if os.name == "posix":
            assert explain_write(error) == FULL[number].format(error)
    assert explain_write(OSError("odd")) == "odd"
    assert explain_write(KeyError("os")) == ""


def write_one(kind, path):
    rows = np.zeros((300, 300))
    if kind in ("npz", "npy", "pt", "safetensors"):
        write_arrays(path, {"features": rows})
    elif kind in ("png", "bmp"):
        noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
        write_picture(path, pytest.importorskip("PIL.Image").fromarray(noise).save)
    elif kind == "json":
        write_picture(path, lambda part: part.write_text(json.dumps(rows.tolist())))
    else:
        save = pytest.importorskip("safetensors.torch").save_file
        with write_folder(path) as part:
            save({"rows": torch.from_numpy(rows)}, part / "rows.safetensors")


@posix
@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors", "png", "bmp", "json", "folder"])
def test_the_limit_of_a_file_is_named_for_every_format(tmp_path, kind):
    resource = pytest.importorskip("resource")
    write_one(kind, tmp_path / f"warm.{kind}")  # what is imported on first use is read before the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (1, 4096, 5000, 65_536, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(OSError, match=rf"x\.{kind} cannot be written: it grows beyond .* \(.*File too large"):
                write_one(kind, tmp_path / f"x.{kind}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == [f"warm.{kind}"]


def test_a_fault_while_writing_is_no_full_disk(tmp_path):
    def fail(part):
        part.write_bytes(b"half")
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match=r"^ours$"):
        write_picture(tmp_path / "x.png", fail)
