"""Studies: two sets and settings in, scores out.

- `runs`: `run_study`, before and after: one row of scores and ID² for each setting.
- `choice`: `choose`, the setting that is best on some identities, and what it brings on the others.
- `verdicts`: `assess`, whether it will help: the precision of the mutual neighbours, and a verdict on each setting.
- `agreement`: what features say of their neighbours without labels.
- `counting`: what labels say of them.
- `splits`: settings tried on the rows of one set, as queries and as gallery.
"""

from pose2id.study.choice import GRID, Choice, Trial, choose
from pose2id.study.runs import FeatureSet, Row, Setting, centralize_sets, run_study, standard_error
from pose2id.study.verdicts import Verdict, assess

__all__ = [
    "GRID",
    "Choice",
    "FeatureSet",
    "Row",
    "Setting",
    "Trial",
    "Verdict",
    "assess",
    "centralize_sets",
    "choose",
    "run_study",
    "standard_error",
]
