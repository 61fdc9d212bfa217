"""Accuracy: how many predicted attributes are right, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pose2id.attributes.annotations import AttributeLabels
from pose2id.attributes.filtering import check_there, predict
from pose2id.attributes.vocabulary import MARKET1501
from pose2id.tables import format_text
from pose2id.validation import check_choice, take_labels, take_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pose2id.arrays import Array
    from pose2id.validation import Labels

_COLUMNS = (
    *("gender", "hair", "age", "up", "down", "clothes", "hat", "backpack", "bag", "handbag"),
    *("upper colour", "lower colour"),
)
_COLOURS = {
    "upper colour": ("upblack", "upwhite", "upred", "uppurple", "upgray", "upblue", "upgreen", "upyellow"),
    "lower colour": (
        *("downblack", "downwhite", "downpink", "downgray", "downblue"),
        *("downgreen", "downbrown", "downyellow", "downpurple"),
    ),
}
"""What Market-1501's evaluation script takes the columns, and the numbers from 1 of colours, to mean."""


class AttributeAccuracy(NamedTuple):
    """What `attribute_accuracy` found, as fractions; `print` it for a table.

    `names` (A,) of the attributes, `accuracy` (A,) of each, NaN where nothing was counted, `images` (A,) how many
    were, `mean` over the attributes, each as heavy.
    """

    names: tuple[str, ...]
    accuracy: NDArray[np.float64]
    images: NDArray[np.int64]
    mean: float

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [
            (name, f"{100 * share:.2f}", count)
            for name, share, count in zip(self.names, self.accuracy, self.images, strict=True)
        ]
        return format_text(("attribute", "accuracy", "images"), [*rows, ("mean", f"{100 * self.mean:.2f}", "")])


def attribute_accuracy(
    predictions: Array, ids: Labels, labels: AttributeLabels, *, unknown: str = "wrong"
) -> AttributeAccuracy:
    """How many predicted attributes of images are right.

    Images of the identities -1 and 0 (junk, distractors) are left out. Of several colours of an identity each is right.

    Parameters
    ----------
    predictions : (N, A) integers or (N, total) floats
        A class for each attribute by its number, from 0, or probabilities, of which the largest of each attribute
        counts. numpy or torch; see `from_official_order` for those of the published script.
    ids : (N,) integers
        The identities of the images.
    labels : AttributeLabels
        The attributes of the identities.
    unknown : {"wrong", "skip"}
        What is counted where an identity has none of the classes, such as no colour. "wrong": whatever is predicted is
        wrong, as in the script published for Market-1501. "skip": the image is left out for that attribute.

    Returns
    -------
    AttributeAccuracy
        Of each attribute, and the mean.

    Raises
    ------
    ValueError, TypeError
        For arrays of other shapes, classes that are not there, identities without labels, or when no image is left.

    References
    ----------
    Lin et al., 2019, and `evaluate_market_attribute.m` beside their annotations, see `read_attributes`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.attributes import Attribute, AttributeLabels, Vocabulary, attribute_accuracy
    >>> coat = Vocabulary("coats", (Attribute("colour", ("black", "red"), several=True),))
    >>> people = AttributeLabels(coat, [7, 9], np.array([[True, False], [False, False]]))
    >>> predictions, ids = np.array([[0], [0], [1], [0]]), [7, 9, 7, -1]
    >>> round(attribute_accuracy(predictions, ids, people).mean, 4)
    0.3333
    >>> attribute_accuracy(predictions, ids, people, unknown="skip").mean
    0.5
    """
    if not isinstance(labels, AttributeLabels):
        raise TypeError(f"labels must be AttributeLabels, received {type(labels).__name__}")
    skips, vocabulary = check_choice(unknown, "unknown", ("wrong", "skip")) == "skip", labels.vocabulary
    classes = _take_classes(predictions, vocabulary.counts)
    identities = take_labels(ids, len(classes), "ids")
    kept = ~np.isin(identities, (-1, 0))
    if not kept.any():
        raise ValueError("ids must hold an identity other than -1 and 0, received none")
    marks, classes = labels.take(identities[kept]).marks, classes[kept]
    right, counted = np.empty((2, *classes.shape), bool)
    for place, name in enumerate(vocabulary.names):
        held = marks[:, vocabulary.columns(name)]
        right[:, place] = np.take_along_axis(held, classes[:, place, None], axis=1)[:, 0]
        counted[:, place] = held.any(axis=1) | (not skips)
    images = counted.sum(axis=0)
    accuracy = np.divide(right.sum(axis=0), images, out=np.full(len(vocabulary), np.nan), where=images > 0)
    if not images.any():
        raise ValueError("labels must know an attribute of some image, they know none")
    return AttributeAccuracy(vocabulary.names, accuracy, images, float(np.nanmean(accuracy)))


def _take_classes(predictions: Any, counts: tuple[int, ...]) -> NDArray[np.int64]:
    """Numbers of classes (N, A), from such numbers or from probabilities."""
    check_there(predictions, "predictions")
    values = take_numbers(predictions, "predictions")
    if values.dtype.kind == "f":
        return predict(predictions, "predictions", counts)[0]
    if values.ndim != 2 or values.shape[1] != len(counts):
        raise ValueError(f"predictions must have shape (N, {len(counts)}), received {values.shape}")
    wrong = (values < 0) | (values >= np.array(counts))
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"predictions of attribute {place} must be 0 to {counts[place] - 1}, received {values[row, place]} in row "
            f"{row}"
        )
    return values.astype(np.int64)


def from_official_order(predictions: Array) -> NDArray[np.int64]:
    """Predictions for Market-1501's evaluation script as those of `MARKET1501`.

    The script has its columns in the order gender, hair, age, up, down, clothes, hat, backpack, bag, handbag, upper and
    lower colour, counts from 1, and numbers the colours in an order that is neither that of its files nor of its
    description.

    Parameters
    ----------
    predictions : (N, 12) numpy array or torch tensor of integers
        As `gallery_market.mat` holds them.

    Returns
    -------
    (N, 12) int64 array
        For `attribute_accuracy`.

    Raises
    ------
    ValueError, TypeError
        For another shape, and for numbers that are not there.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.attributes import from_official_order
    >>> from_official_order(np.array([[1, 2, 4, 1, 1, 2, 1, 1, 1, 1, 8, 9]])).tolist()
    [[0, 1, 0, 0, 1, 0, 0, 0, 0, 3, 4, 3]]
    """
    values = take_numbers(predictions, "predictions")
    if values.dtype.kind == "f" and (np.isfinite(values) & (values == np.floor(values))).all():
        values = values.astype(np.int64)  # MATLAB has no others
    if values.dtype.kind not in "iu" or values.ndim != 2 or values.shape[1] != len(_COLUMNS):
        raise ValueError(
            f"predictions must be whole numbers (N, {len(_COLUMNS)}), received {values.dtype} {values.shape}"
        )
    result = np.empty(values.shape, np.int64)
    for column, name in zip(values.T, _COLUMNS, strict=True):
        attribute = MARKET1501[name]
        if len(column) and not (column.min() >= 1 and column.max() <= len(attribute)):
            raise ValueError(f"predictions of {name!r} must be 1 to {len(attribute)}, received others")
        numbers = [attribute.classes.index(each) for each in _COLOURS.get(name, attribute.classes)]
        result[:, MARKET1501.place(name)] = np.array(numbers)[column.astype(np.int64) - 1]
    return result
