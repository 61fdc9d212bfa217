"""From a configuration to a trained encoder: connects data sets, the drawn world and the training.

This is the body of ``pose2id train encoder``. A configuration is a TOML file with three tables: ``[encoder]``,
described at `pose2id.encoders.recipe.EncoderModel`, ``[training]``, at `pose2id.encoders.EncoderSettings`, and
``[data]``: the people of a world, as `WorldData`, or photographs, as `PhotographData`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pose2id.attributes import SYNTHETIC
from pose2id.datasets import READERS, read_dataset
from pose2id.encoders import EncoderSettings, train_encoder
from pose2id.encoders.recipe import EncoderModel
from pose2id.encoders.systems import find_system
from pose2id.encoders.training import RESULT, check_needs
from pose2id.errors import one_line
from pose2id.images import read_image
from pose2id.programs.keypoints import check_found, find_pose, read_poses
from pose2id.progress import tqdm
from pose2id.synthetic import PARTS, make_set
from pose2id.training import configuration
from pose2id.training.checkpoints import require_packages
from pose2id.training.configuration import WorldData, open_configuration, read_table
from pose2id.training.folders import hold_folder
from pose2id.validation import check_path, take_path


@dataclass(frozen=True)
class PhotographData(configuration.FolderData):
    """A data set in folders, of which the part `train` is learnt from; identity -1, junk, is left out.

    Attributes
    ----------
    kind, root, options, keypoints
        As for the generator, see `pose2id.ipg.training.FolderData`.
    masks : str, optional
        A folder with the parts of each picture: under its path below `root`, or that from the last folder on, a PNG of
        its size whose pixels are places in `parts` from 1, 0 for the background. Such as ``synthetic --masks`` writes.
    parts : list of str
        Their names; those of the synthetic world if nothing else is said.
    """

    masks: str | None = None
    parts: list[str] = field(default_factory=lambda: list(PARTS))


def run_encoder_training(
    config: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    device: str = "cpu",
    progress: bool = True,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train an encoder as a configuration says, or go on with that where it was.

    Parameters
    ----------
    config : path
        A TOML file.
    output : path
        A folder; see `pose2id.encoders.train_encoder`.
    device : str
    progress : bool
        Bars on stderr.
    report : callable, optional
        As for `train_encoder`.

    Returns
    -------
    pathlib.Path
        The trained encoder's folder, for `pose2id.encoders.load_encoder` and ``pose2id extract --encoder``.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        For a configuration that does not fit, naming table and key, and as `train_encoder`.
    MissingExtraError
        As `train_encoder`, before pictures are read.

    Examples
    --------
    >>> from pose2id.programs.encoders import run_encoder_training
    >>> folder = run_encoder_training("pcb.toml", "run")  # doctest: +SKIP
    """
    target = check_path(output, "output")
    if target.exists() and not target.is_dir():
        raise ValueError(f"output {target} must be a folder, it is a file")
    require_packages()  # before pictures are drawn or read, which takes minutes
    with ExitStack() as held:
        if target.is_dir():  # a second run is told at once; a wrong configuration makes no folder
            held.enter_context(hold_folder(target))
        with open_configuration(config, ("encoder", "training", "data")) as tables:
            model = read_table(EncoderModel, tables.get("encoder", {}), "encoder")
            settings = read_table(EncoderSettings, tables.get("training", {}), "training")
            data = configuration.read_data(tables.get("data", {}), READERS, WorldData, PhotographData)
            pictures = read_pictures(data, model, progress=progress)
            train_encoder(
                model.system,
                output=target,
                settings=settings,
                channels=model.channels,
                sizes={**pictures.pop("sizes"), **model.sizes},
                trunk=model.trunk,
                device=device,
                progress=progress,
                report=report,
                **pictures,
            )
    return target / RESULT


def read_pictures(data: WorldData | PhotographData, model: EncoderModel, *, progress: bool = False) -> dict[str, Any]:
    """What `train_encoder` learns from: its arguments by name; of what is known, only what the system needs."""
    needs = find_system(model.system).needs
    return (_draw_people if isinstance(data, WorldData) else _read_photographs)(data, model, needs, progress=progress)


