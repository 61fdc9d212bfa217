"""Tables: rows of cells as aligned text or Markdown, and rows of objects as plain dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from pose2id.errors import escape

__all__ = ["as_dicts", "format_markdown", "format_text"]


def format_text(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    align: str = "<>",
    widths: Sequence[int] = (),
    gap: str = "  ",
    headings: Sequence[str] | None = None,
    legend: Iterable[str] = (),
) -> str:
    """Write a table as lines of aligned columns.

    Parameters
    ----------
    head : sequence
        Title of each column.
    rows : iterable of sequences
        As many cells each; ``str`` is applied to them, line breaks become blanks, and what a terminal would obey is
        escaped.
    align : str
        "<" or ">" for each column; the last one counts for all that follow. By default the first column is aligned
        to the left and the others to the right.
    widths : sequence of int
        Least width of each column, in characters; those beyond its end are as wide as their widest cell.
    gap : str
        Between columns.
    headings : sequence of str, optional
        One for each row: consecutive rows of the same heading stand indented under it. The head is underlined then.
    legend : iterable of str
        Lines below the table.

    Returns
    -------
    str
        Lines without blanks at their ends, and without a final line break.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than the head, if there are not as many headings as rows, or for an `align` of
        other signs.

    Examples
    --------
    >>> from pose2id.tables import format_text
    >>> rows = [("base", "81.44", 0), ("neighbours", "84.13", 2)]
    >>> print(format_text(("", "mAP", "ties"), rows))
                  mAP  ties
    base        81.44     0
    neighbours  84.13     2
    >>> print(format_text(("", "mAP", "ties"), rows, headings=["Before", "After"], legend=["mAP in percent."]))
                    mAP  ties
    -------------------------
    Before
      base        81.44     0
    After
      neighbours  84.13     2
    -------------------------
    mAP in percent.
    """
    indent = "" if headings is None else "  "
    cells = [[_show(cell, " ") for cell in row] for row in (head, *rows)]
    for row in cells[1:]:
        row[:1] = [indent + cell for cell in row[:1]]
    columns = _measure(cells, align, widths)
    first, *lines = (gap.join(_pad(row, columns)).rstrip() for row in cells)
    if headings is not None:
        if len(headings) != len(lines):
            raise ValueError(f"{len(lines)} rows need as many headings, received {len(headings)}")
        rule = "-" * len(first)
        grouped = groupby(zip(headings, lines, strict=True), key=lambda pair: pair[0])
        lines = [rule, *(line for name, pairs in grouped for line in (name, *(pair[1] for pair in pairs))), rule]
    return "\n".join([first, *lines, *legend])


def format_markdown(head: Sequence[object], rows: Iterable[Sequence[object]], *, align: str = "<>") -> str:
    """Write a table in Markdown, its source aligned as well.

    Parameters
    ----------
    head : sequence
        Title of each column.
    rows : iterable of sequences
        As many cells each; ``str`` is applied to them, and a ``|`` in one is escaped.
    align : str
        "<" or ">" for each column; the last one counts for all that follow.

    Returns
    -------
    str
        Lines without a final line break.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than the head.

    A line break in a cell becomes ``<br>``.

    Examples
    --------
    >>> from pose2id.tables import format_markdown
    >>> print(format_markdown(("setting", "mAP"), [("base", "81.44"), ("neighbours", "84.13")]))
    | setting    |   mAP |
    |------------|------:|
    | base       | 81.44 |
    | neighbours | 84.13 |
    """
    cells = [[_show(cell, "<br>").replace("|", "\\|") for cell in row] for row in (head, *rows)]
    columns = _measure(cells, align)
    first, *lines = (f"| {' | '.join(_pad(row, columns))} |" for row in cells)
    rule = ("-" * (width + 1) + (":" if side == ">" else "-") for side, width in columns)
    return "\n".join([first, f"|{'|'.join(rule)}|", *lines])


def as_dicts(rows: Iterable[object], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Take attributes of each row into a dictionary, ready for JSON.

    Parameters
    ----------
    rows : iterable of objects
    keys : sequence of str
        Attributes. One of an attribute has a dot, ``"setting.k1"``, and is called by its last part, ``"k1"``.

    Returns
    -------
    list of dict
        One for each row, with as many entries as there are different names.

    Raises
    ------
    AttributeError
        For a key that a row has not.
    ValueError
        For two keys with one last part.

    Examples
    --------
    >>> from pose2id.tables import as_dicts
    >>> as_dicts([5], ["numerator", "denominator.real"])
    [{'numerator': 5, 'real': 1}]
    """
    take = {key.rpartition(".")[2]: attrgetter(key) for key in keys}
    if len(take) < len(keys):
        raise ValueError(f"keys must differ in their last parts, received {', '.join(keys)}")
    try:
        return [{name: get(row) for name, get in take.items()} for row in rows]
    except AttributeError as error:
        raise AttributeError(f"keys must name attributes of every row, received {', '.join(keys)}: {error}") from error


def _show(cell: object, line_end: str) -> str:
    return line_end.join(map(escape, str(cell).splitlines()))


def _measure(cells: Sequence[Sequence[str]], align: str, widths: Sequence[int] = ()) -> list[tuple[str, int]]:
    """Side and width of each column; the first row is the head."""
    for row in cells:
        if len(row) != len(cells[0]):
            raise ValueError(f"every row must have {len(cells[0])} cells as the head has, received {list(row)}")
    if not align or set(align) - {"<", ">"}:
        raise ValueError(f"align must be made of '<' and '>', received {align!r}")
    least = [*widths, *[0] * len(cells[0])]
    sides = align.ljust(len(cells[0]), align[-1])
    return [(sides[i], max(least[i], *map(len, column))) for i, column in enumerate(zip(*cells, strict=True))]


def _pad(row: Sequence[str], columns: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{cell:{side}{width}}" for cell, (side, width) in zip(row, columns, strict=True)]
