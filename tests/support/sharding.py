"""One process of a torch job for `test_torch_distributed`: runs cases on its shard, and writes what they gave."""

from contextlib import nullcontext
from itertools import pairwise
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from pose2id.integrations import torch_distributed
from pose2id.integrations.torch_distributed import centralize_sharded

WORLD = 3


def split(n, members, positions):
    """The rows of each of `members` processes: uneven runs, one of them perhaps empty, or every so-many-th."""
    if positions:
        return [np.arange(n)[rank::members][::-1].copy() for rank in range(members)]
    ends = [0, *(n * (rank + 1) ** 2 // members**2 for rank in range(members))]
    return [np.arange(start, stop) for start, stop in pairwise(ends)]


def run_cases(rank, file):
    """The cases that `file`-cases holds; the result of each is saved beside it.

    They are (members, arrays by name, settings, positions or not). The setting `broken` names a process whose search
    fails.
    """
    cases = torch.load(f"{file}-cases", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    groups = {members: dist.new_group(list(range(WORLD - members, WORLD))) for members in (1, 2)} | {WORLD: None}
    for number, (members, arrays, settings, spread) in enumerate(cases):
        own = rank - (WORLD - members)
        if own < 0:
            continue
        at = split(len(arrays["features"]), members, spread)[own]
        shard = {name: array[at] for name, array in arrays.items()}
        positions = at if spread else None
        settings = dict(settings)
        broken = settings.pop("broken", None) == own
        fails = mock.patch.object(torch_distributed, "search_block", side_effect=KeyError("broken"))
        try:
            with fails if broken else nullcontext():
                result = centralize_sharded(**shard, **settings, positions=positions, group=groups[members])
            torch.save((at, result), f"{file}-{number}-{own}")
        except (TypeError, ValueError, RuntimeError) as error:
            torch.save(f"{type(error).__name__}: {error}", f"{file}-{number}-{own}")
    dist.destroy_process_group()
    return 0
