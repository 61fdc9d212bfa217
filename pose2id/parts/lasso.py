"""Many small problems min |x - Yw|² + beta |w|_1 at once, by products with Y'Y.

Accelerated gradient steps (FISTA with restarts) for all columns together find the support of nearly all. Then each
column is finished by exact steps on its support, with exact line searches that cross zeros (feature-sign search: Lee,
Battle, Raina, Ng, *Efficient sparse coding algorithms*, NIPS 2006), until the conditions of optimality (KKT) hold.
These steps decrease the objective and there are finitely many supports, so it ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pose2id.threads import refit_threads

STEPS = 60
"""Gradient steps before the exact ones."""
TOLERANCE = 1e-11
"""How far the conditions may be missed, as a share of 2 |y| (|x| + |y| |w|_1), with y the longest column of Y."""
ELEMENTS = 2**20
"""Elements of the largest array of the exact steps: 8 MB, and about eight of them live."""


class Gram(NamedTuple):
    """Y'Y of n matrices Y (n, D, M2) float64, with their largest eigenvalues."""

    products: torch.Tensor  # (n, M2, M2)
    largest: torch.Tensor  # (n,)

    def pick(self, at: torch.Tensor) -> Gram:
        """Some of the matrices, by index; each may come several times."""
        return Gram(self.products[at], self.largest[at])


def make_gram(atoms: torch.Tensor) -> Gram:
    """Y'Y of the matrices Y (n, D, M2) float64."""
    products = atoms.mT @ atoms
    largest = torch.linalg.eigvalsh(products)[:, -1]
    return Gram(products, largest.clamp(min=torch.finfo(torch.float64).tiny))


def solve_lasso(gram: Gram, right: torch.Tensor, lengths: torch.Tensor, beta: float) -> torch.Tensor:
    """The coefficients (n, M2, R) of all columns, from right = Y'x (n, M2, R) and |x| (n, R), float64.

    KKT holds, within `TOLERANCE` of the terms: |2 Y'(Yw - x)| <= beta off the support, = -beta sign(w) on it.
    """
    found = _gradient_steps(gram, right, beta)
    columns = found.mT.flatten(0, 1)  # (n x R, M2)
    targets = right.mT.flatten(0, 1)
    image = torch.arange(len(found), device=found.device).repeat_interleave(found.shape[2])
    columns = _finish(gram, image, columns, targets, lengths.flatten(), beta)
    return columns.view(found.shape[0], found.shape[2], found.shape[1]).mT


def _gradient_steps(gram: Gram, right: torch.Tensor, beta: float) -> torch.Tensor:
    """FISTA from 0; where a step turns against the momentum, that column starts again (O'Donoghue, Candès 2015)."""
    rate = 1 / gram.largest.view(-1, 1, 1)
    threshold = rate * (beta / 2)
    scaled, products = right * rate, gram.products * rate
    found = torch.zeros_like(right)
    ahead = found
    momentum = torch.ones_like(right[:, :1])
    for _ in range(STEPS):
        moved = torch.baddbmm(scaled + ahead, products, ahead, alpha=-1)
        last, found = found, torch.sign(moved) * (moved.abs() - threshold).clamp_(min=0)
        change = found - last
        turned = ((ahead - found) * change).sum(dim=1, keepdim=True) > 0
        momentum = torch.where(turned, 1.0, momentum)
        larger = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = found + change * ((momentum - 1) / larger)
        momentum = larger
    return found


