"""Rows over the processes of a torch job: three gloo processes, started once, and groups of two and one of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support import sharding
from support.starting import start

import pose2id
from pose2id.integrations.torch_distributed import centralize_sharded

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")


def make_rows(n, width, dtype):
    """People of four photographs, rows of zeros, and rows that are there several times, in different shards."""
    random = np.random.default_rng(5)
    people = random.standard_normal((n // 4 + 1, width))
    rows = people[random.integers(0, len(people), n)] + 0.5 * random.standard_normal((n, width))
    rows[[3, n // 2]] = 0
    rows[[7, n // 2 + 1, n - 2]] = rows[19]
    rows[[8, n // 2 + 2, n - 1]] = np.eye(width)[:3]  # as far from each other to the last bit
    return torch.from_numpy(rows).to(dtype)


X = make_rows(83, 12, torch.float32)
GENERATED = torch.from_numpy(np.random.default_rng(1).standard_normal((83, 3, 12))).float()
CAMS = np.random.default_rng(2).integers(0, 4, 83)
WORDS = np.array(["a", "bb", "c", "dd"])[CAMS]
BAD = X.clone()
BAD[82] = float("nan")
CASES = [
    (2, {"features": X}, {}, False),
    (3, {"features": X}, {"k1": 3, "k2": 4, "alpha": 2.0}, True),
    (3, {"features": X.numpy(), "generated": GENERATED.numpy(), "exclude": WORDS}, {"eta": 0.5}, False),
    (2, {"features": X.double(), "exclude": CAMS}, {"normalize": False, "k1": 5}, True),
    (3, {"features": X.bfloat16()}, {"k1": 1}, False),
    (3, {"features": X[:2]}, {"k1": 1, "k2": 9}, False),  # a shard without rows
    (1, {"features": X}, {}, False),
    (3, {"features": X}, {"k1": 0}, False),
]
WRONG = [
    (3, {"features": BAD}, {}, False),
    (3, {"features": X}, {"engine": "pivots"}, False),
    (3, {"features": X}, {"broken": 1}, False),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every process of every case got, by case."""
    file = tmp_path_factory.mktemp("sharded") / "meeting"
    cases = CASES + WRONG
    torch.save(cases, f"{file}-cases")  # as an argument a tensor would be moved to shared memory
    started = [start(sharding.run_cases, rank, str(file), said=f"{file}-said{rank}") for rank in range(sharding.WORLD)]
    for rank, process in enumerate(started):
        process.join(120)
        process.kill()
        assert process.exitcode == 0, Path(f"{file}-said{rank}.err").read_text(encoding="utf-8")
    return [
        [torch.load(f"{file}-{number}-{own}", weights_only=False) for own in range(members)]
        for number, (members, *_) in enumerate(cases)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_shards_get_the_rows_of_one_process(number, results):
    _, arrays, settings, _ = CASES[number]
    expected = pose2id.centralize(**arrays, **settings)
    covered = 0
    for at, result in results[number]:
        assert type(result) is type(expected)
        assert result.dtype == expected.dtype
        assert torch.as_tensor(result).equal(torch.as_tensor(expected)[torch.from_numpy(at)])
        covered += len(at)
    assert covered == len(expected)


@pytest.mark.slow
def test_what_is_wrong_in_one_process_is_told_in_all(results):
    nan, engine, broken = results[len(CASES) :]
    assert len(set(nan)) == 1
    assert nan[0].startswith("ValueError: rank 2: features")
    assert "NaN or inf in 1 row(s)" in nan[0]
    assert set(engine) == {
        "ValueError: rank 0: engine of a sharded set must be one of 'auto', 'exact', received 'pivots'"
    }
    assert broken == ["RuntimeError: rank 1: KeyError: 'broken'"] * 3


def test_without_a_process_group_there_is_one_process():
    order = np.random.default_rng(3).permutation(len(X))
    shuffled = centralize_sharded(X[order], positions=order)
    assert shuffled.equal(pose2id.centralize(X)[order])


@pytest.mark.parametrize(
    ("positions", "words"),
    [([0, 1, 1], "received 1 twice or more; leave out"), ([-1, 0, 1], "received -1"), (["a", "b", "c"], "integers")],
)
def test_wrong_positions_are_refused(positions, words):
    with pytest.raises((TypeError, ValueError), match=words):
        centralize_sharded(X[:3], positions=positions)
