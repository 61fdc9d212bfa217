"""`NeighborCentralizer`: the method as a scikit-learn transformer.

Import it by its full path: `from pose2id.integrations.sklearn import NeighborCentralizer`. scikit-learn is not a
dependency of pose2id; install it with `pip install scikit-learn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import take_array, take_features, work_dtype
from pose2id.centralization import FusedRows, centralize, check_parameters, gallery_radius, prepare_gallery, pull_toward
from pose2id.errors import MissingExtraError
from pose2id.validation import encode_labels, is_tensor, take_labels, take_tensor

if TYPE_CHECKING:
    from pose2id.validation import Labels

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError(
        "pose2id.integrations.sklearn needs scikit-learn 1.6 or newer: pip install 'scikit-learn>=1.6'",
        extra="scikit-learn",
        package="scikit-learn",
    ) from error

Floats = npt.NDArray[Any]


class NeighborCentralizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pull features toward their mutual nearest neighbours, in two ways that are different on purpose.

    - `fit_transform(X)` is `pose2id.centralize(X)`, the published method: the rows of one set pull each other.
    - `fit(gallery).transform(query)` is `pose2id.centralize_queries(query, gallery)`: query rows are pulled toward a
      *fixed* gallery, which is measured once. **Not the published protocol**, see there.

    So `fit(X).transform(X)` differs from `fit_transform(X)`: in the former every row finds itself in the gallery.

    Parameters
    ----------
    k1, k2 : int
        As for `pose2id.centralize`; 0 switches the step off.
    alpha : float
        Weight max(cosine, 0) ** alpha of each neighbour.
    normalize : bool
        Scale rows to length 1 before and after.
    engine : {"auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first four give the same answer, the others are approximate.

    Attributes
    ----------
    gallery_ : (G, D) array
        The fitted rows that have a direction, scaled to length 1 if `normalize`.
    radius_ : (G,) array
        Distance from each of them to its k2-th neighbour.
    exclude_ : (G,) array or None
        Their labels, if `fit` got some.
    n_features_in_ : int
        D.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.sklearn import NeighborCentralizer
    >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
    >>> NeighborCentralizer(k1=1, k2=1).fit(gallery).transform([[0.96, 0.28]]).round(2).tolist()
    [[0.99, 0.14]]
    """

    def __init__(
        self, k1: int = 2, k2: int = 2, *, alpha: float = 0.0, normalize: bool = True, engine: str = "auto"
    ) -> None:
        self.k1 = k1
        self.k2 = k2
        self.alpha = alpha
        self.normalize = normalize
        self.engine = engine

    def fit(self, X: Any, y: object = None, exclude: Labels | None = None) -> NeighborCentralizer:  # noqa: ARG002
        """Keep X (G, D) as the gallery and measure within what radius each of its rows counts. `y` is ignored.

        Rows with equal labels in `exclude` (G,), such as cameras, are no neighbours, as for `pose2id.centralize`.
        """
        check_parameters(1.0, self.k1, self.k2, self.alpha, self.normalize, self.engine)
        rows, _ = take_features(self._take(X, reset=True), "X")
        gallery = prepare_gallery(rows, work_dtype(rows.dtype), normalize=self.normalize)
        self.gallery_ = gallery.numpy()
        self.exclude_, codes = None, None
        if exclude is not None:
            self.exclude_ = take_labels(exclude, len(rows), "exclude")[(rows != 0).any(dim=1).numpy()]
            codes = torch.from_numpy(encode_labels([self.exclude_], ("exclude", "exclude"))[0])
        self.radius_ = gallery_radius(gallery, self.k2, codes, engine=self.engine).numpy()
        return self

    def fit_transform(self, X: Any, y: object = None, exclude: Labels | None = None) -> Floats:  # noqa: ARG002
        """Fit, and return `pose2id.centralize(X, exclude=exclude)`: the published method within one set."""
        X = self.fit(X, exclude=exclude)._take(X, reset=False)  # an array, whatever it was
        settings: dict[str, Any] = {"k1": self.k1, "k2": self.k2, "alpha": self.alpha, "normalize": self.normalize}
        pulled: Floats = centralize(X, exclude=exclude, engine=self.engine, **settings)
        return pulled

    def transform(self, X: Any, exclude: Labels | None = None) -> Floats:
        """Pull the rows of X (Q, D) toward the fitted gallery; same dtype out. Not the published protocol.

        With `exclude` (Q,) gallery rows that have a query's label do not pull it; `fit` must have got theirs.
        """
        check_is_fitted(self)
        rows, kind = take_features(self._take(X, reset=False), "X")
        gallery, radius = take_array(self.gallery_, "gallery_")[0], take_array(self.radius_, "radius_")[0]
        queries = FusedRows(rows, normalize=self.normalize)
        labels = None
        if exclude is not None:
            if self.exclude_ is None:
                raise ValueError(
                    "exclude needs the labels of the gallery too: fit(X, exclude=...), received None there"
                )
            sides = encode_labels([take_labels(exclude, len(rows), "exclude"), self.exclude_], ("exclude", "exclude_"))
            labels = torch.from_numpy(sides[0]), torch.from_numpy(sides[1])
        pulled = pull_toward(queries, gallery, radius, self.k1, self.alpha, labels, engine=self.engine)
        return kind.give_back(pulled)  # type: ignore[no-any-return]

    def _take(self, X: Any, *, reset: bool) -> Floats:
        if is_tensor(X):
            X = take_tensor(X, "X").cpu()
            X = (X.float() if X.dtype == torch.bfloat16 else X).numpy()  # a tensor, scikit-learn turns into float64
        taken: Floats = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32, np.float16])
        return taken

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
