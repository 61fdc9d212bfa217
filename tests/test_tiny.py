"""The generator that ships with the package: small, offline, and it draws the right people."""

import contextlib
import functools
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image

from pose2id import cli
from pose2id.errors import MissingExtraError
from pose2id.ipg import IPGPipeline, generate_features, representative_poses
from pose2id.ipg.training import describe_run
from pose2id.ipg.training.recipe import plan_stages, read_settings
from pose2id.ipg.weights import read_defaults, tiny_folder
from pose2id.programs import walkthrough
from pose2id.programs.walkthrough import (
    count_right_people,
    draw_people,
    draw_sheet,
    encode,
    make_people,
    material,
    switch_off,
)
from pose2id.programs.walkthrough.material import TRAINED

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipe():
    return IPGPipeline.from_pretrained("tiny")


def test_it_is_small_and_holds_no_code_and_no_paths():
    files = [path for path in tiny_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 8_000_000
    assert sum(path.stat().st_size for path in files) <= 8_020_000
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            assert "_name_or_path" not in json.loads(path.read_text()), path
    card = (tiny_folder() / "README.md").read_text()
    for word in ("synthetic", "pose2id train generator", "hours", "seed", "Limits"):
        assert word in card


def test_it_was_trained_as_the_recipe_says(pipe):
    """`run.json` and `tables.json` are what the training itself wrote down."""
    recipe = read_settings(tiny_folder().parent / "tiny.toml")
    run = json.loads((tiny_folder() / "run.json").read_text())
    wanted = describe_run(plan_stages(recipe.settings, recipe.stages), [], 2)
    assert run | {"records": ""} == json.loads(json.dumps(wanted)) | {"records": ""}
    assert json.loads((tiny_folder() / "tables.json").read_text()) == {"data": recipe.data, "model": recipe.model}
    assert range(*recipe.data["ids"]) == TRAINED
    assert list(pipe.unet.config.block_out_channels) == recipe.model["channels"]
    assert list(pipe.config.sample_size) == [recipe.settings.height, recipe.settings.width]


def test_it_loads_in_single_precision_and_draws_its_own_size(pipe):
    assert all(part.dtype == torch.float32 for part in (pipe.unet, pipe.reference_unet, pipe.vae, pipe.ifr))
    people, _ = make_people([0])
    images = pipe(Image.fromarray(people.images[0]), num_inference_steps=1).images
    assert (len(images[0]), images[0][0].size) == (8, (32, 64))


def test_what_a_call_leaves_out_is_its_own(pipe):
    people, _ = make_people([0])
    photograph, pose = Image.fromarray(people.images[0]), representative_poses()[:1]
    assert pipe.defaults == ((64, 32), 10, 2)
    options = {"height": 64, "width": 32, "num_inference_steps": 10, "guidance_scale": 2.0}
    drawn = pipe(photograph, pose, output_type="latent").images
    assert torch.equal(drawn, pipe(photograph, pose, output_type="latent", **options).images)
    for change in ({"num_inference_steps": 20}, {"guidance_scale": 3.5}):
        assert not torch.equal(drawn, pipe(photograph, pose, output_type="latent", **options | change).images)
    (features,) = generate_features(
        pipe, lambda pictures: np.stack(pictures).reshape(1, -1).astype(float), photograph, pose
    )
    asked = pipe(photograph, pose, **options).images[0][0]
    np.testing.assert_array_equal(features[0], np.asarray(asked).reshape(-1))


def test_it_draws_the_same_on_every_device(pipe, device):
    people, _ = make_people([0])
    photograph, poses = Image.fromarray(people.images[0]), representative_poses()[:2]
    drawn = pipe(photograph, poses, num_inference_steps=2, output_type="pt").images
    try:
        pipe.to(device)
        again = pipe(photograph, poses, num_inference_steps=2, output_type="pt").images
        (features,) = generate_features(
            pipe,
            lambda pictures: encode(pipe.identity_encoder, np.stack(pictures)),
            photograph,
            poses,
            num_inference_steps=2,
        )
    finally:
        pipe.to("cpu")
    assert again.device.type == device
    np.testing.assert_allclose(again.cpu().numpy(), drawn.numpy(), atol=1e-3)
    assert np.isfinite(features).all()


@pytest.mark.slow
def test_it_draws_the_right_people(pipe):
    """Of ten people that it was not trained on; far more often than without their photographs."""
    people, queries = make_people(range(10))
    few, gallery = (
        people.select(np.random.default_rng(0).permutation(queries)[:20]),
        people.select(slice(queries, None)),
    )
    poses = representative_poses()[::4]

    def encoder(images):
        return encode(pipe.identity_encoder, images)

    blind = switch_off(pipe, tokens=True, reference=True)
    shares = [
        count_right_people(encoder, few, draw_people(each, few, poses, steps=4), gallery) for each in (pipe, blind)
    ]
    assert shares[0] > 0.5
    assert shares[1] < 0.25


def test_the_command_line(tmp_path, capsys):
    people, _ = make_people([0, 1])
    (tmp_path / "photos").mkdir()
    for row in (0, 6):
        Image.fromarray(people.images[row]).save(tmp_path / "photos" / f"{row}.png")
    out = tmp_path / "out"
    arguments = ["generate", str(tmp_path / "photos"), "-o", str(out), "--weights", "tiny", "--steps", "2", "--sheet"]
    assert cli.main(arguments) == 0
    assert "16 pictures, 16 of them new" in capsys.readouterr().out
    with Image.open(out / "6" / "8.png") as image:
        assert image.size == (32, 64)
    settings = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert (settings["height"], settings["width"], settings["weights"][:7]) == (64, 32, "sha256:")
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == (2, 2.0)  # as asked; its own


def test_the_sheet(pipe, tmp_path):
    people, _ = make_people([0])
    some = people.select(slice(3))
    drawn = draw_people(pipe, some, steps=1)
    path = draw_sheet(some, drawn, tmp_path / "made" / "sheet.png", count=2)
    with Image.open(path) as sheet:
        assert sheet.size == (3 * 9 * 32, 3 * 3 * 64)
        pixels = np.asarray(sheet)[::3, ::3]
    np.testing.assert_array_equal(pixels[64:128, :32], some.images[0])
    np.testing.assert_array_equal(pixels[128:, 32:64], drawn[2, 0])
    assert [file.name for file in Path(path).parent.iterdir()] == ["sheet.png"]


def draw_little(*given, steps, **options):
    """Two of the eight poses, each four times."""
    return draw_people(*given, representative_poses()[::4], steps=steps, **options).repeat(4, axis=1)


@pytest.fixture(scope="module")
def found(pipe):
    """The walkthrough of three people, drawn in two steps and poses, with an encoder that is weaker still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "WEAK_STEPS", 3)
        patch.setattr(walkthrough, "draw_people", functools.partial(draw_little, steps=2))
        patch.setattr(material, "WEAK_IDENTITIES", range(6000, 6010))
        patch.setattr(walkthrough, "ABLATED", 3)
        return walkthrough.run_walkthrough(pipe, range(3))


@pytest.mark.slow
def test_the_walkthrough_has_all_tables(found):
    titles = {re.match(r"(Tables? [\d and]+|Fig\. \d|Controls)", row.table).group(1).strip() for row in found.rows}
    assert titles == {"Table 2", "Tables 3 and 4", "Table 5", "Table 6", "Fig. 8", "Table 7", "Controls", "Fig. 5"}
    assert {row.encoder for row in found.rows} == {"strong", "weak", "untrained", "raw pixels"}
    assert all(0 <= row.mAP <= 1 and row.error >= 0 for row in found.rows)
    assert found.drawn.shape == (30, 8, 64, 32, 3)
    strong = {row.name: row.mAP for row in found.rows if row.table.startswith("Fig. 5")}
    assert strong["tokens and reference"] > strong["both off"]


@pytest.mark.slow
def test_the_command_demo_generate(found, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    asked = []
    monkeypatch.setattr(walkthrough, "run_walkthrough", lambda _, ids, **__: asked.append(ids) or found)
    out = tmp_path / "pictures"
    arguments = ["demo", "--generate", "-o", str(out)]
    assert cli.main([*arguments, "--people", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Table 6: the first M poses" in printed
    assert "Synthetic people" in printed
    assert asked == [range(3)]
    names = ["generated.png", "parts.png", "generated-identities.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert cli.main(arguments) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite", "--json"]) == 0
    assert asked[-1] == range(30)
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"][0]["mAP"] == found.rows[0].mAP
    assert answer["pictures"] == [str(out / name) for name in names]


@pytest.mark.slow
def test_the_map_needs_matplotlib_and_nothing_else_does(found, tmp_path, capsys, monkeypatch):
    def missing(*_):
        raise MissingExtraError("pip install 'pose2id[plots]'", extra="plots", package="matplotlib")

    monkeypatch.setattr(walkthrough, "run_walkthrough", lambda *_, **__: found)
    monkeypatch.setattr("pose2id.cli.demo.check_matplotlib", missing)
    assert cli.main(["demo", "--generate", "-o", str(tmp_path)]) == 0
    assert "No map of identities: pip install 'pose2id[plots]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated.png", "parts.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--generate", "--people", "2"], "from 3 to 2000, received 2"),
        (["--generate", "--people", "2001"], "from 3 to 2000, received 2001"),
        (["--people", "5"], "--people goes with --generate"),
    ],
)
def test_wrong_numbers_of_people(arguments, words, capsys):
    assert cli.main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of pictures that a cell only shows
def test_the_notebook_runs_and_prints_the_words_that_it_shows(tmp_path, monkeypatch):
    """In small: three people, drawn in one step and two poses, and a weak encoder that is weaker still."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(material, "WEAK_STEPS", 3)
    monkeypatch.setattr(material, "WEAK_IDENTITIES", range(6000, 6010))
    monkeypatch.setattr(walkthrough, "draw_people", functools.partial(draw_little, steps=1))
    number = re.compile(r" *\d+\.\d+")
    notebook = json.loads((ROOT / "docs" / "walkthrough.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert "\nPEOPLE = 6 " in "".join(cells[0]["source"])
    namespace = {"__name__": "__main__"}
    for place, cell in enumerate(cells):
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        assert cell["outputs"] or place == 0
        shown = "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
        source, printed = "".join(cell["source"]).replace("PEOPLE = 6", "PEOPLE = 3"), io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"cell {place}", "exec"), namespace)
        assert number.sub(" x", printed.getvalue()) == number.sub(" x", shown)
    assert sorted(path.name for path in Path("walkthrough").iterdir()) == ["map.png", "sheet.png"]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("{}", (512, 256)),
        ('{"sample_size": null}', (512, 256)),
        ('{"sample_size": [64, 32]}', (64, 32)),
        ('{"sample_size": 0}', "must be"),
        ('{"sample_size": []}', "must be"),
        ('{"sample_size": [64, true]}', "must be"),
        ('{"sample_size": [64.5, 32]}', "must be"),
        ('{"sample_size": [0, 32]}', "must be"),
        ('{"num_inference_steps": 0}', "num_inference_steps must be"),
        ('{"num_inference_steps": 2.5}', "num_inference_steps must be"),
        ('{"guidance_scale": "2"}', "guidance_scale must be"),
        ('{"guidance_scale": NaN}', "guidance_scale must be"),
        ("[1]", "damaged"),
        ("{", "damaged"),
    ],
)
def test_the_size_that_weights_were_trained_at(content, answer, tmp_path):
    (tmp_path / "model_index.json").write_text(content)
    if isinstance(answer, tuple):
        assert read_defaults(tmp_path).sample_size == answer
    else:
        with pytest.raises(ValueError, match=answer):
            read_defaults(tmp_path)
