"""From a configuration to a trained generator: small worlds, a few steps."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image
from support.pictures import smooth_pictures
from support.starting import start

from pose2id import cli
from pose2id.atomic import lock
from pose2id.cli.signals import EndedError
from pose2id.ipg import IPGPipeline
from pose2id.ipg.training import FolderData, SmallModel, WorldData
from pose2id.ipg.training.configuration import read_data, read_model
from pose2id.ipg.training.encoder import encode_images, train_encoder
from pose2id.ipg.training.recipe import Settings, read_settings
from pose2id.programs.training import build_pipeline, read_records, run_training
from pose2id.programs.training.models import halve
from pose2id.programs.training.records import choose_validation, clean_records
from pose2id.synthetic import write_dataset
from pose2id.training import reports

CONFIG = """
[data]
kind = "world"
ids = [10, 14]
cams = 3
per_cam = 1

[model]
kind = "small"
encoder_steps = 3
latent_channels = 4
channels = [8, 16]
heads = 2
groups = 4
tokens = 2
token_width = 12
pose_channels = [4, 4, 4]

[training]
steps = 3
batch_size = 4
height = 32
width = 16
learning_rate = 1e-3
ema = 0.9
cache = true
save_every = 2
validate_every = 0
validation_steps = 1

[[stages]]
use_reference = false

[[stages]]
copy_denoiser = true
token_drop = 0.5
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed, and what the command printed; nobody changes it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(CONFIG)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["ipg-train", str(folder / "tiny.toml"), "-o", str(folder / "run")]) == 0
    return folder / "run", printed.getvalue()


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_command(config, whole):
    run, printed = whole
    assert printed == f"{run / 'pipeline'}\n"
    pipe = IPGPipeline.from_pretrained(run / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    person = Image.fromarray(smooth_pictures(1, 32, 16)[0])
    assert pipe(person, num_inference_steps=1, output_type="np").images.shape == (1, 8, 32, 16, 3)
    assert not (run / "pipeline" / "README.md").exists()  # that card is of the released weights
    half = IPGPipeline.from_pretrained(run / "pipeline-float16")
    for name in ("unet", "reference_unet", "vae", "identity_encoder", "ifr", "pose_encoder"):
        for key, value in getattr(pipe, name).state_dict().items():
            torch.testing.assert_close(
                getattr(half, name).state_dict()[key].to(value.dtype), value, atol=1e-2, rtol=1e-2
            )
    losses = (run / "losses.csv").read_text().splitlines()
    assert len(losses) == 1 + 6
    before = tree(run)
    assert run_training(config, run, progress=False) == run / "pipeline"  # done already
    after = tree(run)
    assert [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)] == []


