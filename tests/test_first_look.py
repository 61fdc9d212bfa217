"""The script for the first look at a GPU runs, on the CPU and on the stand-in, and tells what raises."""

import sys
from pathlib import Path

import pytest
import torch
from support.standin import reason_to_skip, standin

pytest.importorskip("diffusers")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FAILED = "RuntimeError: CUDA error: an illegal memory access was encountered"


@pytest.fixture
def first_look(monkeypatch):
    """The script as a module, without the search for working engines, which takes long on the stand-in."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_first_look

    monkeypatch.setattr(gpu_first_look, "describe_engines", lambda: [("exact", True, "torch")])
    yield gpu_first_look
    for name in ("gpu_first_look", "features"):
        sys.modules.pop(name, None)


def sections(path):
    """The text of each section, by its title."""
    parts = path.read_text(encoding="utf-8").split("\n## ")
    return dict(part.split("\n", 1) for part in parts)


def cells_of(line):
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_tells_all(monkeypatch, tmp_path, first_look, device):
    path = tmp_path / "look.md"
    words = ["-o", str(path), "--device", device, "--small"]
    if device == "cpu":
        first_look.main(words)
    elif reason_to_skip():
        pytest.skip(reason_to_skip())
    else:
        few = {title: first_look.SECTIONS[title] for title in ("Machine", "int8 products", "Functions")}
        monkeypatch.setattr(first_look, "SECTIONS", few)
        with standin():
            first_look.main(words)
    told = sections(path)
    head, *titles = told
    assert titles == list(first_look.SECTIONS), told.get("Tracebacks")
    assert head.startswith(f"# First look at {device}")
    assert "Nothing raised." in told[head]
    found = {cells[0]: cells for cells in map(cells_of, told["Functions"].splitlines())}
    assert {found[f"knn_graph k={k}"][4] for k in (2, 20)} == {"all"}
    assert [path.name for path in tmp_path.iterdir()] == ["look.md"]


def test_what_raises_is_told_and_the_rest_goes_on(monkeypatch, tmp_path, first_look, capsys):
    def fail(*_, **__):
        raise RuntimeError(FAILED.partition(": ")[2])

    titles = ("Machine", "Functions", "Launches and steps")
    monkeypatch.setattr(first_look, "SECTIONS", {title: first_look.SECTIONS[title] for title in titles})
    monkeypatch.setattr(first_look, "rerank", fail)  # one row
    monkeypatch.setitem(first_look.SECTIONS, "Machine", fail)  # a section
    path = tmp_path / "look.md"
    first_look.main(["-o", str(path), "--device", "cpu", "--small"])
    told = sections(path)
    head = told[next(iter(told))]
    assert "**2 raised:**" in head
    assert f"- rerank: `{FAILED}`" in head
    assert f"- Machine: `{FAILED}`" in head
    assert "It raised." in told["Machine"]
    found = {cells[0]: cells for cells in map(cells_of, told["Functions"].splitlines())}
    assert found["rerank"][-1] == "raised"
    assert found["rerank_top 100"][4] == "all"
    assert "a launch" in told["Launches and steps"]
    assert told["Tracebacks"].count("Traceback (most recent call last)") == 2
    assert "2 raised" in capsys.readouterr().out


def test_a_file_is_replaced_only_if_asked(monkeypatch, tmp_path, first_look, capsys):
    monkeypatch.setattr(first_look, "SECTIONS", {"Machine": first_look.tell_machine})
    path = tmp_path / "look.md"
    path.write_text("precious", encoding="utf-8")
    words = ["-o", str(path), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        first_look.main(words)
    assert ended.value.code == 2
    assert "exists" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "precious"
    first_look.main([*words, "--force"])
    assert torch.__version__ in path.read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_written(tmp_path, first_look, capsys):
    with pytest.raises(SystemExit):
        first_look.main(["-o", str(tmp_path / "look.md")])
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
