"""The ways of the fixture `engine`, and marks for tests whose rows go other ones: no way is gone twice."""

import pytest

from support.filters import filter_everything, search_natively


class Way(str):
    """The name of an engine, and how it is made to search; only for a test that asks for it, see conftest.py."""

    __slots__ = ()

    def take(self, patch):
        """Switch on what the way needs."""
        if "," in self:
            filter_everything(patch, projection="projection" in self)
        if self == "native":
            search_natively(patch)


ENGINES = [Way(name) for name in ("exact", "exact, int8", "faiss", "native")]


def _mark(engines):
    return pytest.mark.parametrize("engine", engines, indirect=True, scope="session")


with_projections = _mark([*ENGINES, Way("exact, projection")])
"""Some rows are wider than the 16 columns of projection codes; others would go by rotation codes, as for int8."""
of_few_rows = _mark([name for name in ENGINES if name != "exact, int8"])
"""Fewer than the 24 rows that the filter wants: without it `exact, int8` is `exact`."""
