"""`pose2id demo --generate`: synthetic people, drawn by the tiny generator, and the tables of the walkthrough."""

from __future__ import annotations

import argparse

from pose2id.cli.demo import can_plot, picture_folder
from pose2id.cli.printing import flush, say, say_json
from pose2id.ipg.named import load_pipeline
from pose2id.ipg.weights import tiny_folder
from pose2id.programs import walkthrough


def run(arguments: argparse.Namespace) -> None:
    """`pose2id demo --generate`."""
    people = walkthrough.TESTED if arguments.people is None else range(arguments.people)
    if not walkthrough.FEWEST <= len(people) <= walkthrough.TRAINED[0]:
        raise ValueError(
            f"--people must be from {walkthrough.FEWEST} to {walkthrough.TRAINED[0]}, received {arguments.people}"
        )
    folder = picture_folder(arguments, (walkthrough.SHEET, walkthrough.MAP, walkthrough.CUT))
    draws = not arguments.no_pictures
    maps = draws and can_plot("map of identities", "drawing the map")
    pipe = load_pipeline(tiny_folder(), "cpu", "float32", progress=False)
    found = walkthrough.run_walkthrough(pipe, people, progress=arguments.progress)
    if not arguments.json:
        say(*walkthrough.format_tables(found.rows).split("\n"))
        flush()
    pictures = []
    if draws:
        pictures.append(str(walkthrough.draw_sheet(found.people, found.drawn, folder / walkthrough.SHEET)))
        pictures.append(str(walkthrough.draw_parts(folder / walkthrough.CUT)))
    if maps:
        weak, target = found.encoded["weak"], folder / walkthrough.MAP
        pictures.append(str(walkthrough.draw_map(found.people, weak.features, weak.generated, target)))
    if arguments.json:
        say_json({"rows": walkthrough.rows_as_dicts(found.rows), "pictures": pictures})
    elif pictures:
        say("", f"Pictures: {', '.join(pictures)}")
