"""`generate_folder`: draw photographed people in poses into a folder, and go on where an earlier run ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pose2id.atomic import lock
from pose2id.ipg.folders.keys import LOCK
from pose2id.ipg.folders.manifest import FolderSettings, describe_request
from pose2id.ipg.folders.output import OutputFolder
from pose2id.ipg.folders.plan import join_units, make_plan
from pose2id.ipg.folders.sheets import draw_sheets
from pose2id.ipg.folders.sources import Photographs, draw_poses, reason_of
from pose2id.ipg.presets import SHARED_BATCHES
from pose2id.progress import tqdm

if TYPE_CHECKING:
    from PIL import Image

    from pose2id.poses import Pose


@dataclass(frozen=True)
class Report:
    """What a run did, in numbers of pictures."""

    drawn: int  # of the given references and poses, by this run
    found: int  # of the given references and poses, by earlier runs
    skipped: dict[str, str]  # references without all their pictures, and why
    waiting: int  # of units of an earlier run with references or poses that were not given to this one


def generate_folder(
    load: Callable[[], Callable[..., Any]],
    references: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    poses: Mapping[str, Image.Image | Pose] | None = None,
    *,
    settings: FolderSettings,
    sheet: bool = False,
    on_skip: Callable[[str, str], object] | None = None,
    progress: bool = False,
) -> Report:
    """Draw photographs of people in given poses into a folder, and go on where an earlier run ended.

    Parameters
    ----------
    load : callable
        Gives the pipeline; called once, and only when something is to be drawn.
    references : mapping of str to path
        The photographs by key. A key is a relative path with "/"; it names the output and seeds the noise.
    output : path
        The folder, made where it is not there. ``manifest.jsonl`` in it says what it holds.
    poses : mapping of str to PIL image or Pose, optional
        By name; None: the 8 representative ones, "1" to "8".
    settings : FolderSettings
        Those of the earlier run where there was one.
    sheet : bool
        Also write a contact sheet with the pose maps for each reference, ``sheets/<reference>.png``.
    on_skip : callable
        Called as ``f(key, reason)`` as soon as it is known that a reference is skipped.
    progress : bool
        Bars on stderr.

    Raises
    ------
    ValueError
        For settings or poses other than those the folder was begun with; names that leave the folder or meet in it;
        a file in the way; a damaged manifest; a second run in the folder.
    OSError
        When a file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from pose2id.ipg import IPGPipeline
    >>> from pose2id.ipg.folders import FolderSettings, generate_folder
    >>> settings = FolderSettings("tiny", height=64, width=32, num_inference_steps=1, guidance_scale=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     photograph = pathlib.Path(folder, "ann.png")
    ...     Image.new("RGB", (32, 64), "navy").save(photograph)
    ...     people, output = {"ann.png": photograph}, pathlib.Path(folder, "out")
    ...     report = generate_folder(lambda: IPGPipeline.from_pretrained("tiny"), people, output, settings=settings)
    ...     report.drawn, sorted(path.name for path in output.glob("ann/*"))[:2]
    (8, ['1.png', '2.png'])
    """
    pose_maps = draw_poses(poses)
    photographs = Photographs(references, on_skip, progress)
    folder = OutputFolder(output)
    with lock(folder.root / LOCK):
        plan = make_plan(folder, photographs, describe_request(settings, pose_maps))
        if sheet:
            draw_sheets(photographs.hashes, folder, photographs, pose_maps, plan.paths)
        pipe: Callable[..., Any] | None = None
        drawn = 0
        total = plan.finished + sum(map(len, plan.units))
        with tqdm(total=total, initial=plan.finished, desc="drawing", unit="picture", disable=not progress) as bar:
            most = SHARED_BATCHES if settings.shared_noise else 1
            for start in range(0, len(plan.units), most):
                people: dict[str, Image.Image] = {}
                readable = []
                for unit in plan.units[start : start + most]:
                    try:
                        people |= {key: photographs.read(key) for key in unit.references if key not in people}
                    except (ValueError, OSError) as error:
                        for key in unit.references:
                            photographs.skip(key, f"one of its batch cannot be read any more: {reason_of(error)}")
                    else:
                        readable.append(unit)
                for call, batch_size in join_units(readable):
                    pipe = load() if pipe is None else pipe
                    rows = pipe(
                        [people[key] for key in call.references],
                        [pose_maps[name] for name in call.poses],
                        **settings.options,
                        output_type="pil",
                        batch_size=batch_size,
                        reference_keys=list(call.references),
                        pose_keys=list(call.poses),
                    ).images
                    pictures = [picture for row in rows for picture in row]
                    for pair, picture in zip(call.pairs(), pictures, strict=True):
                        folder.write_picture(plan.paths[pair], picture)
                        drawn += 1
                        bar.update()
                    if sheet:
                        draw_sheets(call.references, folder, photographs, pose_maps, plan.paths)
    return Report(drawn, plan.finished, photographs.skipped, plan.waiting)
