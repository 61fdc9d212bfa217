"""The int8 filter of the exact engine and the native engine, switched on where they would not be worth it."""

from pose2id.neighbors._int8 import filter as _filter
from pose2id.neighbors._native import search as _native


def filter_everything(patch, *, projection=False):
    """The int8 filter on sets of any size and kind, with rotation or, where columns are enough, projection codes."""
    columns = 16 if projection else 0
    thresholds = _filter.Thresholds(smallest=24, fewest=1, captured=0.0, structure=False, columns=columns, floats=True)
    patch.setattr(_filter, "THRESHOLDS", thresholds)


def search_natively(patch):
    """The native engine on sets of any size, for few neighbours with projection codes of narrow rows too."""
    patch.setattr(_native, "SMALLEST", 1)
    patch.setattr(
        _native, "projection_columns", lambda n, width, k: 16 if k <= 4 and min(n - 1, width - 8) >= 16 else 0
    )
