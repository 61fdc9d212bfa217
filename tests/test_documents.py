"""The Python examples of README.md and docs/ run.

A block marked `python` is run, the blocks of one page one after the other in one namespace; with `>>>` its
output is compared as well. A block marked `py` needs another project, and is only checked for syntax.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_examples(text: str, name: str) -> int:
    """Run the examples in `text`; returns how many blocks were run."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks_run = 0
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        lines_before = text.count("\n", 0, block.start(2))
        if language == "py":
            compile("\n" * lines_before + code, name, "exec")
        elif ">>>" in code:
            example = doctest.DocTestParser().get_doctest(code, namespace, name, name, lines_before)
            doctest.DebugRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, clear_globs=False)
            namespace = example.globs
            blocks_run += 1
        else:
            exec(compile("\n" * lines_before + code, name, "exec"), namespace)
            blocks_run += 1
    return blocks_run


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document.name in ("walkthrough.md", "training.md"):
        pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    run_examples(document.read_text(encoding="utf-8"), str(document))


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
    ],
)
def test_a_wrong_example_is_found(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_examples(text, "page")


def test_a_py_block_is_not_run() -> None:
    assert run_examples("```py\nnothing\n```\n", "page") == 0