def _finish(
    gram: Gram, image: torch.Tensor, found: torch.Tensor, right: torch.Tensor, lengths: torch.Tensor, beta: float
) -> torch.Tensor:
    """Exact steps until every column (c, M2) is optimal; `image` (c,) says whose Gram matrix it has."""
    found = found.clone()
    left = torch.arange(len(found), device=found.device)
    size = gram.products.diagonal(dim1=1, dim2=2).amax(dim=1).sqrt()
    for _ in range(100 + 20 * found.shape[1]):
        # Columns of one block have supports of like size, since the largest sets its cost.
        left = left[torch.argsort((found[left] != 0).sum(dim=1))]
        open_columns = []
        start = 0
        while start < len(left):
            refit_threads()
            block = left[start : start + max(1, ELEMENTS // found.shape[1] ** 2)]
            start += len(block)
            own = image[block]
            terms = size[own] * (lengths[block] + size[own] * found[block].abs().sum(dim=1))
            step = _Step(gram.products[own], found[block], right[block], beta, 2 * TOLERANCE * terms)
            if len(step.open):
                found[block[step.open]] = step.take(gram.largest[own[step.open]])
                open_columns.append(block[step.open])
        if not open_columns:
            return found
        left = torch.cat(open_columns)
    raise ValueError(
        f"strength {beta} is too small for these features: {len(left)} location(s) could not be solved to "
        f"{TOLERANCE:g}; pass a larger strength, or penalty='ridge'"
    )


class _Step:
    """One step of feature-sign search for columns w (c, M2): which are `open`, not optimal yet, and their next w."""

    def __init__(
        self, products: torch.Tensor, found: torch.Tensor, right: torch.Tensor, beta: float, allowed: torch.Tensor
    ) -> None:
        half = torch.bmm(products, found[:, :, None])[:, :, 0] - right  # half of the gradient
        signs = torch.sign(found)
        on = signs != 0
        wrong_on = torch.where(on, 2 * half + beta * signs, 0.0).abs().amax(dim=1) > allowed
        excess, worst = torch.where(on, -torch.inf, 2 * half.abs() - beta).max(dim=1)
        self.open = (wrong_on | (excess > allowed)).nonzero()[:, 0]
        # A new coordinate is taken up only where the support is optimal: then its sign is certain.
        new = (~wrong_on)[self.open].nonzero()[:, 0]
        at = worst[self.open][new]
        self._half, self._signs = half[self.open], signs[self.open]
        self._signs[new, at] = -torch.sign(self._half[new, at])
        self._products, self._found, self._beta = products[self.open], found[self.open], beta

    def take(self, largest: torch.Tensor) -> torch.Tensor:
        """The open columns after a Newton step on their supports, as far along it as the objective falls."""
        on = self._signs != 0
        count = int(on.sum(dim=1).max())
        at = torch.argsort(on.to(torch.int8), dim=1, descending=True, stable=True)[:, :count]
        kept = on.gather(1, at)
        w, sign, half = (part.gather(1, at) * kept for part in (self._found, self._signs, self._half))
        system = self._products.gather(1, at[:, :, None].expand(-1, -1, self._products.shape[2]))
        system = system.gather(2, at[:, None, :].expand(-1, count, -1))
        system = system * (kept[:, :, None] & kept[:, None, :])
        diagonal = torch.where(kept, 1e-11 * largest[:, None], 1.0)  # equal columns of Y make it singular
        factor = torch.linalg.cholesky_ex(system + torch.diag_embed(diagonal)).L
        move = torch.cholesky_solve(-(half + self._beta / 2 * sign)[:, :, None], factor)
        curvature = (move.mT @ system @ move)[:, 0, 0]
        move = move[:, :, 0]
        # Along the move the derivative is 2 t curvature + slope, and the slope rises by 2 beta |move| at each zero.
        zeros = torch.where(w * move < 0, -w / move, torch.inf)
        times, order = zeros.sort(dim=1)
        rises = (2 * self._beta * move.abs()).gather(1, order)
        first = (2 * half * move).sum(dim=1) + self._beta * torch.where(w == 0, move.abs(), sign * move).sum(dim=1)
        slopes = torch.cat([first[:, None], first[:, None] + rises.cumsum(dim=1)], dim=1)
        begins = torch.nn.functional.pad(times, (1, 0), value=0.0)
        ends = torch.nn.functional.pad(times, (0, 1), value=torch.inf)
        roots = -slopes / (2 * curvature.clamp(min=torch.finfo(torch.float64).tiny))[:, None]
        segment = (roots <= ends).to(torch.int8).argmax(dim=1, keepdim=True)
        time = torch.maximum(roots.gather(1, segment), begins.gather(1, segment))
        time = time.clamp(max=1.0)  # the slope of a last small step is rounding: never past Newton's own
        w = torch.where(zeros == time, 0.0, w + time * move)
        return self._found.scatter(1, at, torch.where(kept, w, self._found.gather(1, at)))
