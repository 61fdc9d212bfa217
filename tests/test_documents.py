"""The Python examples of README.md and docs/ run.

A block marked `python` is run, the blocks of one page one after the other in one namespace; with `>>>` its
output is compared as well, and so is what it prints with a block marked `output` below it. A block marked `py` needs
another project, and is only checked for syntax.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pose2id import __version__
from pose2id.cli import main
from pose2id.cli.arguments import build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```$(?:\s+^```output\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
SLOW = {"walkthrough.md"}
NEEDS = {
    "recipes.md": "sklearn",
    "walkthrough.md": "diffusers",
    "training.md": "diffusers",
    "figures.md": "matplotlib",
    "galleries.md": "sqlalchemy",
}


def run_examples(text: str, name: str) -> int:
    """Run the examples in `text`; returns how many blocks were run."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks_run = 0
    for block in BLOCK.finditer(text):
        language, code, output = block.groups()
        lines_before = text.count("\n", 0, block.start(2))
        if language == "py":
            compile("\n" * lines_before + code, name, "exec")
        elif ">>>" in code:
            example = doctest.DocTestParser().get_doctest(code, namespace, name, name, lines_before)
            doctest.DebugRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, clear_globs=False)
            namespace = example.globs
            blocks_run += 1
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * lines_before + code, name, "exec"), namespace)
            assert output is None or printed.getvalue() == output, f"{name}: {printed.getvalue()!r}, not {output!r}"
            blocks_run += 1
    return blocks_run


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=path.relative_to(ROOT).as_posix(), marks=[pytest.mark.slow] * (path.name in SLOW))
        for path in DOCUMENTS
    ],
)
def test_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document.name in NEEDS:
        pytest.importorskip(NEEDS[document.name])
    monkeypatch.chdir(tmp_path)
    run_examples(document.read_text(encoding="utf-8"), str(document))


def test_the_page_of_feature_files_shows_what_evaluate_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "feature-files.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^```text\npose2id (evaluate [^\n]*)\n```\n\n```output\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    assert len(shown) == 2
    monkeypatch.chdir(tmp_path)
    run_examples(page, "feature-files.md")
    for command, output in shown:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == output


def test_the_configurations_on_the_training_page_are_some(tmp_path: Path) -> None:
    """The smallest one, the same with another table [data], and that of the paper."""
    pytest.importorskip("diffusers")
    from pose2id.datasets import READERS
    from pose2id.ipg.training import FolderData, SmallModel, StableDiffusionModel, WorldData
    from pose2id.ipg.training.configuration import read_data, read_model
    from pose2id.ipg.training.recipe import plan_stages, read_settings
    from pose2id.programs.training import read_records

    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    smallest, own, paper = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    wanted = [(WorldData, SmallModel), (FolderData, SmallModel), (FolderData, StableDiffusionModel)]
    file = tmp_path / "train.toml"
    for text, kinds in zip((smallest, own + smallest[smallest.index("[model]") :], paper), wanted, strict=True):
        file.write_text(text, encoding="utf-8")
        recipe = read_settings(file)
        data, model = read_data(recipe.data, READERS), read_model(recipe.model)
        assert (type(data), type(model)) == kinds
        assert plan_stages(recipe.settings, recipe.stages)
        if isinstance(data, WorldData):
            records = read_records(WorldData(ids=[0, 2]), recipe.settings)
            assert {record.image.shape for record in records} == {(64, 32, 3)}


