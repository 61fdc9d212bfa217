"""Several processes of a torch job (`torchrun`), each with the rows that its share of the images gave.

Rows go round the ring of processes twice, a shard at a time: once to be searched, once to be added. No process ever
holds all rows, and each gets its own rows back, with the bits that one process with all rows would get.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pose2id.arrays import ArrayT, take_array
from pose2id.centralization import check_parameters
from pose2id.distributed.blocks import (
    Answer,
    Block,
    Table,
    add_rows,
    answer_rows,
    as_tensor,
    empty_table,
    fuse_block,
    merge_tables,
    search_block,
    search_pair,
)
from pose2id.errors import one_line
from pose2id.validation import check_choice, is_tensor, take_labels

__all__ = ["centralize_sharded"]

ENGINES = ("auto", "exact")


def centralize_sharded(
    features: ArrayT,
    generated: Any = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    exclude: Any = None,
    positions: Any = None,
    engine: str = "auto",
    group: Any = None,
) -> ArrayT:
    """Centralize rows that are spread over the processes of a torch job; every process calls it with its own.

    Parameters
    ----------
    features : (n, D) numpy array or torch tensor
        The rows of this process; n may differ from one to the other, and be 0.
    generated : (n, M, D) or (n, D) array, optional
        Generated features of these rows.
    eta, k1, k2, alpha, normalize
        As for `pose2id.centralize`; the same in all processes.
    exclude : (n,) integers or strings, optional
        Labels of these rows: equal ones are never neighbours, in whatever process they are.
    positions : (n,) integers, optional
        The place of each row in the whole set, where the set is not simply the rows of rank 0, then those of rank 1 and
        so on: ``range(rank, N, world_size)`` for torch's `DistributedSampler` without shuffling. Ties, and the order of
        sums, go by it. Every place occurs once: leave out the rows that a sampler repeats to make shards equally long.
    engine : {"auto", "exact"}
        Who searches; both find all neighbours.
    group : torch.distributed process group, optional
        The processes among which the rows are spread; all of them by default. NCCL sends from GPU to GPU, any other
        back end through main memory. Without `torch.distributed.init_process_group` there is one process.

    Returns
    -------
    (n, D) array of the container, dtype and device of `features`
        The rows of this process. For rows in main memory they equal those that `pose2id.centralize` gives for the
        whole set in one process, to the last bit.

    Raises
    ------
    TypeError, ValueError, MemoryError, RuntimeError
        In *all* processes, naming the rank whose arguments are wrong or whose work failed, so that none waits for
        another. After a process that died the others get torch's own error, at once or after the group's timeout.

    Notes
    -----
    A process holds its own shard fused, two visiting ones, and the mutual neighbours of its rows, at most min(k1, k2)
    for each. It sends two times the whole set.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.torch_distributed import centralize_sharded
    >>> features = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> centralize_sharded(features, k1=1, k2=1).round(3).tolist()  # one process
    [[0.894, 0.447], [0.894, 0.447], [0.0, -1.0]]
    """
    ring = _Ring(group)
    with ring.attempt():
        eta, k1, k2, alpha = check_parameters(eta, k1, k2, alpha, normalize, engine)
        check_choice(engine, "engine of a sharded set", ENGINES)
        tensor, kind = take_array(features, "features")
        here = _to_cpu(generated)
        labels = None if exclude is None else take_labels(exclude, len(tensor), "exclude")
        places = None if positions is None else take_labels(positions, len(tensor), "positions")
        if places is not None and places.dtype.kind == "U" and len(places):
            raise TypeError("positions must be integers, received strings")
        rows = fuse_block(_to_cpu(features), here, first=0, eta=eta, normalize=normalize).rows
        shape = None if here is None else _shape_of(here)
        settings: dict[str, Any] = {"eta": eta, "k1": k1, "k2": k2, "alpha": alpha, "normalize": bool(normalize)}
        settings |= {"D": rows.shape[1], "dtype": str(tensor.dtype), "generated": shape, "engine": engine}
        settings |= {"exclude": labels is not None, "positions": places is not None}
        said = settings, len(rows)
    ring.raise_failures()
    told = ring.gather(said)
    for rank, (other, _) in enumerate(told):
        wrong = [
            f"{name} = {told[0][0][name]!r} and {value!r}" for name, value in other.items() if value != told[0][0][name]
        ]
        if wrong:
            raise ValueError(f"ranks 0 and {rank} must pass arguments of one kind, received {', '.join(wrong)}")
    lengths = [length for _, length in told]
    everywhere, order = _take_places(ring, places, lengths)
    codes = None if labels is None else _encode(ring, labels, lengths)
    shard = Block(rows[order], 0, None if codes is None else codes[order])
    k = min(max(k1, k2), sum(lengths) - 1) if k1 and k2 and sum(lengths) else 0
    device = "cuda" if tensor.device.type == "cuda" else "cpu"
    answers = _exchange(ring, shard, everywhere, k, k1, k2, engine, device) if k else []
    mine = everywhere[ring.rank]
    with ring.attempt():
        added = add_rows(as_tensor(shard.rows), mine, answers, alpha, normalize=normalize, dtype=tensor.dtype)
        result = torch.empty_like(added)
        result[torch.from_numpy(order)] = added
    ring.raise_failures()
    return kind.give_back(result)  # type: ignore[no-any-return]


def _to_cpu(generated: Any) -> Any:
    """Generated features where rows are fused."""
    if isinstance(generated, list | tuple):
        return [_to_cpu(each) for each in generated]
    return generated.cpu() if is_tensor(generated) else generated


def _shape_of(generated: Any) -> tuple[int, ...]:
    """What must be alike in all processes."""
    return (len(generated),) if isinstance(generated, list | tuple) else tuple(generated.shape[1:])


def _take_places(ring: _Ring, places: Any, lengths: list[int]) -> tuple[list[Any], Any]:
    """The places of all rows in the whole set, ascending for each process, and the order that makes these of ours."""
    ends = np.cumsum(lengths)
    if places is None:
        every = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        return every, np.arange(lengths[ring.rank])
    order = np.argsort(places, kind="stable")
    every = ring.gather(places[order])
    found, counts = np.unique(np.concatenate(every), return_counts=True)
    if len(found) and (counts.max() > 1 or found[0] < 0):
        wrong = f"{found[counts.argmax()]} twice or more" if counts.max() > 1 else f"{found[0]}"
        raise ValueError(
            f"positions must be different numbers from 0 on, received {wrong}; "
            "leave out the rows that a sampler repeats"
        )
    return every, order


def _encode(ring: _Ring, labels: Any, lengths: list[int]) -> Any:
    """Labels as numbers that mean the same in every process."""
    distinct = ring.gather(np.unique(labels))
    parts = [each for each, length in zip(distinct, lengths, strict=True) if length]
    if len({each.dtype.kind == "U" for each in parts}) > 1:
        raise TypeError("exclude must hold integers in all processes, or strings in all, received both")
    return np.searchsorted(np.unique(np.concatenate(parts)), labels) if parts else np.empty(0, np.int64)


def _exchange(
    ring: _Ring, shard: Block, places: list[Any], k: int, k1: int, k2: int, engine: str, device: str
) -> list[Answer]:
    """Send all rows round twice: search this process's rows among them, then keep the mutual neighbours."""
    near = empty_table(len(shard.rows), k, shard.rows.dtype)
    codes = [] if shard.labels is None else [shard.labels]
    for rank, visiting in ring.visit([shard.rows, *codes], list(map(len, places))):
        with ring.attempt():
            base = Block(visiting[0], 0, visiting[1] if codes else None)
            if rank == ring.rank:
                found, _ = search_pair(shard, shard, k=k, engine=engine, zeros=False, device=device)
            else:
                found = search_block(shard, base, k, engine, zeros=False, device=device)
            met = found.indices
            if len(places[rank]):
                met = np.where(met >= 0, places[rank][met.clip(min=0)], -1)
            near = merge_tables([near, Table(met, found.distances)])
    own, neighbors = places[ring.rank], near.indices[:, :k1]
    answers = []
    for rank, (rows, held) in ring.visit([shard.rows, near.indices[:, :k2].copy()], list(map(len, places))):
        if not len(rows):
            continue
        with ring.attempt():
            place = np.searchsorted(places[rank], neighbors).clip(max=len(rows) - 1)
            at, slot = ((places[rank][place] == neighbors) & (neighbors >= 0)).nonzero()
            answers.append(answer_rows(rows, held, own[at], neighbors[at, slot], at, place[at, slot]))
    return answers


