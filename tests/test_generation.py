"""Photographs of every kind are read as RGB; features of generated pictures are those of the pictures, in order."""

import gc
import io
import struct
import weakref
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image
from support.pipelines import tiny_pipeline

from pose2id import centralize
from pose2id import images as generation
from pose2id.images import read_image
from pose2id.ipg import generate_features, representative_poses

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 8, 4, 3), dtype=np.uint8)
PEOPLE = [Image.fromarray(pixels) for pixels in COLOURS]
POSES = [Image.new("RGB", (4, 8), colour) for colour in ("red", "green", "blue")]


class FakePipe:
    """Draws the reference, shifted by the pose's place and by the keys; notes its calls and the pictures it made."""

    def __init__(self):
        self.calls = []
        self.made = []

    def __call__(self, references, poses, **options):
        self.calls.append({"references": list(references), "poses": poses, **options})
        keys = options["pose_keys"] or range(len(poses or range(8)))
        rows = [
            [self.draw(person, key, pose) for pose in keys]
            for person, key in zip(references, options["reference_keys"], strict=True)
        ]
        self.made += [weakref.ref(picture) for row in rows for picture in row]
        return SimpleNamespace(images=rows)

    def draw(self, person, key, pose):
        shift = 10 * pose + (key if isinstance(key, int) else len(key) * 3)
        return Image.fromarray(np.asarray(person) // 2 + np.uint8(shift))


def encoder(pictures):
    """The four columns' mean colour, (n, 12): not the same for the mirrored picture."""
    assert isinstance(pictures, list)
    return np.stack([np.asarray(picture, dtype=np.float32).mean(axis=0).ravel() for picture in pictures])


def expected(keys, poses=range(3), mirrored=False):
    """The same by a loop over arrays."""
    rows = []
    for pixels, key in zip(COLOURS, keys, strict=False):
        shift = key if isinstance(key, int) else len(key) * 3
        pictures = [pixels // 2 + np.uint8(10 * pose + shift) for pose in poses]
        rows.append([(p[:, ::-1] if mirrored else p).astype(np.float32).mean(axis=0).ravel() for p in pictures])
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 100])
def test_features_in_order_whatever_the_batch(batch_size):
    pipe = FakePipe()
    features = generate_features(pipe, encoder, PEOPLE, POSES, batch_size=batch_size)
    np.testing.assert_array_equal(features, expected(range(12)))
    assert (type(features), features.dtype, features.shape) == (np.ndarray, np.float32, (12, 3, 12))
    most = max(1, batch_size // 3)
    assert [len(call["references"]) for call in pipe.calls] == [min(most, 12 - i) for i in range(0, 12, most)]


def test_options_reach_the_pipeline():
    pipe = FakePipe()
    options = {"height": 16, "width": 24, "num_inference_steps": 3, "guidance_scale": 2.0, "seed": 7}
    generate_features(pipe, encoder, PEOPLE[:3], POSES, batch_size=6, pose_keys=[4, 5, 6], **options)
    assert [call["reference_keys"] for call in pipe.calls] == [[0, 1], [2]]
    for call in pipe.calls:
        assert {name: call[name] for name in options} == options
        assert (call["batch_size"], call["output_type"], call["pose_keys"]) == (6, "pil", [4, 5, 6])
        assert call["poses"] == POSES


def test_keys():
    names = ["a", "bc", "def"]
    features = generate_features(
        FakePipe(), encoder, PEOPLE[:3], POSES, reference_keys=iter(names), pose_keys=[2, 0, 5]
    )
    np.testing.assert_array_equal(features, expected(names, poses=[2, 0, 5]))


def test_no_poses_are_the_eight():
    features = generate_features(FakePipe(), encoder, PEOPLE[:2])
    np.testing.assert_array_equal(features, expected(range(2), poses=range(8)))


def test_flip_adds_the_mirrored_picture():
    features = generate_features(FakePipe(), encoder, PEOPLE, POSES, flip=True)
    np.testing.assert_array_equal(features, expected(range(12)) + expected(range(12), mirrored=True))
    assert not np.array_equal(expected(range(12)), expected(range(12), mirrored=True))


def test_references_are_taken_as_needed_and_pictures_let_go():
    taken, pipe = [], FakePipe()

    def people():
        for i, person in enumerate(PEOPLE):
            taken.append(i)
            yield person

    def encode(pictures):
        assert len(taken) == 2 * len(pipe.calls)
        gc.collect()
        assert sum(made() is not None for made in pipe.made) == 6  # those of this call alone
        return encoder(pictures)

    np.testing.assert_array_equal(generate_features(pipe, encode, people(), POSES), expected(range(12)))


def test_pictures_are_handed_out_on_request():
    seen = []
    generate_features(
        FakePipe(), encoder, PEOPLE[:3], POSES, reference_keys=list("abc"), on_images=lambda *given: seen.append(given)
    )
    assert [key for key, _ in seen] == ["a", "b", "c"]
    for (_, pictures), pixels in zip(seen, COLOURS, strict=False):
        for pose, picture in enumerate(pictures):
            np.testing.assert_array_equal(np.asarray(picture), pixels // 2 + 10 * pose + 3)


def test_paths_and_single_references(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, person in zip(paths, PEOPLE, strict=False):
        person.save(path)
    np.testing.assert_array_equal(generate_features(FakePipe(), encoder, paths, POSES), expected(range(3)))
    for single in (PEOPLE[0], paths[0], str(paths[0])):
        np.testing.assert_array_equal(generate_features(FakePipe(), encoder, single, POSES), expected(range(1)))


def test_images_of_other_modes_reach_the_pipeline_as_rgb():
    pipe = FakePipe()
    generate_features(pipe, encoder, [PEOPLE[0].convert(mode) for mode in ("L", "P", "RGBA")], POSES)
    assert {image.mode for call in pipe.calls for image in call["references"]} == {"RGB"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_stay_tensors_without_a_gradient(dtype):
    weight = torch.ones(12, requires_grad=True)

    def encode(pictures):
        assert not torch.is_grad_enabled()
        return torch.from_numpy(encoder(pictures)).to(dtype) * weight.detach().to(dtype)

    features = generate_features(FakePipe(), encode, PEOPLE, POSES)
    assert (features.dtype, features.requires_grad) == (dtype, False)
    assert torch.equal(features, torch.from_numpy(expected(range(12))).to(dtype))


def outputs(*given):
    """An encoder that gives these in turn."""
    waiting = list(given)
    return lambda _: waiting.pop(0)


@pytest.mark.parametrize(
    ("encode", "error", "words"),
    [
        (outputs([[1.0]] * 3), TypeError, "must give a numpy array or a torch tensor, received list"),
        (outputs(np.ones((3, 2), int)), TypeError, "must give floats, received dtype int64"),
        (outputs(torch.ones(3, 2, dtype=torch.int32)), TypeError, r"must give floats, received dtype torch\.int32"),
        (outputs(np.ones((3, 2), complex)), TypeError, "must give floats, received dtype complex128"),
        (outputs(np.ones((2, 2))), ValueError, r"must give shape \(3, D\) for 3 pictures, received \(2, 2\)"),
        (outputs(np.ones(3)), ValueError, r"must give shape \(3, D\) for 3 pictures, received \(3,\)"),
        (outputs(np.ones((3, 0))), ValueError, r"must give shape \(3, D\) for 3 pictures, received \(3, 0\)"),
        (outputs(torch.ones(3, 2, 1)), ValueError, r"received \(3, 2, 1\)"),
        (outputs(np.full((3, 2), np.nan)), ValueError, "must give finite features, received NaN or inf"),
        (outputs(torch.full((3, 2), torch.inf)), ValueError, "must give finite features, received NaN or inf"),
        (outputs(np.ones((3, 2)), np.ones((3, 3))), ValueError, "one kind of features; received .*D = 3 after .*D = 2"),
        (outputs(np.ones((3, 2)), np.ones((3, 2), "f4")), ValueError, "received ndarray of float32.*of float64"),
        (outputs(np.ones((3, 2)), torch.ones(3, 2)), ValueError, "received Tensor of torch.float32.*after ndarray"),
    ],
)
def test_an_encoder_that_does_not_fit(encode, error, words):
    with pytest.raises(error, match=words):
        generate_features(FakePipe(), encode, PEOPLE, POSES, batch_size=3)


@pytest.mark.parametrize(
    ("people", "options", "error", "words"),
    [
        ([], {}, ValueError, "references must hold at least one image, received none"),
        (iter([]), {}, ValueError, "references must hold at least one image, received none"),
        (PEOPLE, {"poses": []}, ValueError, "poses must hold at least one, received none"),
        (PEOPLE, {"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, received 0"),
        (PEOPLE, {"reference_keys": ["a", "b"]}, ValueError, "must have 12 keys, one for each reference; received 2"),
        (
            iter(PEOPLE),
            {"reference_keys": ["a", "b"]},
            ValueError,
            "reference_keys must have one key for each reference",
        ),
        (PEOPLE, {"reference_keys": iter("ab")}, ValueError, "reference_keys must have one key for each reference"),
        ([PEOPLE[0], 3], {}, TypeError, "key 1 must be a PIL image or a path, received int"),
        (["nosuch.png"], {}, FileNotFoundError, r"nosuch\.png is not a file"),
    ],
)
def test_bad_input(people, options, error, words):
    with pytest.raises(error, match=words):
        generate_features(FakePipe(), encoder, people, **{"poses": POSES, **options})


def test_an_error_of_the_callers_generator_is_kept():
    def people():
        yield PEOPLE[0]
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        generate_features(FakePipe(), encoder, people(), POSES, batch_size=3)


def test_a_pipe_that_gives_too_few_pictures():
    def pipe(references, *_, **options):
        assert options["seed"] == 42
        return SimpleNamespace(images=[references[:1] for _ in references])

    with pytest.raises(ValueError, match=r"pipe must give 3 pictures for each reference, received \[1, 1\]"):
        generate_features(pipe, encoder, PEOPLE, POSES)


# Reading.


def saved(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return path


PIXELS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
GREY = PIXELS[:, :, 0]


def read(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_colour(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(PIXELS), suffix, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read(path), PIXELS)


def test_the_suffix_does_not_matter(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS)).rename(tmp_path / "image.jpg")
    np.testing.assert_array_equal(read(path), PIXELS)


def test_grey(tmp_path):
    np.testing.assert_array_equal(read(saved(tmp_path, Image.fromarray(GREY))), np.dstack([GREY] * 3))


def test_black_and_white(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(read(path), np.dstack([np.where(GREY > 100, 255, 0)] * 3))


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_palette(tmp_path, suffix):
    few = PIXELS // 128 * 255
    path = saved(tmp_path, Image.fromarray(few).quantize(8), suffix)
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read(path), few)


def test_transparency_becomes_white(tmp_path):
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    wanted = np.where(alpha[..., None] == 255, PIXELS, 255)
    np.testing.assert_array_equal(read(saved(tmp_path, Image.fromarray(np.dstack([PIXELS, alpha])))), wanted)
    path = saved(tmp_path, Image.fromarray(np.dstack([GREY, alpha]), "LA"))
    np.testing.assert_array_equal(read(path), np.dstack([np.where(alpha == 255, GREY, 255)] * 3))
    half = Image.new("RGBA", (1, 1), (255, 0, 51, 51))
    assert read(saved(tmp_path, half)).tolist() == [[[255, 204, 214]]]


def test_a_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=0)
    assert read(path).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize(
    ("largest", "full"),
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (3000, 4095), (9000, 16383), (65535, 65535)],
)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_infrared_of_more_than_eight_bits(tmp_path, suffix, largest, full):
    values = np.linspace(0, largest, 24).astype(np.uint16).reshape(6, 4)
    wanted = [[round(int(v) * 255 / full) for v in row] for row in values]
    assert values.max() == largest
    path = tmp_path / f"wide{suffix}"
    if suffix == ".pgm":  # older Pillow reads them but cannot write them
        path.write_bytes(b"P5\n4 6\n65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read(path), np.dstack([wanted] * 3))


def test_infrared_in_floats(tmp_path):
    fractions = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_allclose(
        read(saved(tmp_path, Image.fromarray(fractions), ".tif"))[..., 1], fractions * 255, atol=0.5
    )
    counts = fractions * 4095
    np.testing.assert_allclose(
        read(saved(tmp_path, Image.fromarray(counts), ".tif"))[..., 1], fractions * 255, atol=0.51
    )
    for bad in (np.nan, -1):
        with pytest.raises(ValueError, match=r"image\.tif: .*negative, NaN or inf"):
            read_image(saved(tmp_path, Image.fromarray(np.full((2, 2), bad, np.float32)), ".tif"))


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert read(saved(tmp_path, image, ".tif"))[0, 0].tolist() == [255, 0, 0]
    assert np.abs(read(saved(tmp_path, image, ".jpg"))[0, 0].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_upright(tmp_path, orientation):
    turns = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}  # mirror, quarter turns
    mirror, quarters = turns.get(orientation, (0, 0))
    wanted = np.rot90(PIXELS[:, ::-1] if mirror else PIXELS, quarters)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read(saved(tmp_path, Image.fromarray(PIXELS), exif=exif)), wanted)


def test_turning_works_for_deep_grey(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2800
    path = saved(tmp_path, Image.fromarray(values), exif=exif)
    wanted = np.rot90(np.round(values * (255 / 65535)), 3)
    np.testing.assert_array_equal(read(path)[..., 0], wanted)


def test_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert read(path)[0, 0].tolist() == [255, 0, 0]


def content(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


LARGE = content(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"bad\.png: the file is empty"),
        (b"hello", r"bad\.png: not an image, or of a kind that is not read"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            r"bad\.png: not an image, or of a kind that is not read",
        ),
        (LARGE[: len(LARGE) // 2], r"bad\.png: it cannot be decoded: .*truncated"),
        (LARGE[:40], r"bad\.png: "),
        (LARGE[:200] + bytes(100) + LARGE[300:], r"bad\.png: it cannot be decoded: "),
    ],
)
def test_damaged_files(tmp_path, data, words):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_image(path)


def test_a_truncated_jpeg(tmp_path):
    path = tmp_path / "bad.jpg"
    data = content(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"bad\.jpg: it cannot be decoded: .*truncated"):
        read_image(path)


@pytest.mark.parametrize("size", [(9460, 9460), (40000, 40000)])  # Pillow warns of the first and refuses the second
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, size, monkeypatch):
    path = saved(tmp_path, Image.new("1", (1, 1)))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", *size)  # what the header says
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    Image.init()  # some of Pillow's own modules load a picture when they are imported
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=r"image\.png: (9460 x 9460 pixels are too many, at most 89,478,485|.*exceeds limit)"
    ):
        read_image(path)


def test_too_many_bytes(tmp_path, monkeypatch):
    path = saved(tmp_path, PEOPLE[0])
    size = path.stat().st_size
    monkeypatch.setattr(generation, "MAX_BYTES", size)
    read_image(path)
    monkeypatch.setattr(generation, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=rf"the file has {size} bytes, at most {size - 1} are read"):
        read_image(path)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_image(tmp_path)


# The pipeline itself.


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("released"))


def test_the_whole_way(pipe):
    def reid(pictures):
        return encoder([picture.resize((4, 8)) for picture in pictures])

    size = {"height": 64, "width": 32, "num_inference_steps": 2}
    people = [Image.fromarray(RNG.integers(0, 256, (128, 64, 3), dtype=np.uint8)) for _ in range(3)]
    poses = representative_poses()[:3]
    generated = generate_features(pipe, reid, people, poses, batch_size=6, **size)
    wanted = np.array([reid(row) for row in pipe(people, poses, batch_size=9, **size).images])
    np.testing.assert_allclose(generated, wanted, atol=1)  # pictures are rounded to whole numbers of 255
    assert np.abs(generated[0] - generated[1]).max() > 2
    features = centralize(reid(people), generated, eta=2, k1=0)
    fused = reid(people) + 2 * generated.mean(axis=1)
    np.testing.assert_allclose(features, fused / np.linalg.norm(fused, axis=1, keepdims=True), rtol=1e-5)


def test_one_pose_and_poses_that_are_used_up(pipe):
    size = {"height": 64, "width": 32, "num_inference_steps": 1}
    person, poses = Image.new("RGB", (8, 16), "red"), representative_poses()[:2]

    def reid(pictures):
        return np.stack([np.asarray(picture).mean((0, 1)) for picture in pictures])

    both = generate_features(pipe, reid, person, poses, **size)
    np.testing.assert_array_equal(generate_features(pipe, reid, person, iter(poses), **size), both)
    assert generate_features(pipe, reid, person, poses[0], **size).shape == (1, 1, 3)


def test_one_bar_or_none_and_the_pipelines_own_as_it_was(pipe, capfd):
    """The pipeline's own bar, which is on here, would come once for each of its calls."""
    size = {"height": 64, "width": 32, "num_inference_steps": 1, "batch_size": 2}
    people, poses = [Image.new("RGB", (8, 16), "red")] * 3, representative_poses()[:2]
    told = []

    def reid(pictures):
        return np.stack([np.asarray(picture).mean((0, 1)) for picture in pictures])

    def call(*arguments, **options):  # not a pipeline itself
        return pipe(*arguments, **options)

    before = pipe._progress_bar_config
    try:
        for setting in ({"disable": False}, {}):
            pipe.set_progress_bar_config(**setting)
            for caller in (pipe, call):
                generate_features(caller, reid, people, poses, **size)
                assert capfd.readouterr() == ("", "")
                generate_features(caller, reid, people, poses, progress=True, **size)
                told.append(capfd.readouterr().err)
                assert pipe._progress_bar_config == setting
            pipe(people[:1], poses[:1], height=64, width=32, num_inference_steps=1)
            assert "1/1" in capfd.readouterr().err
    finally:
        pipe.set_progress_bar_config(**before)
    for text in told:
        assert {line.split(":")[0] for line in text.replace("\r", "\n").split("\n") if line.strip()} == {"generating"}
        assert "3/3" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"references": None}, "references must be an image, a path, or an iterable of these, received NoneType"),
        ({"references": {"a": 1}}, "received dict"),
        ({"pipe": 1}, "pipe must be callable, received int"),
        ({"encoder": None}, "encoder must be callable, received NoneType"),
        ({"on_images": 1}, "on_images must be callable, received int"),
        ({"reference_keys": "ab"}, "reference_keys must be one key for each reference, received one string"),
    ],
)
def test_wrong_kinds_are_told_before_anything_is_drawn(change, words):
    options = {"pipe": pytest.fail, "encoder": pytest.fail, "references": [], **change}
    with pytest.raises(TypeError, match=words):
        generate_features(**options)
