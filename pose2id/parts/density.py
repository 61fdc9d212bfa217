"""`part_density`: ID² part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from pose2id.density import VARIANTS, id_density
from pose2id.parts.sets import prepare, take_parts
from pose2id.threads import fit_threads
from pose2id.validation import JUNK, check_choice, check_flag, equal_label, take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


@fit_threads
def part_density(
    parts: Array, ids: Labels, visibility: Array | None = None, *, variant: str = "paper", junk: bool = False
) -> npt.NDArray[np.float64]:
    """Measure, for each part, how close those of each identity lie to their centre: `id_density` of what is visible.

    Parameters
    ----------
    parts : (N, P, D) numpy array or torch tensor
        As for `centralize_parts`.
    ids : (N,) integers or strings
        Identity labels; -1 is junk and left out.
    visibility : (N, P) bools, or floats from 0 to 1, optional
        Hidden parts (0 or False) are left out; how well the others are seen makes no difference.
    variant, junk
        As for `id_density`.

    Returns
    -------
    (P,) float64 array
        NaN for a part that nobody shows; 0 where every identity is one point.

    Raises
    ------
    TypeError, ValueError
        As `id_density`, and as `centralize_parts` for parts and visibility.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import part_density
    >>> parts = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> part_density(parts, ["a", "a"], np.array([[True, True], [True, False]])).round(4).tolist()
    [0.7071, 0.0]
    """
    check_choice(variant, "variant", VARIANTS)
    check_flag(junk, "junk")
    given, _ = take_parts(parts, visibility)
    n = len(given.rows)
    if not n:
        raise ValueError(f"parts must have at least one row, received shape {tuple(given.rows.shape)}")
    labels = take_labels(ids, n, "ids")
    counted = torch.from_numpy(np.asarray(junk | ~equal_label(labels, JUNK)))
    if not bool(counted.any()):
        id_density(given.rows.flatten(1)[:, :1].nan_to_num(), labels, variant=variant, junk=junk)  # raises
    seen = (given.visibility > 0).cpu() & counted[:, None]
    rows = prepare(given, normalize=False).rows
    densities = np.full(seen.shape[1], np.nan)
    for p in range(seen.shape[1]):
        at = seen[:, p].nonzero().flatten()
        if len(at):
            densities[p] = id_density(rows[at.to(rows.device), p], labels[at.numpy()], variant=variant, junk=junk)
    return densities