def _describe(error: Exception) -> tuple[type[Exception], str]:
    """A kind of error that every process can raise, and words."""
    for kind in (TypeError, ValueError, MemoryError):
        if isinstance(error, kind):
            return kind, one_line(error)
    return RuntimeError, f"{type(error).__name__}: {one_line(error)}"


class _Ring:
    """The processes of a group, each of which sends to the next and receives from the one before."""

    def __init__(self, group: Any) -> None:
        self.failure: Exception | None = None
        self.group, on = group, dist.is_available() and dist.is_initialized()
        self.size, self.rank = (dist.get_world_size(group), dist.get_rank(group)) if on else (1, 0)
        if self.rank < 0:
            raise ValueError("group must hold this process; call centralize_sharded in its members only")
        backend = str(dist.get_backend(group)) if on else "gloo"
        self.device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep an error for `raise_failures`, so that this process goes on passing rows to those who wait for them."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the others must hear of it
            self.failure = self.failure or error

    def raise_failures(self) -> None:
        """Raise in all processes what failed in any."""
        for rank, failure in enumerate(self.gather(self.failure and _describe(self.failure))):
            if failure is not None:
                kind, words = failure
                raise kind(f"rank {rank}: {words}") from (self.failure if rank == self.rank else None)

    def gather(self, value: Any) -> list[Any]:
        """What every process has to say, by rank."""
        if self.size == 1:
            return [value]
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, value, group=self.group)
        return told

    def visit(self, arrays: list[Any], lengths: list[int]) -> Iterator[tuple[int, list[Any]]]:
        """Every process's `arrays` of `lengths` rows, with its rank; the next ones are on their way meanwhile."""
        held = [torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays]
        for step in range(self.size):
            last = step == self.size - 1
            coming, waiting = ([], []) if last else self._pass_on(held, lengths[(self.rank - step - 1) % self.size])
            yield (self.rank - step) % self.size, [each.cpu().numpy() for each in held]
            for work in waiting:
                work.wait()
            held = coming

    def _pass_on(self, held: list[torch.Tensor], length: int) -> tuple[list[torch.Tensor], list[Any]]:
        """Begin to send `held` to the next; tensors that fill with what comes from the one before, and their works."""
        coming = [torch.empty((length, *each.shape[1:]), dtype=each.dtype, device=self.device) for each in held]
        ranks = [(self.rank + 1) % self.size, (self.rank - 1) % self.size]
        if self.group is not None:
            ranks = [dist.get_global_rank(self.group, rank) for rank in ranks]
        calls = [dist.P2POp(dist.isend, each, ranks[0], self.group) for each in held if each.numel()]
        calls += [dist.P2POp(dist.irecv, each, ranks[1], self.group) for each in coming if each.numel()]
        return coming, dist.batch_isend_irecv(calls) if calls else []
