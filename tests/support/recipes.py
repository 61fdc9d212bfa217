"""The recipes of docs/recipes.md, by the names of the toolkits that they are for."""

import inspect
import re
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2].joinpath("docs", "recipes.md").read_text(encoding="utf-8")
RECIPES = dict(
    re.findall(r"^\*\*([^*]+)\*\*[^`]*.*?```py\n(.*?)^```$", PAGE.partition("## In other toolkits")[2], re.M | re.S)
)


def run(name, **names):
    """All names after the recipe has run, given those that it finds."""
    exec(compile(RECIPES[name], f"recipe {name}", "exec"), names)
    return names


def insert(name, function, line):
    """A function of a toolkit with a recipe in its source, before the first line that begins like that."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    place = re.search(rf"^( +){re.escape(line)}", source, re.MULTILINE)
    edited = source[: place.start()] + textwrap.indent(RECIPES[name], place[1]) + source[place.start() :]
    names = {}
    exec(compile(edited, f"recipe {name}", "exec"), function.__globals__, names)
    return names[function.__name__]
