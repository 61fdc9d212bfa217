"""DSR: locations of a query made of those of a gallery image; coordinate descent, one pair after the other."""

import numpy as np


def lasso(x: np.ndarray, y: np.ndarray, beta: float) -> np.ndarray:
    """w (M2,) of min |x - y w|² + beta |w|_1, by coordinate descent; ArithmeticError if it does not settle."""
    w = np.zeros(y.shape[1])
    rest = x.copy()
    for _ in range(5000):
        moved = 0.0
        for j in range(len(w)):
            length = float(y[:, j] @ y[:, j])
            if length == 0:
                continue
            value = float(y[:, j] @ rest) + length * w[j]
            value = np.sign(value) * max(abs(value) - beta / 2, 0.0) / length
            rest -= (value - w[j]) * y[:, j]
            moved = max(moved, abs(value - w[j]) * np.sqrt(length))
            w[j] = value
        if moved < 1e-14:
            return w
    raise ArithmeticError("columns of y nearly depend on each other")


def ridge(x: np.ndarray, y: np.ndarray, beta: float) -> np.ndarray:
    """w (M2,) of min |x - y w|² + beta |w|²."""
    return np.linalg.solve(y.T @ y + beta * np.eye(y.shape[1]), y.T @ x)


def distances(
    query: np.ndarray,
    gallery: np.ndarray,
    penalty: str,
    beta: float,
    weights: np.ndarray | None = None,
    reduce: str = "mean_squared",
) -> np.ndarray:
    """The matrix (Q, G)."""
    fit = lasso if penalty == "l1" else ridge
    result = np.zeros((len(query), len(gallery)))
    for i, j in np.ndindex(*result.shape):
        left = [((x - gallery[j] @ fit(x, gallery[j], beta)) ** 2).sum() for x in query[i].T]
        left = np.array(left) if reduce == "mean_squared" else np.sqrt(left)
        result[i, j] = left.mean() if weights is None else (weights[i] * left).sum()
    return result
