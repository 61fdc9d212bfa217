"""DWPose on crops: what the network is given, what is read out of its answer, and where its file comes from."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.golden import GOLDEN

from pose2id import MissingExtraError, cli
from pose2id.onnx import read_input
from pose2id.parts import part_boxes
from pose2id.poses import KEYPOINTS, Pose, read_keypoints, read_poses, write_keypoints
from pose2id.poses import keypoints as module
from pose2id.poses.keypoints import download_model, extract_poses, load_session

AT = {name: row for row, name in enumerate(KEYPOINTS)}
COCO = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"] + [
    f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
]


class Session:
    """A network with one peak per keypoint and axis, at given places of its output; remembers what it was given.

    `places` (N, 133, 2) for the images in their order, `scores` (N, 133, 2) the heights of the peaks.
    """

    def __init__(self, places, scores=None, shape=("batch", 3, 384, 288)):
        self.places = np.asarray(places)
        self.scores = np.ones(self.places.shape) if scores is None else np.asarray(scores)
        self.shape = list(shape)
        self.seen = []

    def get_inputs(self):
        return [SimpleNamespace(name="crops", shape=self.shape)]

    def run(self, output_names, feed):
        assert output_names is None
        (batch,) = feed.values()
        assert list(feed) == ["crops"]
        assert batch.dtype == np.float32
        first = sum(map(len, self.seen))
        self.seen.append(batch.copy())
        outputs = [np.full((len(batch), 133, size), -0.5, np.float32) for size in (576, 768)]
        for n in range(min(len(batch), len(self.places) - first)):
            for axis, output in enumerate(outputs):
                output[n, np.arange(133), self.places[first + n, :, axis]] = self.scores[first + n, :, axis]
        return outputs


def random_places(n, seed=0):
    return np.random.default_rng(seed).integers(0, (576, 768), (n, 133, 2))


def blank(width, height):
    return np.zeros((height, width, 3), np.uint8)


def in_picture(place, width, height):
    """Where a place of the output lies in the picture, as DWPose's `postprocess` has it: fractions."""
    box = np.array([width, height]) * 1.25
    box = np.array([box[0], box[0] / 0.75]) if box[0] > box[1] * 0.75 else np.array([box[1] * 0.75, box[1]])
    centre = np.array([width, height]) / 2
    return (place / 2 / (288, 384) * box + centre - box / 2) / (width, height)


# what is read out


@pytest.mark.parametrize(("width", "height"), [(64, 128), (128, 64), (288, 384), (100, 300), (301, 200)])
def test_peaks_become_fractions_of_the_crop(width, height):
    places = random_places(1)
    (pose,) = extract_poses([blank(width, height)], Session(places))
    assert pose.name == ""
    for row, name in enumerate(COCO):
        expected = in_picture(places[0, row], width, height)
        if np.abs(expected - 0.5).max() <= 2:
            np.testing.assert_allclose(pose.keypoints[AT[name]], expected, rtol=0, atol=1e-12)
    shoulders = [pose.keypoints[AT[f"{side}_shoulder"]] for side in ("left", "right")]
    np.testing.assert_allclose(pose.keypoints[AT["neck"]], np.mean(shoulders, axis=0), atol=1e-12)


