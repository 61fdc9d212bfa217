"""Re-weighting: predictions of attributes corrected by each other, APR's module in one line."""

from __future__ import annotations

import torch

from pose2id.arrays import ArrayT, check_same_kind, take_features, take_floats


def reweight_attributes(scores: ArrayT, matrix: ArrayT, bias: ArrayT) -> ArrayT:
    """Re-weight predicted attributes by a learned confidence in each: sigmoid(V a + b) * a.

    The attribute re-weighting module (ARM) of APR. `matrix` and `bias` are learned with the classifier of identities,
    which then sees the features and these scores in one row.

    Parameters
    ----------
    scores : (N, m) numpy array or torch tensor
        The predictions a, one for each attribute or for each class; float16, bfloat16, float32 or float64.
    matrix : (m, m) array of the same container and device
        V; row i holds how much each prediction adds to the confidence in the i-th.
    bias : (m,) array of the same container and device
        b.

    Returns
    -------
    (N, m) array
        Like `scores`. Of tensors that require it, nothing is learned through this function: a module of your own is one
        line of torch.

    Raises
    ------
    ValueError, TypeError
        For arrays of other shapes, kinds and devices, and for NaN or inf.

    References
    ----------
    Lin et al., *Improving Person Re-identification by Attribute and Identity Learning*, Pattern Recognition 2019,
    equations 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.attributes import reweight_attributes
    >>> reweight_attributes(np.array([[0.5, 1.0]]), np.zeros((2, 2)), np.zeros(2))
    array([[0.25, 0.5 ]])
    """
    values, kind = take_features(scores, "scores", "(N, m)")
    weights, kind_of_matrix = take_features(matrix, "matrix", "(m, m)")
    offsets, kind_of_bias = take_floats(bias, "bias", "(m)")
    for other, name in ((kind_of_matrix, "matrix"), (kind_of_bias, "bias")):
        check_same_kind(kind, other, ("scores", name))
    width = values.shape[1]
    if weights.shape != (width, width) or offsets.shape != (width,):
        raise ValueError(
            f"matrix and bias must have shape ({width}, {width}) and ({width},) as scores have {width} columns, "
            f"received {tuple(weights.shape)} and {tuple(offsets.shape)}"
        )
    if not bool(torch.isfinite(offsets).all()):
        raise ValueError("bias must be finite, received NaN or inf")
    exact = values.double()
    confidence = torch.sigmoid(exact @ weights.double().T + offsets.double())
    result: ArrayT = kind.give_back((confidence * exact).to(values.dtype))
    return result
