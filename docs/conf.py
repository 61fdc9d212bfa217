"""Sphinx settings. The build is strict: `make docs` turns every warning into an error.

What the pages show needs no network: formulas are MathML, which browsers draw themselves, and there are no foreign
scripts, styles or fonts.
"""

import sys
from html import escape
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))
from command_line import describe_commands

project = "pose2id"
author = "the pose2id authors"
copyright = "2026, the pose2id authors"
version = release = installed_version("pose2id")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pose2id {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"  # `setup` below

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["torchmetrics"]  # its adapter derives from a class of it; no environment of ours has it
autodoc_typehints = "none"  # types and shapes stand in the docstrings, where they can be read
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # members are listed on the API pages themselves
numpydoc_validation_checks = {
    "EX01",  # no example
    "GL03",  # double blank lines
    "GL07",  # sections in another order than numpydoc's
    "PR01",  # a parameter is not documented
    "PR02",  # a documented parameter does not exist
    "RT01",  # no Returns section
    "RT03",  # a return value without a description
    "SS02",  # the summary does not start with a capital letter
    "SS03",  # the summary does not end with a full stop
}
numpydoc_validation_exclude = {r"\.[A-Z]"}  # classes: results have attributes instead of parameters
numpydoc_validation_overrides = {"EX01": ["`read_dataset`"]}  # readers: they need others' files, and name its example


def as_mathml(node, *, block=False):
    """MathML of a formula; a command that docutils does not know is a warning, which fails the build."""
    try:
        return tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", node.astext(), error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def write_inline_formula(writer, node):
    """A formula within a line."""
    writer.body.append(as_mathml(node))
    raise nodes.SkipNode


def write_formula(writer, node):
    """A formula of its own, in a box that scrolls where the page is too narrow."""
    writer.body.append(f'<div class="formula">{as_mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def add_commands(_app, document, source):
    """The page of the command line ends with what the parser says of itself."""
    if document == "command-line":
        source[0] += describe_commands()


def setup(app):
    app.add_html_math_renderer("mathml", (write_inline_formula, None), (write_formula, None))
    app.connect("source-read", add_commands)
