"""Studies: two sets and settings in, scores out.

- `runs`: `run_study`, before and after: one row of scores and ID² for each setting.
- `choice`: `choose`, the setting that is best on some identities, and what it brings on the others.
"""

from pose2id.study.choice import GRID, Choice, Trial, choose
from pose2id.study.runs import FeatureSet, Row, Setting, centralize_sets, run_study, standard_error

__all__ = [
    "GRID",
    "Choice",
    "FeatureSet",
    "Row",
    "Setting",
    "Trial",
    "centralize_sets",
    "choose",
    "run_study",
    "standard_error",
]
