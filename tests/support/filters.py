"""The int8 filter of the exact engine, switched on where it would not be worth it."""

from pose2id.neighbors._int8 import filter as _filter


def filter_everything(patch, *, projection=False):
    """The int8 filter on sets of any size and kind, with rotation or, where columns are enough, projection codes."""
    columns = 16 if projection else 0
    thresholds = _filter.Thresholds(smallest=24, fewest=1, captured=0.0, structure=False, columns=columns)
    patch.setattr(_filter, "THRESHOLDS", thresholds)
