"""Encoders as folders: what comes back, and what is refused."""

import copy
import inspect
import json
import pickle

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file

from pose2id.encoders import SYSTEMS, Encoded, Encoder, Global, Trunk, load_encoder, make_encoder, save_encoder
from pose2id.encoders import systems as rooms


class Sized(Encoder):
    """A system with sizes of its own."""

    def __init__(self, classes, trunk, *, groups=((1, 2), (3,)), width=4):
        super().__init__(classes, trunk)
        self.groups, self.reduce = groups, torch.nn.Conv2d(trunk.channels, width, 1)

    def forward(self, images, *_):
        return Encoded(features=self.reduce(self.trunk(images)).mean((2, 3)))


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setitem(rooms.SYSTEMS, "sized", Sized)
    encoder = make_encoder("sized", 3, channels=(8, 8, 16), sizes={"width": 5, "groups": ((1,), (2, 3))}).eval()
    encoder.image_size, encoder.part_names = (32, 16), ("left arm", "right arm")
    return encoder, save_encoder(encoder, tmp_path / "encoder")


def test_an_encoder_comes_back(made):
    encoder, folder = made
    state = torch.random.get_rng_state()
    read = load_encoder(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(read) is Sized
    assert (read.classes, read.image_size, read.part_names) == (3, (32, 16), ("left arm", "right arm"))
    assert read.sizes == {"width": 5, "groups": [[1], [2, 3]]}
    assert read.trunk.widths == (8, 8, 16)
    assert not read.training
    assert not any(value.requires_grad for value in read.parameters())
    pictures = torch.rand(2, 3, 32, 16)
    with torch.no_grad():
        assert torch.equal(read(pictures).features, encoder(pictures).features)
    assert {path.name for path in folder.iterdir()} == {"encoder.json", "encoder.safetensors"}


def test_a_copy_has_the_sizes_too(made):
    assert copy.deepcopy(made[0]).sizes == made[0].sizes == pickle.loads(pickle.dumps(made[0])).sizes
    assert Sized(2, Trunk((8, 8, 8)), width=6).sizes == {"width": 6}  # those given; the others are the class's own


def test_a_folder_that_is_there_stays(made):
    encoder, folder = made
    before = (folder / "encoder.json").read_bytes()
    with pytest.raises(ValueError, match="encoder exists already"):
        save_encoder(encoder, folder)
    save_encoder(encoder, folder, overwrite=True)
    assert (folder / "encoder.json").read_bytes() == before


def describe(**changes):
    def change(folder):
        held = json.loads((folder / "encoder.json").read_text())
        for name, value in changes.items():
            held.pop(name) if value is None else held.update({name: value})
        (folder / "encoder.json").write_text(json.dumps(held))

    return change


def cut(folder):
    content = (folder / "encoder.safetensors").read_bytes()
    (folder / "encoder.safetensors").write_bytes(content[: len(content) // 2])


def swap(folder):
    tensors = load_file(folder / "encoder.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, folder / "encoder.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (describe(system="pbc"), r"encoder\.json describes no encoder of this version: system must be one of global.*"),
        (describe(system="sizd"), "received 'sizd'; did you mean 'sized'"),
        (describe(system=["global"]), "system must be one of"),
        (describe(format=None), "is not of an encoder of this package"),
        (describe(version=2), "is of version 2 of its format, this package reads 1"),
        (describe(sizes=None), "'sizes' is missing"),
        (describe(sizes=[1]), "sizes must be an object"),
        (describe(sizes={"with": 5}), "sizes of sized do not fit: .*unexpected keyword argument 'with'"),
        (describe(classes=-3), "classes must be"),
        (describe(classes=True), "classes must be"),
        (describe(channels=[8, 8]), "channels must be three integers"),
        (describe(channels="abc"), "channels must be three integers"),
        (describe(channels=[8, 8, 10**9]), "each of channels must be"),
        (describe(image_size=[8]), "image_size must be height and width"),
        (describe(image_size=[8, -1]), "each side of image_size must be"),
        (describe(part_names=[1]), "part_names must be texts"),
        (describe(classes=4, sizes={"width": 6}), r"encoder\.safetensors is damaged: .*size mismatch"),
        (lambda folder: (folder / "encoder.json").write_text("{"), r"encoder\.json cannot be read as JSON"),
        (lambda folder: (folder / "encoder.json").write_text("[]"), "is not of an encoder of this package"),
        (lambda folder: (folder / "encoder.json").unlink(), r"has no encoder\.json; name a folder that a training"),
        (lambda folder: (folder / "encoder.safetensors").unlink(), r"is damaged: it has no encoder\.safetensors"),
        (lambda folder: (folder / "encoder.safetensors").write_bytes(b""), r"encoder\.safetensors is damaged"),
        (cut, r"encoder\.safetensors is damaged: .*; fetch or train it anew"),
        (swap, r"encoder\.safetensors is damaged: it is another one than encoder\.json says"),
        (lambda folder: torch.save({}, folder / "encoder.safetensors"), r"encoder\.safetensors is damaged"),
    ],
)
def test_what_is_no_encoder_is_refused(made, spoil, words):
    _, folder = made
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


BAD = {
    int: (0, -1, 1.5, "6", True, None, [4], 5000),
    tuple: (3, "ab", None, [], [0], [4, 2.5], [True, 2], {"a": 1}, ["a"], [4, 5000]),
    float: (-1, "6", True, None, [1.0]),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_size_is_checked_by_its_name(system):
    """Of systems that torch would answer in words of its own, with any kind of error, or not at all."""
    options = [
        each
        for each in inspect.signature(SYSTEMS[system].__init__).parameters.values()
        if each.kind == each.KEYWORD_ONLY
    ]
    needed = {"attributes": [2, 3]} if system == "apr" else {}
    for option in options:
        kind = tuple if option.default is inspect.Parameter.empty else type(option.default)
        for value in BAD[kind]:
            with pytest.raises((TypeError, ValueError), match=rf"{option.name} must be .*received"):
                make_encoder(system, 3, channels=(8, 8, 16), sizes={**needed, option.name: value})
    for name in ("bins", "size"):
        if name in {each.name for each in options if isinstance(each.default, tuple)}:
            with pytest.raises(TypeError, match=f"{name} must be a list of 2 integers"):
                make_encoder(system, 3, sizes={name: [14, 14, 14]})


def test_squares_that_do_not_fit():
    encoder = make_encoder("dsr", 3, channels=(8, 8, 16)).eval()
    maps = encoder(torch.zeros(1, 3, 32, 16)).maps
    with pytest.raises(
        ValueError, match=r"squares must fit into maps of \(8, 4\), .* received \(2, 4, 6\); pass smaller"
    ):
        encoder.compare(maps, maps)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file is a file, not a folder"):
        load_encoder(tmp_path / "file")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"must be of one of the systems global.*, it is a Sized"):
        save_encoder(Sized(2, Trunk((8, 8, 8))), tmp_path / "a")
    with pytest.raises(TypeError, match="sizes of global must be such as JSON can hold"):
        make_encoder("global", 2, sizes={"a": {1, 2}})
    assert not (tmp_path / "a").exists()
    assert SYSTEMS["global"] is Global