@pytest.mark.skipif(os.name != "posix", reason="names the process that holds a lock")
def test_a_second_run_is_told_at_once(config, tmp_path, capsys, monkeypatch):
    """Before pictures are read and an encoder is trained, minutes in earnest."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("pose2id.programs.training.read_records", None)
    with lock(tmp_path / "run" / ".pose2id.lock"):
        assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"another run (process {os.getpid()}) works in {tmp_path / 'run'}; wait for it or end it" in said
    assert cli.main(["ipg-train", "", "-o", str(tmp_path / "run")]) == 2
    assert "the configuration must be a path, received an empty text" in capsys.readouterr().err
    assert cli.main(["ipg-train", str(config), "-o", ""]) == 2
    assert "output must be a path, received an empty text" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="names the process that holds a lock")
def test_two_at_once(config, whole, tmp_path):
    """One trains, the other is refused; what is there is what it alone would have made."""
    command = ["ipg-train", str(config), "-o", str(tmp_path / "run")]
    runs = [start(cli.main, command, said=tmp_path / name) for name in ("one", "two")]
    for run in runs:
        run.join()
    said = [(tmp_path / f"{name}.err").read_text() for name in ("one", "two")]
    codes = [run.exitcode for run in runs]
    pids = {str(run.pid) for run in runs}
    assert 0 in codes
    for code, words in zip(codes, said, strict=True):
        if code:  # one that comes after the first has ended finds a finished run
            assert code == 2
            assert re.search(r"another run \(process (\d+|unknown)\) works in", words), words
            assert set(re.findall(r"process (\d+)", words)) <= pids
    alone, run = tree(whole[0]), tree(tmp_path / "run")
    assert run.keys() == alone.keys()
    assert [name for name in alone if name.startswith(("pipeline", "losses")) and alone[name] != run[name]] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_and_started_again(config, whole, tmp_path):
    process = start(cli.main, ["ipg-train", str(config), "-o", str(tmp_path / "killed")], said=tmp_path / "said")
    while process.is_alive() and not list((tmp_path / "killed").glob("checkpoints/step-*")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert list((tmp_path / "killed").glob("checkpoints/step-*")), (tmp_path / "said.err").read_text()
    run_training(config, tmp_path / "killed", progress=False)
    wanted, killed = tree(whole[0]), tree(tmp_path / "killed")
    assert {name for name in wanted if name.startswith("pipeline")} <= set(killed)
    for name, content in wanted.items():
        if name.startswith(("pipeline", "losses")):
            assert killed[name] == content, name


def test_pictures_of_the_world_and_what_hides_them():
    settings = Settings(height=32, width=16)
    records = read_records({"kind": "world", "ids": [3, 9], "cams": 4, "occlusion": 0.5}, settings)
    assert len(records) == 6 * 4 * 2
    assert {record.identity for record in records} == set(range(3, 9))
    assert 0 < sum(not record.target for record in records) < len(records)
    anyway = read_records({"kind": "world", "ids": [3, 9], "occluded_targets": True}, settings)
    assert all(record.target for record in anyway)


def test_pictures_of_a_folder_with_keypoints(tmp_path):
    root = write_dataset(tmp_path / "world", ids=4, cams=2, height=32, width=16)
    settings = Settings(height=32, width=16)
    records = read_records({"kind": "synthetic", "root": str(root)}, settings)
    assert len(records) == 8
    assert all(record.pose is not None for record in records)
    # The same through a file of keypoints, as any other data set has them.
    points = json.loads((root / "bounding_box_train" / "keypoints.json").read_text())
    hidden = next(iter(points))
    inside = {f"bounding_box_train/{name}": rows for name, rows in points.items()} | {
        f"bounding_box_train/{hidden}": None
    }
    (tmp_path / "points.json").write_text(json.dumps(inside))
    table = {"kind": "market1501", "root": str(root), "keypoints": str(tmp_path / "points.json")}
    again = read_records(table, settings)
    assert [record.image for record in again] == [record.image for record in records]
    for record, other in zip(again, records, strict=True):
        if Path(record.image).name == hidden:
            assert (record.pose, record.target) == (None, False)
        else:
            np.testing.assert_allclose(record.pose.keypoints, other.pose.keypoints)


def test_cleaning(config, tmp_path):
    config.write_text(CONFIG.replace("per_cam = 1", "per_cam = 1\n", 1))
    root = write_dataset(tmp_path / "world", ids=6, cams=2, per_cam=3, height=32, width=16)
    table = f'kind = "synthetic"\nroot = "{root}"\nclean = true\nquantile = 0.1'
    start, end = CONFIG.index('kind = "world"'), CONFIG.index("[model]")
    config.write_text(CONFIG[:start] + table + "\n\n" + CONFIG[end:])
    run_training(config, tmp_path / "run", progress=False)
    assert "references (S_ref)" in (tmp_path / "run" / "cleaning.txt").read_text()
    with Image.open(tmp_path / "run" / "cleaning.png") as sheet:
        assert sheet.size > (8, 8)


class Encoder(torch.nn.Module):
    """Means of the colours; counts how many pictures it has seen."""

    device, dtype, seen = torch.device("cpu"), torch.float32, 0

    def preprocess(self, images):
        return torch.stack([torch.from_numpy(np.array(image)).float().mean((0, 1)) for image in images])

    def forward(self, pixels):
        self.seen += len(pixels)
        return pixels


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """Records, and the folder of their cleaning."""
    records = read_records(WorldData([0, 10], cams=2, per_cam=3, occluded_targets=True), Settings(height=32, width=16))
    folder = tmp_path_factory.mktemp("cleaned")
    clean_records(Encoder(), records, 0.1, folder)
    return records, folder


def test_cleaning_is_done_once(tmp_path):
    settings = Settings(height=32, width=16)
    records = read_records(WorldData([0, 10], cams=2, per_cam=3, occluded_targets=True), settings)
    encoder = Encoder()

    def clean(*given):
        kept = clean_records(encoder, *given, tmp_path / "run")
        return [(record.reference, record.target) for record in kept]

    first = clean(records, 0.1)
    assert encoder.seen == len(records) == 60
    assert 0 < sum(reference for reference, _ in first) < 60
    before = tree(tmp_path / "run")
    assert before.keys() == {"cleaning.json", "cleaning.txt", "cleaning.png"}
    assert clean(records, 0.1) == first
    assert encoder.seen == 60
    assert tree(tmp_path / "run") == before
    # Other records, the same number of them, or another quantile: anew.
    assert clean(records[::-1], 0.1) == first[::-1]
    assert encoder.seen == 120
    assert clean(records[::-1], 0.2) != first[::-1]
    assert encoder.seen == 180


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"references": "all"}, "references must be a list of rows, received all"),
        ({"references": [0, 1, 1], "targets": []}, "references holds a row twice"),
        ({"references": [-1], "targets": []}, "references must be a list of rows"),
        ({"references": [0.0], "targets": []}, "references must be a list of rows"),
        ({"references": [True], "targets": []}, "references must be a list of rows"),
        ({"references": [0], "targets": [1]}, "every target must be a reference"),
        ({"references": [60], "targets": []}, "names row 60 of 60"),
        ({"quantile": "0.1"}, "quantile must be a number from 0 to 0.5"),
        ({"more": 1}, "must hold records, quantile, references and targets"),
        (None, "must hold records, quantile, references and targets"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "nested"),
        ('{"quantile": 1e400}', "1e400"),
    ],
)
def test_a_damaged_cleaning_is_named(cleaned, tmp_path, change, words):
    records = cleaned[0]
    shutil.copytree(cleaned[1], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cleaning.json"
    if isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps(change and json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"cleaning\.json.*{words}.*remove it to clean anew"):
        clean_records(Encoder(), records, 0.1, tmp_path)


def test_one_process_hashes_the_records(tmp_path, monkeypatch):
    """The others wait for it, and read what it has found."""
    records = read_records(WorldData([0, 2], cams=2, per_cam=1), Settings(height=32, width=16))
    first = clean_records(Encoder(), records, 0.1, tmp_path)
    monkeypatch.setattr("pose2id.programs.training.records.fingerprint", None)
    monkeypatch.setattr(
        "pose2id.programs.training.records.find_processes", lambda: SimpleNamespace(is_main_process=False)
    )
    again = clean_records(None, records, 0.1, tmp_path)
    assert [(one.reference, one.target) for one in again] == [(one.reference, one.target) for one in first]


def test_cleaning_goes_into_a_run_once(config, tmp_path, monkeypatch):
    point_to_folders(config, tmp_path / "world", "synthetic")
    config.write_text(config.read_text().replace("[model]", "clean = true\nquantile = 0.1\n\n[model]"))
    run_training(config, tmp_path / "run", progress=False)
    losses = (tmp_path / "run" / "losses.csv").read_bytes()
    monkeypatch.setattr("pose2id.programs.training.records.clean", None)
    run_training(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "losses.csv").read_bytes() == losses


def test_sheets_show_people_outside_the_training_set(tmp_path):
    settings = Settings(height=32, width=16)
    world = WorldData([3, 9], cams=2, per_cam=1, seed=5)
    records = read_records(world, settings)
    shown = choose_validation(world, settings, records)
    assert [record.identity for record in shown] == list(range(9, 17))
    assert any(record.target for record in shown)
    wider = {
        record.identity: record for record in read_records(WorldData([9, 17], cams=2, per_cam=1, seed=5), settings)
    }
    assert all(record.image.shape == wider[record.identity].image.shape for record in shown)

    root = write_dataset(tmp_path / "world", ids=6, cams=2, height=32, width=16)
    folder = FolderData("synthetic", str(root))
    records = read_records(folder, settings)
    shown = choose_validation(folder, settings, records)
    assert {record.identity for record in shown}.isdisjoint(record.identity for record in records)
    assert {Path(record.image).parent.name for record in shown} == {"query"}
    assert all(record.pose is not None for record in shown)
    bare = FolderData("market1501", str(root))  # the same without keypoints
    assert [record.image for record in choose_validation(bare, settings, records)] == [record.image for record in shown]


def test_without_others_sheets_show_people_of_the_training_set(tmp_path, monkeypatch):
    root = write_dataset(tmp_path / "world", ids=6, cams=2, height=32, width=16)
    folder, settings = FolderData("synthetic", str(root)), Settings(height=32, width=16)
    records = read_records(folder, settings)
    monkeypatch.setattr("pose2id.programs.training.records._read_part", lambda *_: [])
    shown = choose_validation(folder, settings, records)
    assert [record.identity for record in shown] == sorted({record.identity for record in records})
    assert all(record.target for record in shown)


def test_tables_as_dataclasses(config):
    recipe = read_settings(config)
    assert read_data(recipe.data, ["market1501"]) == WorldData(ids=[10, 14], cams=3, per_cam=1)
    assert read_model(recipe.model).channels == [8, 16]
    table = {"kind": "market1501", "root": "market", "clean": True}
    assert read_data(table, ["market1501"]) == FolderData("market1501", "market", clean=True)
    assert read_model({"kind": "stable-diffusion", "encoder": "released"}).vae is None
    with pytest.raises(ValueError, match="model: encoder must be given"):
        read_model({"kind": "stable-diffusion"})
    with pytest.raises(ValueError, match=r"data: quantile must be a number from 0 to 0\.5, received 0\.7"):
        read_data(table | {"quantile": 0.7}, ["market1501"])
    with pytest.raises(TypeError, match="data: quantile must be int or float, received True"):
        read_data(table | {"quantile": True}, ["market1501"])
    with pytest.raises(TypeError, match=r"channels must hold integers of 0 or more, received \[8, 1.5\]"):
        SmallModel(channels=[8, 1.5])
    with pytest.raises(TypeError, match="root must be str, received None"):
        FolderData("market1501", None)


def test_half_a_pipeline_is_a_copy(config, tmp_path):
    recipe = read_settings(config)
    pipe = build_pipeline(recipe.model, recipe.settings, read_records(recipe.data, recipe.settings), tmp_path)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    half = halve(pipe)
    assert (half.unet.dtype, half.vae.dtype, half.identity_encoder.dtype) == (torch.float16,) * 3
    assert all(part.dtype == torch.float32 for part in (pipe.unet, pipe.vae, pipe.identity_encoder))
    assert all(torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
    assert half.config.sample_size == pipe.config.sample_size


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "world"', 'kind = "word"', "data: kind must be 'world' or one of market1501, "),
        ("ids = [10, 14]\n", "", "data: ids must be given"),
        ("cams = 3", "cameras = 3", "data: unknown: cameras; allowed are"),
        ('kind = "small"', 'kind = "large"', "model: kind must be 'small' or 'stable-diffusion', received 'large'"),
        ("ids = [10, 14]", "ids = 500", "data: ids must be list, received 500"),
        ("ids = [10, 14]", "ids = [14, 10]", "data: ids must be the first identity and the one after the last"),
        ("ids = [10, 14]", "ids = [0, 18446744073709551615]", "at most 2**31, received [0, 18446744073709551615]"),
        ("channels = [8, 16]", "channels = 8", "model: channels must be list, received 8"),
        ("groups = 4", "groups = 3", "model: the networks cannot be built"),
        ("encoder_steps = 3", 'encoder_steps = "3"', "model: encoder_steps must be int, received '3'"),
        ("encoder_steps = 3", "encoder_steps = -3", "model: encoder_steps must not be negative"),
        ("cams = 3", 'occluded_targets = "no"', "data: occluded_targets must be bool, received 'no'"),
        ("height = 32", "height = 30", "training: height must be a multiple of 8, received 30"),
        ("cache = true", 'mixed_precision = "fp16"', "mixed_precision 'fp16' needs a GPU"),
        ("tokens = 2", "token = 2", "model: unknown: token; allowed are"),
        ("steps = 3\nbatch", "step = 3\nbatch", "training: unknown: step"),
    ],
)
def test_a_wrong_configuration(config, tmp_path, capsys, old, new, words):
    config.write_text(CONFIG.replace(old, new, 1))
    assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "pipeline").exists()


def test_another_start_in_the_same_folder(config, tmp_path, capsys):
    """Before the first checkpoint too: an encoder that is there was trained on something else."""
    recipe = read_settings(config)
    records = read_records(recipe.data, recipe.settings)
    build_pipeline(recipe.model, recipe.settings, records, tmp_path / "run")
    run_training(config, tmp_path / "run", progress=False)
    config.write_text(CONFIG.replace("encoder_steps = 3", "encoder_steps = 9"))
    assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "run")]) == 2
    assert "was begun with other tables [data] or [model]" in capsys.readouterr().err


def test_an_error_of_another_kind_names_the_configuration(config, tmp_path):
    """Such as of a text that is not UTF-8, whose error is made of five arguments."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tables.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"tiny\.toml: 'utf-8' codec can't decode"):
        run_training(config, tmp_path / "run", progress=False)


