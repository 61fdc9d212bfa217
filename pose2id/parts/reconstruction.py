"""`reconstruction_distances`: how well the locations of one image are made of those of another (DSR)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from pose2id.arrays import ArrayT, Kind, check_finite, check_same_kind, cut, take_floats, work_dtype
from pose2id.distances import full_precision
from pose2id.parts.lasso import Gram, make_gram, solve_lasso
from pose2id.parts.sets import take_candidates
from pose2id.threads import fit_threads
from pose2id.validation import check_choice, check_number

if TYPE_CHECKING:
    from pose2id.arrays import Array

LARGEST = 1e100
PENALTIES = ("l1", "ridge")
REDUCES = ("mean_squared", "mean_norm")
TILE = 2**20
"""Elements of the largest array of a tile, 8 MB; see the notes of `reconstruction_distances`."""


@fit_threads
def reconstruction_distances(
    query: ArrayT,
    gallery: ArrayT,
    *,
    penalty: str = "l1",
    strength: float,
    weights: ArrayT | None = None,
    reduce: str = "mean_squared",
    candidates: Array | None = None,
) -> ArrayT:
    """How badly each query's locations are reconstructed from those of each gallery image (DSR).

    Each location x of a query, a column, is written as Yw with the columns Y of the gallery image, w by a penalised
    least-squares fit. The distance is the mean of ``|x - Yw|²`` over the locations, or of ``|x - Yw|``.

    Parameters
    ----------
    query : (Q, D, M) numpy array or torch tensor
        float16, bfloat16, float32 or float64: M locations an image. Used as given; the published systems scale each
        column to length 1 before.
    gallery : (G, D, M2) array of the same container and device
        Their number of locations may be another.
    penalty : {"l1", "ridge"}
        "l1": w minimises ``|x - Yw|² + strength |w|_1``. "ridge": ``|x - Yw|² + strength |w|²``.
    strength : float
        Above 0. With "l1" and ``strength >= 2 max|Y'x|`` w is 0. Where a program halves the square, as DSR.m does with
        its 0.4, take twice its number. The released ridge has 0.001.
    weights : (Q, M) floats, array of the same container and device, optional
        At least 0, of sum 1 for each query: a weighted sum instead of the mean (FPR: how visible a location is).
    reduce : {"mean_squared", "mean_norm"}
        Of squares, or of lengths (the released ridge).
    candidates : (Q, C) integers, array of the same container and device, optional
        Rows of the gallery to measure for each query; -1 for none. None: all.

    Returns
    -------
    (Q, G) array, or (Q, C) with `candidates`, of the container and device given
        float64 for float64 input, else float32; computed in float64. inf where a candidate is -1.

    Raises
    ------
    TypeError, ValueError
        For wrong shapes, dtypes or choices, NaN and inf, and a strength so small that the fit cannot be computed.

    Notes
    -----
    Not symmetric. With equal columns in Y the best w is not unique, but the distance is.

    "l1" is solved for all locations of many pairs at once, and each w is checked: 2 Y'(Yw - x) is -strength sign(w)
    where w is not 0 and within -strength and strength elsewhere, but for 1e-11 of the terms. Distances of unit columns
    are good to about 1e-9 for float64. Each gallery image is factored once; with `candidates`, where pairs are taken by
    gallery image, once for each tile that its pairs fall into. Beside input and result some thirty arrays of 2**20
    float64 numbers are held, up to 300 MB, or of one pair where that is larger.

    References
    ----------
    He, Liang, Li, Sun: *Deep Spatial Feature Reconstruction for Partial Person Re-identification*, CVPR 2018 ("l1").
    He et al.: *Foreground-aware Pyramid Reconstruction for Alignment-free Occluded Person Re-identification*, ICCV 2019
    ("ridge", weights).

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import reconstruction_distances
    >>> query = np.array([[[1.0, 0.0], [0.0, 1.0]]])  # two locations
    >>> gallery = np.array([[[1.0], [0.0]], [[0.6], [0.8]]])  # one location an image
    >>> reconstruction_distances(query, gallery, strength=0.4).round(3).tolist()
    [[0.52, 0.54]]
    >>> reconstruction_distances(query, gallery, penalty="ridge", strength=0.001, reduce="mean_norm").round(3).tolist()
    [[0.5, 0.7]]
    """
    check_choice(penalty, "penalty", PENALTIES)
    check_choice(reduce, "reduce", REDUCES)
    beta = check_number(strength, "strength")
    if beta == 0:
        raise ValueError(f"strength must be above 0, received {strength}; without a penalty the fit is not unique")
    queries, kind = _take_locations(query, "query", "(Q, D, M)")
    items, other = _take_locations(gallery, "gallery", "(G, D, M2)")
    check_same_kind(kind, other, ("query", "gallery"))
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"query and gallery must have equal D, received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    shares = _take_weights(weights, queries, kind)
    table = None if candidates is None else take_candidates(candidates, len(queries), len(items), kind)
    measure = Reconstruction(queries, items, shares, penalty=penalty, beta=beta, squared=reduce == "mean_squared")
    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    with full_precision(queries.device):
        result = measure.all(dtype) if table is None else measure.some(table, dtype)
    return kind.give_back(result, dtype)  # type: ignore[no-any-return]


def _take_locations(array: Any, name: str, shape: str) -> tuple[torch.Tensor, Kind]:
    """Finite floats (N, D, M) with a row and a column at least."""
    tensor, kind = take_floats(array, name, shape)
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} must have at least one row an image (D >= 1), received shape {tuple(tensor.shape)}")
    check_finite(tensor, name)
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if largest > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g} in size, so that squares fit, received {largest:g}")
    return tensor, kind


def _take_weights(weights: Any, queries: torch.Tensor, kind: Kind) -> torch.Tensor:
    """The weights (Q, M) of the locations, float64; 1 / M without any."""
    wanted = len(queries), queries.shape[2]
    if weights is None:
        return torch.full(wanted, 1 / wanted[1], dtype=torch.float64, device=queries.device)
    tensor, other = take_floats(weights, "weights", "(Q, M)")
    check_same_kind(kind, other, ("query", "weights"))
    if tuple(tensor.shape) != wanted:
        raise ValueError(f"weights must have shape {wanted}, one for each location, received {tuple(tensor.shape)}")
    check_finite(tensor, "weights")
    shares = tensor.double()
    if bool((shares < 0).any()):
        row = int((shares < 0).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"weights must be at least 0, received {float(shares[row].min())} in row {row}")
    sums = shares.sum(dim=1)
    off = (sums - 1).abs() > (1e-2 if tensor.dtype in (torch.float16, torch.bfloat16) else 1e-4)
    if bool(off.any()):
        row = int(off.nonzero()[0, 0])
        raise ValueError(
            f"weights must have the sum 1 for each query, received {float(sums[row])} in row {row}; "
            "divide each row by its sum"
        )
    return shares


class Reconstruction:
    """The distances of pairs of images, a tile at a time, in float64."""

    def __init__(
        self,
        queries: torch.Tensor,
        items: torch.Tensor,
        shares: torch.Tensor,
        *,
        penalty: str,
        beta: float,
        squared: bool,
    ) -> None:
        self._queries, self._items, self._shares = queries, items, shares
        self._fit: type[_Sparse | _Ridge] = _Sparse if penalty == "l1" else _Ridge
        self._beta, self._squared = beta, squared
        (_, depth, own), others = queries.shape, items.shape[2]
        widest = max(depth, others)
        self._of_item, self._of_pair = widest * others, widest * own

    def all(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix (Q, G)."""
        result = torch.empty((len(self._queries), len(self._items)), dtype=dtype, device=self._queries.device)
        height = max(1, min(len(self._queries), TILE // (4 * self._of_pair)))
        for block, fit in self._fits(max(1, TILE // max(self._of_item, height * self._of_pair))):
            for rows in cut(len(self._queries), height):
                columns = self._queries[rows].double().transpose(0, 1).flatten(1)  # (D, q M)
                left = fit.residuals(columns.expand(block.stop - block.start, -1, -1))
                result[rows, block] = self._reduce(left.view(len(left), -1, self._queries.shape[2]), rows).T.to(dtype)
        return result

    def some(self, table: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The entries of the matrix that a table (Q, C) names; inf at -1."""
        result = torch.full(table.shape, torch.inf, dtype=dtype, device=table.device)
        row, column = (table >= 0).nonzero(as_tuple=True)
        item = table[row, column]
        order = torch.argsort(item, stable=True)
        row, column, item = row[order], column[order], item[order]
        for part in cut(len(item), max(1, TILE // max(self._of_item, self._of_pair))):
            own, at = torch.unique(item[part], return_inverse=True)
            fit = self._fit(self._items[own].double(), self._beta).pick(at)
            rows = row[part]
            left = fit.residuals(self._queries[rows].double())
            result[rows, column[part]] = self._reduce(left[:, None], rows[:, None])[:, 0].to(dtype)
        return result

    def _fits(self, step: int) -> Iterator[tuple[slice, _Sparse | _Ridge]]:
        for block in cut(len(self._items), step):
            yield block, self._fit(self._items[block].double(), self._beta)

    def _reduce(self, left: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Squared residuals (n, q, M) of some queries as distances (n, q)."""
        distances: torch.Tensor = ((left if self._squared else left.sqrt()) * self._shares[rows]).sum(dim=2)
        return distances


class _Sparse:
    """n gallery images (n, D, M2) float64 with their Gram matrices; what is left of columns by "l1"."""

    def __init__(self, atoms: torch.Tensor, beta: float, gram: Gram | None = None) -> None:
        self._atoms, self._beta = atoms, beta
        self._gram = make_gram(atoms) if gram is None else gram

    def pick(self, at: torch.Tensor) -> _Sparse:
        """Some of the images, by index; each may come several times."""
        return _Sparse(self._atoms[at], self._beta, self._gram.pick(at))

    def residuals(self, columns: torch.Tensor) -> torch.Tensor:
        """|x - Yw|² (n, R) of columns (n, D, R)."""
        lengths = columns.square().sum(dim=1).sqrt()
        found = solve_lasso(self._gram, self._atoms.mT @ columns, lengths, self._beta)
        return torch.baddbmm(columns, self._atoms, found, alpha=-1).square().sum(dim=1)


class _Ridge:
    """n gallery images (n, D, M2) float64, factored once; what is left of columns by "ridge".

    With fewer rows than columns the factor is that of YY' + beta I, and x - Yw is beta times its inverse times x.
    """

    def __init__(self, atoms: torch.Tensor, beta: float, factors: torch.Tensor | None = None) -> None:
        self._atoms, self._beta = atoms, beta
        self._short = atoms.shape[1] < atoms.shape[2]
        self._factors = self._factor() if factors is None else factors

    def _factor(self) -> torch.Tensor:
        products = self._atoms @ self._atoms.mT if self._short else self._atoms.mT @ self._atoms
        products.diagonal(dim1=1, dim2=2).add_(self._beta)
        factors: torch.Tensor
        factors, failed = torch.linalg.cholesky_ex(products)
        if bool(failed.any()):
            raise ValueError(
                f"strength {self._beta} is too small for these features: the fit is singular in float64; "
                "pass a larger strength"
            )
        return factors

    def pick(self, at: torch.Tensor) -> _Ridge:
        """Some of the images, by index; each may come several times."""
        return _Ridge(self._atoms[at], self._beta, self._factors[at])

    def residuals(self, columns: torch.Tensor) -> torch.Tensor:
        """|x - Yw|² (n, R) of columns (n, D, R)."""
        if self._short:
            return torch.cholesky_solve(columns, self._factors).mul_(self._beta).square().sum(dim=1)
        found = torch.cholesky_solve(self._atoms.mT @ columns, self._factors)
        return torch.baddbmm(columns, self._atoms, found, alpha=-1).square().sum(dim=1)
