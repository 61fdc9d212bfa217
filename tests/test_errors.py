from __future__ import annotations

import pickle
import sys

import pytest

from pose2id.errors import MissingExtraError, one_line, require


def test_an_installed_module_is_returned() -> None:
    import json.decoder

    assert require("json.decoder", "plots", "this test") is json.decoder


def test_a_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way to say "not importable"
    with pytest.raises(MissingExtraError) as caught:
        require("matplotlib", "plots", "pose2id.plots")
    assert str(caught.value) == ("pose2id.plots needs matplotlib, which is not installed: pip install 'pose2id[plots]'")
    assert caught.value.extra == "plots"
    assert caught.value.package == caught.value.name == "matplotlib"
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_missing_package_is_named_without_its_submodule() -> None:
    with pytest.raises(MissingExtraError, match="needs nosuchpackage, which is not installed") as caught:
        require("nosuchpackage.inner", "plots", "a plot")
    assert caught.value.package == "nosuchpackage"


def test_a_package_hidden_from_python_is_missing_with_its_submodules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="needs matplotlib, which is not installed: pip install 'pose2id"):
        require("matplotlib.figure", "plots", "pose2id.plots")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no CUDA runtime')", "RuntimeError: no CUDA runtime"),
        ("raise OSError('lib.so: cannot open')", "OSError: lib.so: cannot open"),
        ("import its_missing_dependency", "ModuleNotFoundError: No module named 'its_missing_dependency'"),
        ("from json import nothing_like_this", "ImportError: cannot import name 'nothing_like_this'"),
    ],
)
def test_a_broken_package_is_not_called_missing(
    source: str, reason: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpackage.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        require("brokenpackage", "faiss-cpu", "engine 'faiss'")
    message = str(caught.value)
    assert message.startswith("engine 'faiss' needs brokenpackage, which is installed but cannot be imported")
    assert reason in message
    assert "not installed" not in message
    assert message.endswith("pip install --force-reinstall 'pose2id[faiss-cpu]'")
    assert caught.value.extra == "faiss-cpu"


def test_an_interrupt_is_not_swallowed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interruptedpackage.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("interruptedpackage", "plots", "a plot")


def test_the_error_survives_pickling() -> None:
    error = MissingExtraError("a plot needs matplotlib", extra="plots", package="matplotlib")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (MissingExtraError, "a plot needs matplotlib")
    assert (copy.extra, copy.package, copy.name) == ("plots", "matplotlib", "matplotlib")


@pytest.mark.parametrize(
    ("error", "limit", "line"),
    [
        (ValueError(" a\n\tb \r\n"), None, "a b"),
        (ValueError("a" * 300), None, "a" * 300),
        (ValueError("a" * 300), 200, "a" * 200),
        (OSError(2, "No such\nfile"), None, "[Errno 2] No such file"),
        (KeyError("x"), 200, "'x'"),
        (KeyboardInterrupt(), None, "KeyboardInterrupt"),
        (RuntimeError(" \n"), 200, "RuntimeError"),
    ],
)
def test_an_error_in_one_line(error: BaseException, limit: int | None, line: str) -> None:
    assert one_line(error, limit) == line
