"""`pose2id tune`: choose settings on a share of the identities."""

from __future__ import annotations

import argparse
import math
from typing import Any

from pose2id.cli.inputs import check_part_options, note_cams, note_generated, note_parts, read_sides, tell_steps
from pose2id.cli.printing import say, say_json
from pose2id.study import Choice, choose
from pose2id.tables import as_dicts

KEYS = (
    *("name", "setting.eta", "setting.k1", "setting.k2", "setting.alpha", "setting.other_cameras"),
    *("mAP", "error", "rank1", "gain", "gain_error", "over_base", "over_base_error"),
)


def run(arguments: argparse.Namespace) -> None:
    """`pose2id tune`."""
    inputs = read_sides(arguments, needs=("ids",))
    check_part_options(arguments, inputs)
    query, gallery = (each.as_set() for each in inputs)
    over = {name: getattr(arguments, f"{name}s") for name in ("eta", "k", "alpha")}
    over["other_cameras"] = arguments.neighbors and [name == "other" for name in arguments.neighbors]
    names = ("share", "seed", "protocol", "metric", "engine", "progress")
    tell_steps(arguments, inputs)(
        f"trying settings on {len(inputs[0].rows)} queries and {len(inputs[1].rows)} gallery rows"
    )
    choice = choose(
        query,
        gallery,
        over={name: values for name, values in over.items() if values},
        **{name: getattr(arguments, name) for name in names},
    )
    note_parts(arguments, inputs)
    note_generated(arguments, inputs, max(trial.setting.eta for trial in choice.tried))
    note_cams(arguments, inputs, "nothing is removed, and no neighbour left out, for its camera")
    if arguments.json:
        say_json(_as_json(choice))
        return
    say(*choice.describe(None if arguments.all else 10).split("\n"))
    options = " ".join(f"--{name} {value:g}" for name, value in choice.arguments.items())
    say(f"pose2id centralize FILE -o OUT {options}{' --exclude-cams' * choice.setting.other_cameras}")


def _as_json(choice: Choice) -> dict[str, Any]:
    return {
        "chosen": choice.setting.name,
        "arguments": {**choice.arguments, "other_cameras": choice.setting.other_cameras},
        "warning": choice.warning,
        "validation": choice.validation.tolist(),
        "others": choice.others.tolist(),
        **{name: _as_dicts(getattr(choice, name)) for name in ("tried", "reported")},
        **{name: _as_dicts([getattr(choice, name)])[0] for name in ("published", "base")},
    }


def _as_dicts(trials: Any) -> list[dict[str, Any]]:
    """The trials for JSON, which has no NaN."""
    rows = as_dicts(trials, KEYS)
    return [{key: None if _is_nan(value) else value for key, value in row.items()} for row in rows]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
