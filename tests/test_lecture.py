"""The figures of docs/lecture.md: what they show is what the systems compute."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pose2id import encoders
from pose2id.encoders import PCB, RPP, SYSTEMS, AlignedReID, SPReID, Trunk
from pose2id.parts import aligned_distances, part_boxes, pool_boxes, reconstruction_distances
from pose2id.programs import lecture
from pose2id.programs.lecture import Locations, locate_boxes, locate_parts, see_person

Image = pytest.importorskip("PIL.Image")
DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "lecture.md").read_text(encoding="utf-8")
SEEN = see_person()
MAPS = torch.rand(1, 128, 16, 8, generator=torch.Generator().manual_seed(0))


class Given(nn.Module):
    """A trunk that has one map."""

    def forward(self, _):
        return MAPS


def on_maps(head):
    head.trunk = Given()
    return head.eval()(SEEN.image, SEEN.keypoints, SEEN.masks).parts[0]


def test_six_stripes_share_rows():
    shares = locate_parts(PCB(2, Locations()).eval()(SEEN.image).parts)
    rows = [np.flatnonzero(stripe[:, 0]).tolist() for stripe in shares]
    assert rows == [[0, 1, 2], [2, 3, 4, 5], [5, 6, 7], [8, 9, 10], [10, 11, 12, 13], [13, 14, 15]]
    np.testing.assert_allclose(shares.sum((1, 2)), 1, rtol=1e-6)


@pytest.mark.parametrize("system", [PCB, SPReID])
def test_means_are_those_of_the_locations_shown(system):
    shares = locate_parts(system(2, Locations()).eval()(SEEN.image, masks=SEEN.masks).parts)
    expected = torch.einsum("phw,chw->pc", torch.from_numpy(shares).float(), MAPS[0])
    torch.testing.assert_close(on_maps(system(2, Trunk())), expected)


def test_largest_values_are_those_of_the_locations_shown():
    boxes, within = locate_boxes(SEEN, "spindle")
    known, seen = part_boxes(SEEN.keypoints, lecture.SIZE)
    np.testing.assert_array_equal(boxes, known[0].numpy())
    assert seen.all()
    pooled = {
        "boxes": (within, pool_boxes(MAPS, known, lecture.SIZE)[0]),
        "stripes": (
            locate_parts(AlignedReID(2, Locations()).eval()(SEEN.image).parts),
            on_maps(AlignedReID(2, Trunk())),
        ),
    }
    for shares, found in pooled.values():
        held = MAPS[0].where(torch.from_numpy(shares > 0)[:, None], -1)  # (P, C, H, W)
        torch.testing.assert_close(found, held.amax((2, 3)))


def test_parts_that_are_hidden_are_nowhere():
    hidden = see_person(occluded=True)
    head, _, _, feet = locate_parts(SPReID(2, Locations()).eval()(hidden.image, masks=hidden.masks).parts)
    assert head.sum() == pytest.approx(1)
    assert feet.sum() == 0


def test_systems_without_parts_show_nowhere():
    with pytest.raises(ValueError, match="no parts"):
        locate_parts(None)


def test_the_way_is_the_shortest():
    first, second = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for other in (second, second[:5]):
        way = lecture.align_stripes(first, other)
        cells = np.tanh(torch.cdist(first, other).numpy() / 2)
        assert cells[way].sum() == pytest.approx(aligned_distances(first[None], other[None]).item())
        steps = np.diff(np.argwhere(way), axis=0)
        assert set(map(tuple, steps.tolist())) == {(0, 1), (1, 0)}
        assert way.sum() == len(first) + len(other) - 1


def test_a_location_is_made_of_what_reconstruction_takes():
    columns = functional.normalize(lecture.cut_locations(see_person(pose=1).image).flatten(2), dim=1)[0]
    target = functional.normalize(lecture.cut_locations(SEEN.image)[0, :, 5, 3], dim=0)
    shares = lecture.reconstruct_location(target, columns)
    left = (target - columns @ shares).square().sum().item()
    expected = reconstruction_distances(target[None, :, None], columns[None], strength=lecture.BETA)
    assert left == pytest.approx(expected.item())
    assert 1 <= (shares != 0).sum() <= 10


def test_refined_parts_are_where_things_look_alike():
    """Two rows of the map changed places: RPP follows them, stripes do not."""
    rows = torch.arange(6).repeat_interleave(4)
    rows[[3, 20]] = rows[[20, 3]]
    maps = 5 * functional.one_hot(rows, 6).double().T[None, :, :, None].expand(-1, -1, -1, 8)
    shares = lecture.refine_stripes(maps)
    np.testing.assert_allclose(shares.sum(0), 1)
    assert shares.argmax(0)[:, 0].tolist() == rows.tolist()


def test_refined_parts_pool_as_the_head_does(monkeypatch):
    heads = []
    monkeypatch.setattr(lecture, "RPP", lambda *given, **sizes: heads.append(RPP(*given, **sizes)) or heads[-1])
    maps = lecture.cut_locations(SEEN.image)
    shares = torch.from_numpy(lecture.refine_stripes(maps))
    stripes = functional.adaptive_avg_pool2d(maps, (6, 1))[0, :, :, 0].T  # (P, C)
    apart = (maps - stripes.view(6, 48, 1, 1)).square().sum(1)
    torch.testing.assert_close(shares, (-lecture.SURE * apart).softmax(0))
    expected = 6 / 128 * torch.einsum("phw,nchw->npc", shares, maps)
    torch.testing.assert_close(heads[0].pool(maps), expected)


def test_locations_hold_their_pixels():
    maps = lecture.cut_locations(torch.arange(3 * 64 * 32.0).view(1, 3, 64, 32))
    assert maps.shape == (1, 48, 16, 8)
    block = torch.arange(3 * 64 * 32.0).view(3, 64, 32)[:, 8:12, 4:8]
    assert sorted(maps[0, :, 2, 1].tolist()) == sorted(block.flatten().tolist())


def test_the_page_shows_what_is_drawn(tmp_path):
    drawn = lecture.draw_lecture(tmp_path / "images")
    assert re.findall(r"!\[[^]]+\]\((images/[^)]+)\)", PAGE) == [f"images/{path.name}" for path in drawn]
    for path in drawn:
        with Image.open(path) as new, Image.open(DOCS / "images" / path.name) as kept:
            assert new.size == kept.size
            off = np.abs(np.asarray(new, np.int16) - np.asarray(kept, np.int16))
        assert off.mean() < 4  # versions of Pillow differ in letters


def test_the_page_has_every_system():
    rows = re.findall(r"^\| `(\w+)` \| {py:class}`~pose2id\.encoders\.(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [(name, system.__name__) for name, system in SYSTEMS.items()]


def test_the_api_has_every_system():
    listed = re.findall(r"^\.\. auto\w+:: (\w+)$", (DOCS / "api" / "encoders.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(encoders.__all__)