def _draw_people(data: Any, model: EncoderModel, needs: frozenset[str], *, progress: bool) -> dict[str, Any]:
    world = make_set(
        range(*data.ids),
        seed=data.seed,
        cams=data.cams,
        per_cam=data.per_cam,
        height=model.height,
        width=model.width,
        occlusion=data.occlusion,
        masks="masks" in needs,
        progress=progress,
    )
    found: dict[str, Any] = {"images": world.images, "ids": world.ids, "sizes": {}}
    if "keypoints" in needs:
        found["keypoints"] = np.where(world.seen[:, :, None], world.keypoints, np.nan)
    if "masks" in needs:
        found |= {"masks": world.masks, "part_names": PARTS}
    if "attributes" in needs:
        found |= {"attributes": world.attributes, "sizes": {"attributes": list(SYNTHETIC.counts)}}
    return found


def _read_photographs(data: Any, model: EncoderModel, needs: frozenset[str], *, progress: bool) -> dict[str, Any]:
    root = take_path(data.root, "data: root")
    train = read_dataset(data.kind, root, attributes="attributes" in needs, **data.options).train
    rows = np.flatnonzero(train.ids != -1)
    if not len(rows):
        raise ValueError(f"data: {data.kind} in {data.root} has no training pictures")
    given = {
        "attributes": train.attributes is not None,
        "keypoints": data.keypoints is not None or train.keypoints is not None,
        "masks": data.masks is not None,
    }
    check_needs(model.system, {name for name, there in given.items() if there})
    paths = [train.paths[row] for row in rows]
    found: dict[str, Any] = {"ids": train.ids[rows], "sizes": {}}
    if "keypoints" in needs:
        found["keypoints"] = _find_keypoints(data, paths, None if train.keypoints is None else train.keypoints[rows])
    if "masks" in needs:
        found["part_names"] = tuple(data.parts)
        masks = [find_mask(take_path(data.masks, "data: masks"), path, root) for path in paths]
        found["masks"] = _read_all(masks, model, read_labels, progress=progress)
    if train.attributes is not None:
        counts = list(train.attributes.vocabulary.counts)
        found |= {"attributes": train.attributes.classes[rows], "sizes": {"attributes": counts}}
    found["images"] = _read_all(paths, model, read_colours, progress=progress)
    return found


def _find_keypoints(data: Any, paths: Sequence[Path], own: Any) -> Any:
    """The keypoints of each picture, of a file or as the data set has them."""
    if data.keypoints is None:
        return own
    poses = read_poses(data)
    found = [find_pose(poses, path, data) for path in paths]
    check_found(found, paths, data)
    return found


def find_mask(folder: Path, path: Path, root: Path) -> Path:
    """The file of labels that belongs to a picture."""
    below = path.relative_to(root)
    for inside in (below, Path(*below.parts[1:])):
        if (file := folder / inside.with_suffix(".png")).is_file():
            return file
    raise FileNotFoundError(f"data: masks: there is no {folder / below.with_suffix('.png')}, of the picture {path}")


def read_colours(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) of this height and width."""
    return np.asarray(read_image(path).resize(size[::-1], Image.Resampling.BILINEAR))


def read_labels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The parts (H, W) of a picture of this height and width, of a grey PNG or one with a palette."""
    with Image.open(path) as picture:
        if picture.mode not in ("P", "L"):
            raise ValueError(f"{path} must be a grey PNG or one with a palette, it is of mode {picture.mode}")
        return np.asarray(picture.resize(size[::-1], Image.Resampling.NEAREST))


def _read_all(
    paths: Sequence[Path], model: EncoderModel, read: Callable[[Path, tuple[int, int]], Any], *, progress: bool
) -> NDArray[np.uint8]:
    made, bad = [], []
    for path in tqdm(paths, desc="reading", unit="picture", disable=not progress):
        try:
            made.append(read(path, (model.height, model.width)))
        except (ValueError, OSError) as error:
            bad.append(one_line(error, 200))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"pictures that cannot be read: {'; '.join(bad[:3])}{more}; repair them or leave them out")
    return np.stack(made)