def point_to_folders(config, root, kind):
    """Let a configuration read folders of four people."""
    write_dataset(root, ids=4, cams=2, height=32, width=16)
    start, end = CONFIG.index('kind = "world"'), CONFIG.index("[model]")
    config.write_text(f'{CONFIG[:start]}kind = "{kind}"\nroot = "{root}"\n\n{CONFIG[end:]}')
    return root


def test_without_poses_there_is_nothing_to_train(config, tmp_path, capsys):
    point_to_folders(config, tmp_path / "world", "market1501")
    assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "run")]) == 2
    assert "no picture has a pose" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "file")]) == 2
    assert "must be a folder, it is a file" in capsys.readouterr().err


def test_a_path_that_is_not_there_names_configuration_and_key(config, tmp_path, capsys, monkeypatch):
    root = point_to_folders(config, tmp_path / "world", "market1501")
    text = config.read_text()
    config.write_text(text.replace(f'root = "{root}"', f'root = "{root}"\nkeypoints = "points.json"'))
    monkeypatch.chdir(tmp_path)
    command = ["train", "generator", "tiny.toml", "-o", "run"]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == (
        "pose2id train: tiny.toml: data: keypoints = 'points.json' is not there; relative paths begin at the folder "
        f"where the command runs, {tmp_path}; to write such a file: pose2id poses {root} -o points.json\n"
    )
    config.write_text(text.replace(str(root), "elsewhere"))
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("pose2id train: tiny.toml: ")
    assert "elsewhere" in said
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_terminal_says_how_far_it_is(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reports, "APART", 0)
    command = ["train", "generator", str(config), "-o"]
    assert cli.main([*command, str(tmp_path / "run")]) == 0
    losses = [float(line.split(",")[1]) for line in (tmp_path / "run" / "losses.csv").read_text().splitlines()[1:]]
    lines = [f"pose2id train: step {step} of 6, loss {loss:.2f}\n" for step, loss in enumerate(losses, 1)]
    assert capsys.readouterr().err == "".join(lines)
    assert len(lines) == 6
    assert cli.main([*command, str(tmp_path / "quiet"), "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_line_a_minute(tmp_path):
    told, now = [], 100.0
    log = reports.Reports(tmp_path, 0, 3000, tensorboard=False, progress=False, report=told.append, clock=lambda: now)
    for step in range(1, 8):
        now += 25
        log.add(step, step / 8, 1e-3, 1.0)
    log.close()
    assert told == ["step 3 of 3,000, loss 0.38", "step 6 of 3,000, loss 0.75"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EndedError(15)])
def test_an_end_before_the_first_checkpoint_is_told(config, tmp_path, capsys, monkeypatch, error):
    """The first is at step 2."""
    add, last = reports.Reports.add, 1

    def add_until(self, step, *values):
        add(self, step, *values)
        if step == last:
            raise error

    monkeypatch.setattr(reports.Reports, "add", add_until)
    command = ["train", "generator", str(config), "-o", str(tmp_path / "run")]
    code, end = (130, "interrupted") if isinstance(error, KeyboardInterrupt) else (143, "ended by SIGTERM")
    anew = f"pose2id train: there is no checkpoint in {tmp_path / 'run'} yet: the same command begins anew\n"
    assert cli.main(command) == code
    assert capsys.readouterr().err == f"{anew}pose2id train: {end}\n"
    last = 3
    assert cli.main(command) == code
    assert capsys.readouterr().err == f"pose2id train: {end}\n"
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "losses.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3"]


