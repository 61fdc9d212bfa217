"""Sphinx settings. The build is strict: `make docs` turns every warning into an error."""

from importlib.metadata import version as installed_version

project = "pose2id"
author = "the pose2id authors"
copyright = "2026, the pose2id authors"
version = release = installed_version("pose2id")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pose2id {release}"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # types and shapes stand in the docstrings, where they can be read
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # members are listed on the API page itself
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