def test_the_corners_of_the_crop():
    # a crop of 288 x 384 is seen at 1 / 1.25: 230.4 x 307.2 pixels in the middle
    places = np.zeros((1, 133, 2), int)
    places[0, COCO.index("nose")] = 2 * 144, 2 * 192
    places[0, COCO.index("left_ear")] = round(2 * (144 - 115.2)), round(2 * (192 - 153.6))
    places[0, COCO.index("right_ear")] = round(2 * (144 + 115.2)), round(2 * (192 + 153.6))
    (pose,) = extract_poses([blank(288, 384)], Session(places))
    np.testing.assert_allclose(pose.keypoints[AT["nose"]], (0.5, 0.5))
    np.testing.assert_allclose(pose.keypoints[AT["left_ear"]], (0, 0), atol=2e-3)
    np.testing.assert_allclose(pose.keypoints[AT["right_ear"]], (1, 1), atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lost", ["left_shoulder", "right_shoulder", "right_knee"])
def test_the_lower_peak_is_the_score(axis, lost):
    scores = np.full((1, 133, 2), 0.9)
    scores[0, COCO.index(lost), axis] = 0.29
    places = np.full((1, 133, 2), 300)
    (pose,) = extract_poses([blank(64, 128)], Session(places, scores))
    assert {KEYPOINTS[i] for i in np.flatnonzero(~pose.present)} == {lost, *["neck"] * ("shoulder" in lost)}
    (pose,) = extract_poses([blank(64, 128)], Session(places, scores), threshold=0.28)
    assert pose.present.all()
    (pose,) = extract_poses([blank(64, 128)], Session(places, scores), threshold=0.95)
    assert not pose.present.any()


def test_a_score_at_the_threshold_is_not_above_it():
    scores = np.full((1, 133, 2), 0.5)
    (pose,) = extract_poses([blank(64, 128)], Session(np.full((1, 133, 2), 300), scores), threshold=0.5)
    assert not pose.present.any()


def test_only_the_body_is_read():
    places = np.full((1, 133, 2), 300)
    scores = np.ones((1, 133, 2))
    scores[0, 17:] = 0  # feet, face, hands
    (pose,) = extract_poses([blank(64, 128)], Session(places, scores))
    assert pose.present.all()


def test_far_beside_a_narrow_crop_is_missing():
    # 5 pixels wide in a frame of 120: 24 crops
    places = np.full((1, 133, 2), 288)
    places[0, COCO.index("nose")] = 0, 384
    (pose,) = extract_poses([blank(5, 128)], Session(places))
    assert {KEYPOINTS[i] for i in np.flatnonzero(~pose.present)} == {"nose"}


# what goes in


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "poses" / "dwpose_input.npz") as file:
        return dict(file)


def given_to_the_network(image):
    session = Session(np.full((1, 133, 2), 300))
    extract_poses([image], session)
    (batch,) = session.seen
    assert batch.shape == (1, 3, 384, 288)
    return (
        batch[0] * np.array((58.395, 57.12, 57.375))[:, None, None] + np.array((123.675, 116.28, 103.53))[:, None, None]
    )


@pytest.mark.parametrize("number", [0, 1])
def test_the_input_is_that_of_dwpose(golden, number):
    pixels = given_to_the_network(golden[f"image_{number}"])[:, ::8, ::8].transpose(1, 2, 0)
    apart = np.abs(pixels - golden[f"pixels_{number}"])
    assert apart.max() <= 1.001  # rounded to whole levels, from sums that differ in the last bit
    assert apart.mean() < 0.02
    assert np.abs(pixels[:, ::-1] - golden[f"pixels_{number}"]).mean() > 5


def test_between_pixels_the_input_is_linear():
    height, width = 128, 64
    y, x = np.mgrid[:height, :width]
    image = np.stack([3 * x, y, 2 * x + y // 2], axis=2).astype(np.uint8)
    pixels = given_to_the_network(image)
    frame = 128 * 1.25 / 384  # pixels of the picture for one of the input
    ys, xs = np.arange(384) * frame - 16, np.arange(288) * frame - 28
    inside = np.ix_((ys >= 0) & (ys <= height - 1), (xs >= 0) & (xs <= width - 1))
    for channel, wanted in enumerate((3 * xs[None] + 0 * ys[:, None], 0 * xs[None] + ys[:, None])):
        assert np.abs(pixels[channel] - wanted)[inside].max() <= 0.5 + 1e-4  # rounded as OpenCV's whole levels
    outside = np.ones((384, 288), bool)
    outside[np.ix_((ys > -1) & (ys < height), (xs > -1) & (xs < width))] = False
    assert outside.sum() > 384 * 288 / 3
    np.testing.assert_allclose(pixels[:, outside], 0, atol=1e-4)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_pictures_of_8_bits_are_taken(mode):
    images = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(2).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    image = images.fromarray(pixels).convert(mode)
    np.testing.assert_array_equal(given_to_the_network(image), given_to_the_network(np.asarray(image.convert("RGB"))))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_pictures_of_more_bits_are_refused(mode):
    images = pytest.importorskip("PIL.Image")
    with pytest.raises(ValueError, match=f"image 1 must have 8 bits per channel, received mode {mode}; scale it first"):
        extract_poses([blank(3, 5), images.new(mode, (20, 40))], Session(random_places(2)))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("person.jpg", TypeError, "image 0 must be a PIL image or an array, received str"),
        (blank(4, 4).astype(np.float32), ValueError, r"uint8 of shape \(H, W, 3\), received float32 of \(4, 4, 3\)"),
        (blank(4, 4)[..., 0], ValueError, r"received uint8 of \(4, 4\)"),
        (blank(4, 4).transpose(2, 0, 1), ValueError, r"received uint8 of \(3, 4, 4\)"),
        (blank(0, 4), ValueError, r"received uint8 of \(4, 0, 3\)"),
    ],
)
def test_bad_pictures(image, error, message):
    with pytest.raises(error, match=message):
        extract_poses([image], Session(random_places(1)))


