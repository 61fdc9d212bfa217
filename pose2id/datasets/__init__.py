"""Data sets: readers of the usual folder layouts, and the small real set that ships with the package.

A reader looks at folders and lists and gives paths, identities and cameras; it opens no image and downloads nothing.
What holds for all of them is written once, at `read_dataset`; each tells what its data set has of its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from pose2id.datasets.attributes import add_attributes
from pose2id.datasets.demo import DemoSet, load_demo
from pose2id.datasets.listed import read_mars, read_msmt17, read_regdb
from pose2id.datasets.named import (
    read_cuhk03_np,
    read_dukemtmc,
    read_market1501,
    read_occluded_reid,
    read_synthetic,
    read_veri776,
)
from pose2id.datasets.records import DataSet, ImageSet
from pose2id.datasets.sysu import read_sysu_mm01
from pose2id.errors import suggest
from pose2id.validation import check_choice, check_flag

__all__ = [
    "READERS",
    "DataSet",
    "DemoSet",
    "ImageSet",
    "load_demo",
    "read_cuhk03_np",
    "read_dataset",
    "read_dukemtmc",
    "read_market1501",
    "read_mars",
    "read_msmt17",
    "read_occluded_reid",
    "read_regdb",
    "read_synthetic",
    "read_sysu_mm01",
    "read_veri776",
]

READERS: dict[str, Callable[..., DataSet]] = {
    "market1501": read_market1501,
    "dukemtmc": read_dukemtmc,
    "cuhk03-np": read_cuhk03_np,
    "msmt17": read_msmt17,
    "occluded-reid": read_occluded_reid,
    "sysu-mm01": read_sysu_mm01,
    "regdb": read_regdb,
    "mars": read_mars,
    "veri-776": read_veri776,
    "synthetic": read_synthetic,
}
"""The readers by name. A further one is one line here."""


def read_dataset(name: str, root: str | os.PathLike[str], *, attributes: bool = False, **options: Any) -> DataSet:
    """Read a data set by its name.

    Images are files with the suffixes of `pose2id.images.SUFFIXES` (`.jpg`, `.png`, `.bmp`, `.tif` and so on), in upper
    or lower case; hidden files and all others are passed over. Rows come in the order of the lists, otherwise by name.

    Parameters
    ----------
    name : str
        A key of `READERS`: "market1501", "dukemtmc", "cuhk03-np", "msmt17", "occluded-reid", "sysu-mm01",
        "regdb", "mars", "veri-776" or "synthetic".
    root : path
        Its folder, or one around it; between them lie folders by its usual names, such as `MSMT17_V1`, which errors
        name.
    attributes : bool
        Also read who wears what, see `pose2id.attributes`: from `market_attribute.mat` or `duke_attribute.mat`, put
        beside the folders of "market1501" or "dukemtmc" or into `root`, or from the `attributes.json` of "synthetic".
        Other sets have none.
    **options
        Those of its reader, such as `trial`.

    Returns
    -------
    DataSet
        With identities and cameras as the data set numbers them, and its protocol.

    Raises
    ------
    FileNotFoundError
        For a missing folder or list, or an image that a list names and that is not there.
    ValueError
        For a folder without images; an image with another name than the data set gives, or in a folder where none is
        read, since one that is passed over in silence changes the scores; an image that is there twice, such as `x.jpg`
        and `x.png`; a list that is damaged, names a file twice or one outside of its folder, or does not fit the
        others; an unknown name or choice.
    TypeError
        For an unknown option, or one of another type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pose2id.datasets import read_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for file in ("occluded_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif"):
    ...         Path(folder, file).parent.mkdir(parents=True)
    ...         Path(folder, file).touch()
    ...     data = read_dataset("occluded-reid", folder)
    >>> data.query.ids.tolist(), data.gallery.cams.tolist(), data.protocol
    ([1], [2], 'all')
    """
    reader = READERS[check_choice(name, "name", tuple(READERS))]
    known = [option for option in inspect.signature(reader).parameters if option != "root"]
    for option in options:
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise TypeError(f"{name} has no option {option!r}, it has: {allowed}{suggest(option, known)}")
    data = reader(root, **options)
    return add_attributes(name, data, root) if check_flag(attributes, "attributes") else data
