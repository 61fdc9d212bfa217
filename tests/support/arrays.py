"""Every container and dtype that the package takes."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ArrayKind:
    """A container and a dtype that the package must accept and give back."""

    container: str
    dtype: str

    def make(self, values, device="cpu"):
        """Build an array of this kind from float64 numpy values."""
        values = np.asarray(values, dtype=np.float64)
        if self.container == "torch":
            return torch.tensor(values).to(getattr(torch, self.dtype)).to(device)
        array = values.astype(self.dtype)
        if self.container == "numpy-readonly":
            array.setflags(write=False)
        return array

    def rounded(self, values):
        """Give the float64 values that ``make(values)`` really holds."""
        return as_float64(self.make(values))

    def holds(self, array):
        """Whether ``array`` has this container and this dtype."""
        return self.has_container(array) and str(array.dtype).removeprefix("torch.") == self.dtype

    def has_container(self, array):
        """Whether ``array`` has this container, whatever its dtype."""
        return isinstance(array, torch.Tensor if self.container == "torch" else np.ndarray)

    @property
    def single(self):
        """Whether distances of this kind are float32."""
        return self.dtype != "float64"

    @property
    def distance_dtype(self):
        """The dtype of distances computed from this kind."""
        return "float32" if self.single else "float64"

    @property
    def epsilon(self):
        """A few roundings to this dtype, relative."""
        return {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-13}[self.dtype]


def as_float64(array):
    """Turn any array into float64 numpy values."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


KINDS = [
    ArrayKind("numpy", "float16"),
    ArrayKind("numpy", "float32"),
    ArrayKind("numpy", "float64"),
    ArrayKind("numpy-readonly", "float32"),
    ArrayKind("numpy-readonly", "float64"),
    ArrayKind("torch", "float16"),
    ArrayKind("torch", "bfloat16"),
    ArrayKind("torch", "float32"),
    ArrayKind("torch", "float64"),
]