# batches


def sample(n):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (rng.integers(20, 80), rng.integers(20, 80), 3), dtype=np.uint8) for _ in range(n)]


@pytest.mark.parametrize(
    ("batch_size", "shape", "sizes"),
    [
        (2, ("N", 3, 384, 288), [2, 2, 1]),
        (5, (None, 3, 384, 288), [5]),
        (8, (-1, 3, None, "w"), [5]),
        (2, (4, 3, 384, 288), [4, 4]),
        (2, (1, 3, 384, 288), [1] * 5),
    ],
)
def test_batches_change_nothing(batch_size, shape, sizes):
    images, places = sample(5), random_places(5)
    expected = [extract_poses([image], Session(places[n : n + 1]))[0] for n, image in enumerate(images)]
    session = Session(places, shape=shape)
    poses = extract_poses(iter(images), session, batch_size=batch_size, names="abcde")
    assert [len(batch) for batch in session.seen] == sizes
    assert [pose.name for pose in poses] == list("abcde")
    for pose, alone in zip(poses, expected, strict=True):
        np.testing.assert_array_equal(pose.keypoints, alone.keypoints)
    assert not np.concatenate(session.seen)[5:].any()


def test_pictures_are_read_a_batch_at_a_time():
    session, ahead = Session(random_places(7)), []

    def images():
        for number, image in enumerate(sample(7)):
            ahead.append(number - sum(map(len, session.seen)))
            yield image

    assert len(extract_poses(images(), session, batch_size=3)) == 7
    assert max(ahead) == 2


def test_no_pictures():
    session = Session(random_places(0))
    assert extract_poses([], session) == []
    assert session.seen == []