def test_a_picture_that_cannot_be_read_is_told_at_the_start(config, tmp_path, capsys):
    root = point_to_folders(config, tmp_path / "world", "synthetic")
    broken = sorted((root / "bounding_box_train").glob("*.jpg"))[-1]
    broken.write_bytes(broken.read_bytes()[:100])
    assert cli.main(["ipg-train", str(config), "-o", str(tmp_path / "run")]) == 2
    assert broken.name in capsys.readouterr().err


def train_twice(*arguments):
    return cli.main(arguments) or cli.main(arguments)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes(config, tmp_path):
    """One writes what both need; the result is one pipeline, printed once; started again it goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun tells each of its processes.
    environment = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in "01":
        mine = environment | {"RANK": rank, "LOCAL_RANK": rank}
        command = ["ipg-train", str(config), "-o", str(tmp_path / "run")]
        processes.append(start(train_twice, *command, said=tmp_path / rank, environment=mine))
    for rank, process in zip("01", processes, strict=True):
        process.join()
        assert process.exitcode == 0, (tmp_path / f"{rank}.err").read_text()[-2000:]
    assert (tmp_path / "0.out").read_text() == f"{tmp_path / 'run' / 'pipeline'}\n" * 2
    assert (tmp_path / "1.out").read_text() == ""
    assert len((tmp_path / "run" / "losses.csv").read_text().splitlines()) == 1 + 6


def test_pictures_of_another_size(config, tmp_path):
    recipe = read_settings(config)
    records = read_records(recipe.data, recipe.settings)
    with pytest.raises(ValueError, match=r"a small model needs pictures of 64 x 32, as .* received 32 x 16"):
        build_pipeline(recipe.model, Settings(height=64, width=32), records, tmp_path)


def test_an_encoder_learns_identities():
    """Eight people, each of another colour; the pictures of one lie nearer to each other than to those of others."""
    rng = np.random.default_rng(0)
    colours = np.array(list(np.ndindex(2, 2, 2)))[:, None, None] * 120 + 60
    ids = np.repeat(np.arange(8), 6)
    images = (colours[ids] + rng.normal(0, 20, (48, 16, 8, 3))).clip(0, 255).astype(np.uint8)
    sizes = {"channels": (4, 8, 8, 12), "out_features": 8}
    encoder = train_encoder(images, ids, steps=120, identities=8, shots=4, **sizes)
    twice = [train_encoder(images, ids, steps=12, identities=8, shots=4, **sizes) for _ in range(2)]
    np.testing.assert_array_equal(*(encode_images(short, images) for short in twice))
    features = encode_images(encoder, images)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    distances = np.linalg.norm(features[:, None] - features, axis=2) + np.diag(np.full(48, np.inf))
    assert (ids[distances.argmin(1)] == ids).mean() > 0.9


@pytest.mark.parametrize(
    ("images", "ids", "words"),
    [
        (np.zeros((4, 16, 8, 3)), [0, 0, 1, 1], "images must be an array of uint8"),
        (np.zeros((4, 16, 8, 3), np.uint8), [0, 0, 0, 0], "ids must hold at least two identities, received 1"),
        ("pictures", [0], "received str"),
    ],
)
def test_what_an_encoder_cannot_learn(images, ids, words):
    with pytest.raises(ValueError, match=words):
        train_encoder(images, ids, steps=1)