def test_the_feature_file_of_the_readme_fits_its_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sqlalchemy")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (made,) = re.findall(r"`(np\.savez\([^`]*\))`", text)
    (command,) = re.findall(r"^pose2id (gallery add [^#]*?) *#", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names = {"features": np.eye(4), "ids": [0, 0, 1, 1], "cams": [0, 1, 0, 1], "paths": ["a", "b", "c", "d"]}
    exec(made, {"np": np, **names})
    assert main(command.split()) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4


def test_the_readme_has_an_example() -> None:
    assert "```python\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_blocks_share_names() -> None:
    assert (
        run_examples("```python\na = 1\n```\n\n```python\n>>> a\n1\n>>> b = 2\n```\n\n```python\na + b\n```\n", "page")
        == 3
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\n>>> 1 + 1\n3\n```\n", doctest.DocTestFailure),
        ("```python\n>>> nothing\n```\n", doctest.UnexpectedException),
        ("```python\nnothing\n```\n", NameError),
        ("```py\nfor\n```\n", SyntaxError),
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", AssertionError),
    ],
)
def test_a_wrong_example_is_found(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_examples(text, "page")


def test_a_py_block_is_not_run() -> None:
    assert run_examples("```py\nnothing\n```\n", "page") == 0


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from subcommands(command)


def test_the_page_of_the_command_line_has_every_command_and_option() -> None:
    head = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    reference = runpy.run_path(str(ROOT / "docs" / "command_line.py"))["describe_commands"]()
    sections = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL))
    for parser in subcommands(build_parser()):
        if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            continue
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                for option in action.option_strings:
                    assert f"`{option}" in sections[parser.prog] + head, f"{parser.prog}: {option}"


def test_every_page_is_in_the_index() -> None:
    """The strict build finds pages in no toctree; this finds them without a build."""
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in ROOT.glob("docs/**/*.md")}
    listed = set()
    for path in (ROOT / "docs" / "index.md", ROOT / "docs" / "api.md"):
        for tree in re.findall(
            r"^```{toctree}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            listed |= {line for line in tree.splitlines() if line and not line.startswith(":")}
    assert pages == listed | {"index"}


def table_rows(text: str) -> set[tuple[str, ...]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines}


def recorded_rows() -> set[tuple[str, ...]]:
    pages = [path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/results/*.md")]
    return set().union(*map(table_rows, pages))


def test_the_rows_of_the_performance_page_were_measured() -> None:
    recorded = {row[:8] for row in recorded_rows()}
    page = table_rows((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"))
    shown = {tuple(cell.removesuffix("x") for cell in row) for row in page if len(row) == 8 and row[0][:1].isalpha()}
    shown -= {("task", "N", "D", "ours [s]", "peer", "peer [s]", "ratio", "memory")}
    assert len(shown) > 30
    assert shown - recorded == set()


def test_the_scores_of_the_results_page_were_measured() -> None:
    recorded = {row[1:5] for row in recorded_rows()}  # mAP, rank-1, rank-5, rank-10
    page = table_rows((ROOT / "docs" / "results.md").read_text(encoding="utf-8"))
    shown = {tuple(cell.split(" / ")) for row in page for cell in row[1:] if cell.count(" / ") == 3}
    assert len(shown) == 30
    assert shown - recorded == set()


def test_the_rows_of_the_lecture_were_measured() -> None:
    page = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
    shown = {row for row in table_rows(page.partition("\n## Measured\n")[2]) if set("".join(row)) > set("-:")}
    assert shown - recorded_rows() == set()


def test_workflows_and_hooks_call_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in (ROOT / ".pre-commit-config.yaml", *sorted(ROOT.glob(".github/workflows/*.yml"))):
        calls = re.findall(r"(?:run|entry): make (.*)", path.read_text(encoding="utf-8"))
        named = {word for call in calls for word in call.split() if "=" not in word}
        assert calls or path.name == "wheels.yml"
        assert named <= targets, f"{path.name}: {named - targets}"


def test_workflows_use_versions_that_are_named_and_files_that_there_are() -> None:
    for path in ROOT.glob(".github/workflows/*.yml"):
        for used in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8")):
            action, _, version = used.partition("@")
            assert (ROOT / action).is_file() if action.startswith("./") else re.search(r"v\d", version), (
                f"{path}: {used}"
            )


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