@pytest.mark.parametrize(
    ("names", "message"), [(["a"], "received only 1"), (["a", "b", "c"], "more than the 2 images")]
)
def test_there_are_as_many_names_as_pictures(names, message):
    with pytest.raises(ValueError, match=f"names must be as many as images, {message}|names .* received {message}"):
        extract_poses(sample(2), Session(random_places(2)), names=names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threshold": -1}, ValueError, "threshold must be a finite number >= 0"),
        ({"threshold": "0.3"}, TypeError, "threshold"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        extract_poses(sample(1), Session(random_places(1)), **options)


@pytest.mark.parametrize("shape", [(1, 3, 256, 192), (1, 384, 288, 3), (3, 384, 288), (1, 1, 384, 288)])
def test_a_network_of_another_form_is_refused(shape):
    with pytest.raises(ValueError, match=r"session must take images of shape \(batch, 3, 384, 288\), it takes \["):
        extract_poses(sample(1), Session(random_places(1), shape=shape))


@pytest.mark.parametrize("outputs", [lambda x, y: [y, x], lambda x, _: [x], lambda x, y: [x[:, :17], y[:, :17]]])
def test_another_answer_is_refused(outputs):
    session = Session(random_places(1))
    whole = session.run
    session.run = lambda names, feed: outputs(*whole(names, feed))
    with pytest.raises(
        ValueError, match=r"session must give arrays of shapes \[\(1, 133, 576\), \(1, 133, 768\)\], it gave"
    ):
        extract_poses(sample(1), session)


# the model's file


def test_importing_needs_numpy_only():
    program = (
        "import sys; import pose2id.poses.keypoints; "
        "print(sorted({'torch', 'PIL', 'diffusers', 'onnxruntime', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Without:
    """A finder that answers as if a package were not there."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, *_):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("package", "extra", "act"),
    [("onnxruntime", "poses", load_session), ("huggingface_hub", "ipg", download_model)],
)
def test_without_a_package(monkeypatch, package, extra, act):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(package), *sys.meta_path])
    line = rf"^pose2id\.poses\.keypoints needs {package}, which is not installed: pip install 'pose2id\[{extra}\]'$"
    with pytest.raises(MissingExtraError, match=line):
        act()


@pytest.fixture
def hub(monkeypatch):
    """The Hub's client with a download that records its arguments; `hub.answer` is a path or an error."""
    client = pytest.importorskip("huggingface_hub")
    told = SimpleNamespace(answer=None, asked=[])

    def fetch(*arguments, **options):
        told.asked.append((arguments, options))
        if isinstance(told.answer, Exception):
            raise told.answer
        return str(told.answer)

    monkeypatch.setattr(client, "hf_hub_download", fetch)
    monkeypatch.setattr(client, "get_hf_file_metadata", lambda _: SimpleNamespace(size=None, etag=None))
    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", False)
    return told


def test_the_pinned_file_is_fetched_and_checked(hub, tmp_path, monkeypatch):
    hub.answer = tmp_path / "model.onnx"
    hub.answer.write_bytes(b"the model")
    monkeypatch.setattr(module, "SIZE", 9)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(b"the model").hexdigest())
    assert download_model() == hub.answer
    revision = "1a7144101628d69ee7a3768d1ee3a094070dc388"
    assert hub.asked == [(("yzd-v/DWPose", "dw-ll_ucoco_384.onnx"), {"revision": revision})]


def test_another_file_is_refused(hub, tmp_path, monkeypatch):
    hub.answer = tmp_path / "model.onnx"
    hub.answer.write_bytes(b"the model")
    with pytest.raises(ValueError, match=r"model\.onnx has 9 bytes, must have 134399116; delete .*model\.onnx"):
        download_model()
    monkeypatch.setattr(module, "SIZE", 9)
    found = hashlib.sha256(b"the model").hexdigest()
    with pytest.raises(ValueError, match=f"model.onnx has SHA-256 {found}, must have 724f4ff2.*; delete .*model.onnx"):
        load_session()


@pytest.mark.parametrize(
    "error", [FileNotFoundError("not in the cache"), ConnectionError("no\nroute"), RuntimeError("401")]
)
def test_what_cannot_be_fetched_is_named(hub, monkeypatch, error):
    from huggingface_hub import constants

    hub.answer = error
    expected = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
    with pytest.raises(expected) as caught:
        download_model()
    text = str(caught.value)
    assert text.startswith(
        "dw-ll_ucoco_384.onnx of yzd-v/DWPose (revision 1a7144101628d69ee7a3768d1ee3a094070dc388) is"
    )
    assert f"is not in {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} did not give it" in text
    assert f"did not give it: {' '.join(str(error).split())}. With a connection, " in text
    assert caught.value.__cause__ is error
    assert "pass load_session the path of a copy" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(expected, match="and HF_HUB_OFFLINE forbids to fetch it"):
        download_model()


def field(number, content):
    """A field of a protocol buffer message: an integer below 128, or bytes below 16384."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    length = len(content)
    return bytes([number << 3 | 2, length & 127 | 128, length >> 7]) + content


def identity_model():
    """An ONNX file by hand: crops (N, 3, 384, 288) in, the same out."""

    def value(name):
        sizes = [field(2, b"N"), field(1, 3), bytes([8, 384 & 127 | 128, 3]), bytes([8, 288 & 127 | 128, 2])]
        shape = b"".join(field(1, size) for size in sizes)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, b"crops") + field(2, b"same") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"crops")) + field(12, value(b"same"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_a_model_is_loaded_and_run(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(identity_model())
    for session in (load_session(path), load_session(str(path), providers=["CPUExecutionProvider"])):
        assert session.get_inputs()[0].shape == ["N", 3, 384, 288]
        assert read_input(session) == ("crops", [None, 3, 384, 288])
        with pytest.raises(ValueError, match=r"it gave \[\(2, 3, 384, 288\)\]"):
            extract_poses(sample(2), session)


def test_files_that_are_no_model(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model\.onnx cannot be loaded by onnxruntime: "):
        load_session(tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx is not a file"):
        load_session(tmp_path / "none.onnx")


def test_the_session_is_loaded_where_none_is_given(monkeypatch):
    session = Session(random_places(1))
    monkeypatch.setattr(module, "load_session", lambda: session)
    assert len(extract_poses(sample(1))) == 1
    assert len(session.seen) == 1


# the command


@pytest.fixture
def market(tmp_path, monkeypatch):
    """Photographs in Market-1501's layout, one of which is none, and a network that finds nobody on the last."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "market"
    names = [
        "bounding_box_train/0002_c1s1_000001_01.jpg",
        "bounding_box_train/0002_c2s1_000002_01.jpg",
        "bounding_box_train/0007_c1s1_000003_01.jpg",
        "query/0001_c1s1_000001_00.jpg",
    ]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (64, 128 + number)).save(root / name)
    (root / "bounding_box_test").mkdir()
    (root / "bounding_box_test" / "0001_c2s1_000001_00.jpg").write_bytes(b"no picture")
    scores = np.ones((4, 133, 2))
    scores[3] = 0
    session = Session(np.random.default_rng(0).integers(200, 400, (4, 133, 2)), scores)
    monkeypatch.setattr(module, "load_session", lambda path=None: session if path is None else pytest.fail(path))
    return root, names, session


def test_from_photographs_to_every_file_that_takes_keypoints(market, tmp_path, capsys):
    pytest.importorskip("diffusers")
    from pose2id.ipg.folders import collect_poses
    from pose2id.ipg.training import Settings
    from pose2id.programs.training import read_records

    root, names, session = market
    output = tmp_path / "keypoints.json"
    command = ["poses", str(root), "-o", str(output), "--batch-size", "3"]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    assert out == f"{output}: 4 photographs, 3 with keypoints\n"
    assert re.search(r"^pose2id poses: bounding_box_test/0001_c2s1_000001_00.jpg skipped: .*not an image", err)
    assert err.endswith("skipped 1 of 5 photographs:\n  bounding_box_test/0001_c2s1_000001_00.jpg\n")
    assert f"nobody was found on {names[3]}\n" in err
    assert [len(batch) for batch in session.seen] == [3, 1]

    fresh = Session(session.places, session.scores)
    expected = extract_poses([blank(64, 128 + number) for number in range(4)], fresh)
    found = read_keypoints(output)
    assert list(found) == names
    for pose, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(pose.keypoints, wanted.keypoints)
    assert json.loads(output.read_text())[names[3]] is None

    table = {"kind": "market1501", "root": str(root), "keypoints": str(output)}
    records = read_records(table, Settings(height=64, width=32))
    for record, wanted in zip(records, expected[:3], strict=True):
        np.testing.assert_array_equal(record.pose.keypoints, wanted.keypoints)
    poses = read_poses(output)
    assert [pose.name for pose in poses][::3] == ["bounding_box_train_0002_c1s1_000001_01", "query_0001_c1s1_000001_00"]
    boxes, seen = part_boxes(poses, (128, 64))
    assert seen.any(axis=1).tolist() == [True, True, True, False]
    np.testing.assert_array_equal(boxes, part_boxes(expected, (128, 64))[0])
    with pytest.raises(ValueError, match="'query_0001_c1s1_000001_00' has no keypoints, so there is nothing to draw"):
        collect_poses(output)
    write_keypoints(output, dict(list(found.items())[:2]), overwrite=True)
    assert list(collect_poses(output)) == [pose.name for pose in poses[:2]]

    assert cli.main(command) == 2
    assert (
        capsys.readouterr().err == f"pose2id poses: output {output} exists already; name another or pass --overwrite\n"
    )


def test_a_run_that_was_interrupted_is_gone_on_with(market, tmp_path, monkeypatch, capsys):
    root, _, session = market
    monkeypatch.setattr("pose2id.cli.poses.BLOCK", 2)
    whole, output = tmp_path / "whole.json", tmp_path / "keypoints.json"

    class Killed(Session):
        def run(self, *arguments):
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return super().run(*arguments)

    def command(path, given, *options):
        monkeypatch.setattr(module, "load_session", lambda path=None: given)  # noqa: ARG005
        return cli.main(["poses", str(root), "-o", str(path), "--batch-size", "1", *options])

    def fresh(kind=Session, first=0):
        return kind(session.places[first:], session.scores[first:])

    assert command(whole, fresh()) == 1
    wanted, said = whole.read_bytes(), capsys.readouterr()
    assert command(output, fresh(Killed)) == 130
    assert not output.exists()
    capsys.readouterr()
    assert command(output, fresh(), "--threshold", "0.5") == 2
    assert "was begun with other settings (threshold 0.3 then, 0.5 now)" in capsys.readouterr().err
    rest = fresh(first=1)  # the first block holds one, and one that is none
    assert command(output, rest) == 1
    assert len(rest.seen) == 3
    assert output.read_bytes() == wanted
    assert capsys.readouterr().err == said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keypoints.json", "market", "whole.json"]


def test_photographs_of_a_list(market, tmp_path, capsys):
    root, names, _ = market
    (root / "list.txt").write_text(f"{names[2]}\nquery/none.jpg\n{names[0]}\n")
    assert cli.main(["poses", f"@{root / 'list.txt'}", "-o", str(tmp_path / "k.json"), "--threshold", "0.9"]) == 1
    assert list(read_keypoints(tmp_path / "k.json")) == [names[0], names[2]]
    assert "query/none.jpg skipped: there is no such file" in capsys.readouterr().err
    for wrong in (tmp_path / "k.npz", tmp_path / "none" / "k.json"):
        assert cli.main(["poses", str(root / names[0]), "-o", str(wrong)]) == 2
    assert "must be in an existing folder" in capsys.readouterr().err
    bad = root / "bounding_box_test" / "0001_c2s1_000001_00.jpg"
    assert cli.main(["poses", str(bad), "-o", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.endswith("pose2id poses: none of 1 photographs can be read\n")
    assert not (tmp_path / "none.json").exists()


def test_keypoints_under_other_names_say_which_were_expected(market, tmp_path):
    pytest.importorskip("diffusers")
    from pose2id.ipg.training import Settings
    from pose2id.programs.training import read_records

    root, names, _ = market
    pose = Pose(np.full((18, 2), 0.5))
    file = write_keypoints(tmp_path / "k.json", {f"{n}.jpg": pose for n in range(5)})
    table = {"kind": "market1501", "root": str(root), "keypoints": str(file)}
    words = f"below root, {root}, such as '{names[0]}'; it has '0.jpg', '1.jpg', '2.jpg' and 2 more; to write such a"
    with pytest.raises(ValueError, match=re.escape(f"{words} file: pose2id poses -o keypoints.json {root}")):
        read_records(table, Settings(height=64, width=32))


def test_files_of_keypoints_that_are_none(tmp_path):
    file = tmp_path / "k.json"
    for text, words in (
        ("[]", "it must hold an object: path, then 18 points; it holds a list"),
        ('{"a.jpg": [[0, 0]]}', "k.json: 'a.jpg': keypoints must have shape"),
        ('{"a.jpg": 3}', "'a.jpg': keypoints must be an array or a sequence"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_keypoints(file)
    with pytest.raises(TypeError, match="poses must be a mapping"):
        write_keypoints(file, [Pose(np.full((18, 2), 0.5))])
    with pytest.raises(ValueError, match="exists"):
        write_keypoints(file, {})
