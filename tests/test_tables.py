"""Tables, against text written by hand."""

from types import SimpleNamespace

import pytest

from pose2id.tables import as_dicts, format_markdown, format_text

ROWS = [("base", 81.44, 0), ("a longer name", 9.5, 12)]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert format_text(("", "mAP", "ties"), ROWS) == (
        "                 mAP  ties\n"  #
        "base           81.44     0\n"
        "a longer name    9.5    12"
    )


def test_all_to_the_left_or_to_the_right() -> None:
    assert format_text(("name", "mAP", "ties"), ROWS, align="<") == (
        "name           mAP    ties\n"  # no blanks at the ends of lines
        "base           81.44  0\n"
        "a longer name  9.5    12"
    )
    assert format_text(("name", "mAP", "ties"), ROWS, align=">") == (
        "         name    mAP  ties\n"  #
        "         base  81.44     0\n"
        "a longer name    9.5    12"
    )


def test_least_widths_and_gap() -> None:
    assert format_text(("", "mAP", "ties"), ROWS, align="<<>", widths=(15, 7), gap="") == (
        "               mAP    ties\n"  #
        "base           81.44     0\n"
        "a longer name  9.5      12"
    )
    assert format_text(("long title",), [("x",)], widths=(3,)) == "long title\nx"


def test_headings_and_legend() -> None:
    rows = [*ROWS, ("base", 1, 2)]
    text = format_text(("", "mAP", "ties"), rows, headings=["One", "One", "Two"], legend=("mAP: what.", "ties: which."))
    assert text == (
        "                   mAP  ties\n"
        "----------------------------\n"
        "One\n"
        "  base           81.44     0\n"
        "  a longer name    9.5    12\n"
        "Two\n"
        "  base               1     2\n"
        "----------------------------\n"
        "mAP: what.\n"
        "ties: which."
    )


def test_a_heading_may_come_again() -> None:
    text = format_text(("", "x"), [("a", 1), ("b", 2), ("c", 3)], headings=["One", "Two", "One"])
    assert [line for line in text.splitlines() if line[0] in "OT"] == ["One", "Two", "One"]


def test_no_rows() -> None:
    assert format_text(("name", "mAP"), []) == "name  mAP"
    assert format_markdown(("name", "mAP"), []) == "| name | mAP |\n|------|----:|"
    assert format_text(("name", "mAP"), [], headings=[]) == "name  mAP\n---------\n---------"


def test_markdown() -> None:
    assert format_markdown(("", "mAP", "ties"), ROWS) == (
        "|               |   mAP | ties |\n"
        "|---------------|------:|-----:|\n"
        "| base          | 81.44 |    0 |\n"
        "| a longer name |   9.5 |   12 |"
    )
    assert format_markdown(("a|b", "c"), [("x", "y|z")], align="<") == (
        "| a\\|b | c    |\n"  # a bar in a cell would be taken for the next cell
        "|------|------|\n"
        "| x    | y\\|z |"
    )


@pytest.mark.parametrize("form", [format_text, format_markdown])
def test_every_row_has_the_cells_of_the_head(form) -> None:
    with pytest.raises(ValueError, match=r"must have 2 cells as the head has, received \['x'\]"):
        form(("name", "mAP"), [("x",)])
    with pytest.raises(ValueError, match=r"must have 2 cells as the head has, received \['x', '1', '2'\]"):
        form(("name", "mAP"), [("x", 1, 2)])


def test_every_row_has_a_heading() -> None:
    with pytest.raises(ValueError, match="2 rows need as many headings, received 1"):
        format_text(("", "mAP", "ties"), ROWS, headings=["One"])


def test_rows_as_dictionaries() -> None:
    rows = [SimpleNamespace(mAP=0.5, setting=SimpleNamespace(name="base", k1=2))]
    assert as_dicts(rows, ("setting.name", "mAP")) == [{"name": "base", "mAP": 0.5}]
    assert as_dicts([], ("mAP",)) == []
    with pytest.raises(AttributeError, match="rank1"):
        as_dicts(rows, ("rank1",))


def test_what_would_break_a_table_is_told_or_escaped() -> None:
    for align in ("", "^", "<x", "< "):
        for form in (format_text, format_markdown):
            with pytest.raises(ValueError, match="align must be made of '<' and '>', received"):
                form(("name", "mAP"), [("x", 1)], align=align)
    lines = format_markdown(("a\nname", "mAP"), [("two\r\nlines|and\u2028three", 1), ("\n", 2)]).splitlines()
    assert [line.count(" | ") for line in lines] == [1, 0, 1, 1]
    assert lines[2] == "| two<br>lines\\|and<br>three |   1 |"
    assert lines[0].startswith("| a<br>name ")
    assert format_text(("", "mAP"), [("two\nlines", 1)]).splitlines()[1:] == ["two lines    1"]
    for rows in ([()], [("x",), ()]):
        with pytest.raises(ValueError, match="every row must have 1 cells as the head has, received"):
            format_text(("name",), rows)


def test_keys_that_rows_have_not_or_that_collide() -> None:
    row = SimpleNamespace(mAP=0.5, setting=SimpleNamespace(name="base"), name="other")
    with pytest.raises(AttributeError, match=r"keys must name attributes of every row, received mAP, size: .*size"):
        as_dicts([row], ("mAP", "size"))
    with pytest.raises(ValueError, match=r"keys must differ in their last parts, received setting.name, name"):
        as_dicts([row], ("setting.name", "name"))
