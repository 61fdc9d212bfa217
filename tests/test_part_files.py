"""Feature files with parts and visibility: what is read and refused; every command gives the functions' values."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pose2id import centralize, evaluate, evaluate_features, id_density, rerank
from pose2id.cli import main
from pose2id.files import read_features, write_arrays
from pose2id.parts import centralize_parts, evaluate_parts, part_density, rerank_parts

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((8, 3, 6))
BOTH = ("--query", "query.npz", "--gallery", "gallery.npz")
PAGE = Path(__file__).parents[1].joinpath("docs", "parts.md").read_text(encoding="utf-8")


def a_set(repeats, first_camera):
    """Parts of 8 identities, seen `repeats` times each; hidden ones hold NaN."""
    ids = np.tile(np.arange(8), repeats)
    parts = (CENTRES[ids] + RNG.standard_normal((len(ids), 3, 6))).astype(np.float32)
    visibility = RNG.random((len(ids), 3)) < 0.7
    parts[~visibility] = np.nan
    return {
        "parts": parts,
        "visibility": visibility,
        "ids": ids,
        "cams": np.repeat(np.arange(repeats), 8) + first_camera,
    }


QUERY, GALLERY = a_set(2, 0), a_set(5, 1)
LABELS = (QUERY["ids"], GALLERY["ids"], QUERY["cams"], GALLERY["cams"])
GENERATED = {
    "generated_parts": RNG.standard_normal((40, 2, 3, 6)).astype(np.float32),
    "generated_visibility": RNG.random((40, 2, 3)) < 0.8,
}
WHOLE = {name: RNG.standard_normal((n, 5)).astype(np.float32) for name, n in (("query", 16), ("gallery", 40))}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with query.npz and gallery.npz."""
    monkeypatch.chdir(tmp_path)
    np.savez("query.npz", **QUERY)
    np.savez("gallery.npz", **GALLERY)
    return tmp_path


def run(capsys, *arguments, err=""):
    """What a command that must succeed prints to stdout."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, err)
    return captured.out


def refuse(capsys, *arguments):
    """The one line that a command prints to stderr on bad input, without its beginning; nothing is written."""
    before = sorted(Path.cwd().iterdir())
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert sorted(Path.cwd().iterdir()) == before
    return captured.err.removeprefix(f"pose2id {arguments[0]}: ").rstrip("\n")


def equal(one, other):
    """Whether two arrays have the same dtype and bits, NaN included."""
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def scores_of(query, gallery, protocol="market1501", **options):
    seen = {"query_visibility": query[1], "gallery_visibility": gallery[1]}
    return evaluate_parts(query[0], gallery[0], *LABELS, **seen, protocol=protocol, **options)


def reranked_scores(query, gallery):
    return evaluate(rerank_parts(query[0], gallery[0], query[1], gallery[1]), *LABELS)


def as_row(name, scores):
    ranks = {f"rank{k}": scores.rank(k) for k in (1, 5, 10)}
    counts = {"valid_queries": scores.valid_queries, "tied_rank1": scores.tied_rank1}
    return {"name": name, "mAP": scores.mAP, "mINP": scores.mINP} | ranks | counts


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
def test_what_is_written_is_read(tmp_path, suffix, dtype):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    arrays = GALLERY | GENERATED | {"visibility": GALLERY["visibility"].astype(dtype), "features": WHOLE["gallery"]}
    found = read_features(write_arrays(tmp_path / f"x{suffix}", arrays))
    for name, array in arrays.items():
        assert equal(getattr(found, name), array), name
    only = read_features(write_arrays(tmp_path / f"y{suffix}", {"parts": GALLERY["parts"]}))
    assert equal(only.parts, GALLERY["parts"])
    assert only.features is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"parts": CENTRES[0]}, r"parts must have shape \(N, P, D\), one row for each image, received \(3, 6\)"),
        (
            {"features": CENTRES},
            r"features must have shape \(N, D\), .*received \(8, 3, 6\); .* under the name 'parts'",
        ),
        ({"parts": CENTRES, "features": np.eye(7)}, "parts must have a row for each of the 7 features, received 8"),
        ({"features": np.eye(8), "visibility": np.ones((8, 3))}, "holds 'visibility' but no 'parts'; the arrays of"),
        ({"features": np.eye(8), "generated_parts": np.ones((8, 1, 3, 6))}, "holds 'generated_parts' but no 'parts'"),
        (
            {"parts": CENTRES, "generated_visibility": np.ones((8, 1, 3))},
            "holds 'generated_visibility' but no 'generated_parts'; ",
        ),
        ({"parts": CENTRES, "generated": np.ones((8, 1, 3, 6))}, "holds 'generated' but no 'features'; .*'generated_p"),
        ({"parts": CENTRES, "ids": np.arange(7)}, r"ids must have shape \(8,\).*for each row of 'parts'"),
        ({"visibility": np.ones((8, 3))}, "must hold an array 'features', it holds: visibility; "),
    ],
)
def test_arrays_that_do_not_belong_together(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz:? {words}"):
        read_features(tmp_path / "x.npz")


def test_who_takes_features_only_gets_features_or_an_error(tmp_path):
    np.savez(tmp_path / "x.npz", **QUERY, features=WHOLE["query"])
    found = read_features(tmp_path / "x.npz", names=("ids",))
    assert (found.parts, found.visibility) == (None, None)
    np.savez(tmp_path / "x.npz", **QUERY)
    with pytest.raises(ValueError, match="must hold an array 'features', it holds: cams, ids, parts, visibility; "):
        read_features(tmp_path / "x.npz", names=("ids",))


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["uint8", "int64", "uint16"])
def test_integers_0_and_1_are_bools(tmp_path, suffix, kind):
    """As other programs store what is seen, and as MATLAB's logical arrays are read."""
    path = tmp_path / f"x{suffix}"
    seen = {"visibility": QUERY["visibility"], "generated_visibility": np.arange(48).reshape(16, 1, 3) % 2 == 0}
    arrays = {"parts": np.nan_to_num(QUERY["parts"]), "generated_parts": np.ones((16, 1, 3, 6), np.float32)}

    def save(**more):
        held = arrays | {name: array.astype(kind) for name, array in (seen | more).items()}
        tensors = {name: torch.from_numpy(array) for name, array in held.items()}
        if suffix == ".npz":
            np.savez(path, **held)
        elif suffix == ".mat":
            savemat(path, held)
        elif suffix == ".pt":
            torch.save(tensors, path)
        else:
            pytest.importorskip("safetensors.torch").save_file(tensors, path)

    save()
    found = read_features(path)
    for name, expected in seen.items():
        array = np.asarray(getattr(found, name))
        assert array.dtype == bool
        np.testing.assert_array_equal(array, expected)
    save(visibility=np.full((16, 3), 3))
    with pytest.raises(ValueError, match=r": visibility must hold bools, 0 and 1, or .*, received the integer 3$"):
        read_features(path)


@pytest.mark.usefixtures("here")
def test_commands_take_integers_0_and_1(capsys):
    expected = run(capsys, *EVERY["evaluate before and after"])
    np.savez("query.npz", **(QUERY | {"visibility": QUERY["visibility"].astype(int)}))
    assert run(capsys, *EVERY["evaluate before and after"]) == expected


# --- commands -----------------------------------------------------------------------------------------------------

METHODS = {
    "": {},
    "--fill": {"fill": True},
    "--k1 3 --k2 4 --alpha 2 --eta 0.5 --fill": {"k1": 3, "k2": 4, "alpha": 2.0, "eta": 0.5, "fill": True},
    "--no-normalize --exclude-cams --engine exact": {"normalize": False, "exclude": GALLERY["cams"]},
}


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.usefixtures("here")
def test_centralize_writes_what_the_function_gives(capsys, options, soft):
    visibility = GALLERY["visibility"] * np.float32(0.5) if soft else GALLERY["visibility"]
    np.savez("x.npz", **(GALLERY | GENERATED | {"visibility": visibility}))
    printed = run(capsys, "centralize", "x.npz", "-o", "out.npz", *options.split())
    assert printed == "out.npz: 40 x 3 x 6, float32\n"
    generated = GENERATED["generated_parts"], GENERATED["generated_visibility"]
    how = {"generated_visibility": generated[1]} | METHODS[options]
    expected = centralize_parts(GALLERY["parts"], visibility, generated[0], **how)
    with np.load("out.npz") as found:
        assert set(found) == {"parts", "visibility", "ids", "cams"}
        assert equal(found["parts"], expected.parts)
        assert equal(found["visibility"], expected.visibility)
        assert equal(found["ids"], GALLERY["ids"])
        assert found["visibility"].sum() > visibility.sum() or not how.get("fill")


@pytest.mark.usefixtures("here")
def test_centralize_safetensors_and_without_visibility(capsys):
    pytest.importorskip("safetensors")
    parts = np.nan_to_num(GALLERY["parts"], nan=1)
    write_arrays("x.safetensors", {"parts": parts.astype(np.float16)})
    printed = run(capsys, "centralize", "x.safetensors", "-o", "out.safetensors")
    assert printed == "out.safetensors: 40 x 3 x 6, torch.float16\n"
    found, expected = read_features("out.safetensors"), centralize_parts(torch.tensor(parts.astype(np.float16)))
    assert torch.equal(found.parts, expected.parts)
    assert found.visibility.dtype == torch.bool
    assert found.visibility.all()


@pytest.mark.usefixtures("here")
def test_evaluate_one_set_against_itself(capsys):
    command = "evaluate --features gallery.npz --centralize --fill --k1 3 --exclude-cams --json"
    found = json.loads(run(capsys, *command.split()))["rows"]
    given, cams, ids = (GALLERY["parts"], GALLERY["visibility"]), GALLERY["cams"], GALLERY["ids"]
    plain, filled = (centralize_parts(*given, k1=3, exclude=cams, fill=fill) for fill in (False, True))
    sets = {"length 1": given, "centralized": plain, "centralized, filled": filled}
    assert found == [
        as_row(name, evaluate_parts(x[0], None, ids, None, cams, query_visibility=x[1])) for name, x in sets.items()
    ]
    assert len({row["mAP"] for row in found}) == 3


@pytest.mark.usefixtures("here")
def test_evaluate_before_and_after(capsys):
    np.savez("gallery.npz", **GALLERY, **GENERATED)
    before = [(side["parts"], side["visibility"]) for side in (QUERY, GALLERY)]
    generated = GENERATED["generated_parts"], 0.5, 3, 3
    how = {"generated_visibility": GENERATED["generated_visibility"], "alpha": 2.0, "exclude": GALLERY["cams"]}
    query = centralize_parts(*before[0], None, 0.5, 3, 3, alpha=2.0, exclude=QUERY["cams"])
    gallery, filled = (centralize_parts(*before[1], *generated, **how, fill=fill) for fill in (False, True))
    name = "centralized, with generated features"
    sets = {"length 1": before, name: (query, gallery), f"{name}, gallery filled": (query, filled)}
    expected = [as_row(each, scores_of(*sides)) for each, sides in sets.items()]
    expected += [as_row(f"{each}, re-ranked", reranked_scores(*sides)) for each, sides in sets.items()]
    options = "--centralize --fill --rerank --eta 0.5 --k1 3 --k2 3 --alpha 2 --exclude-cams --json"
    said = "pose2id evaluate: only gallery.npz holds 'generated_parts': the query, query.npz, is not fused\n"
    found = json.loads(run(capsys, "evaluate", *BOTH, *options.split(), err=said))
    assert found["rows"] == expected
    assert len({row["mAP"] for row in expected}) == 6  # so none can stand for another

    options = "--protocol all --metric cosine"
    *table, legend, ties = run(capsys, "evaluate", *BOTH, *options.split()).splitlines()[1:]
    assert legend == "length 1: the parts as given, only each scaled to that length"
    scores = scores_of(*before, protocol="all", metric="cosine")
    low, high = scores.span.mAP  # hidden parts leave pairs equally far, at inf
    assert ties == f"ties: in other orders of equal distances mAP is {100 * low:.2f} to {100 * high:.2f} (length 1)"
    assert [line.split() for line in table] == [["length", "1", *map(str, scores.cells())]]


@pytest.mark.usefixtures("here")
def test_rerank(capsys):
    options = {"k1": 7, "k2": 3, "lambda_value": 0.6}
    expected = rerank_parts(QUERY["parts"], GALLERY["parts"], QUERY["visibility"], GALLERY["visibility"], **options)
    command = ("rerank", *BOTH, "--k1", 7, "--k2", 3, "--rerank-lambda", 0.6)
    assert run(capsys, *command, "-o", "out.npy") == "out.npy: 16 x 40, float32\n"
    assert equal(np.load("out.npy"), expected)
    pytest.importorskip("safetensors")
    write_arrays("gallery.safetensors", GALLERY)  # the two files hold arrays of different kinds
    command = ("rerank", "--query", "query.npz", "--gallery", "gallery.safetensors", *command[5:])
    run(capsys, *command, "-o", "mixed.npy")
    assert equal(np.load("mixed.npy"), expected)
    found = json.loads(run(capsys, "evaluate", *command[1:5], "--centralize", "--json"))["rows"]
    assert found == json.loads(run(capsys, "evaluate", *BOTH, "--centralize", "--json"))["rows"]


@pytest.mark.usefixtures("here")
def test_density(capsys):
    gallery = GALLERY["visibility"].copy()
    gallery[:, 1] = False
    np.savez("gallery.npz", **(GALLERY | {"visibility": gallery}))
    np.savez("query.npz", **(QUERY | {"visibility": QUERY["visibility"] & [True, False, True]}))
    parts, ids = (np.concatenate([side[name] for side in (QUERY, GALLERY)]) for name in ("parts", "ids"))
    seen = np.concatenate([QUERY["visibility"], GALLERY["visibility"]]) & [True, False, True]
    expected = {name: part_density(parts.astype(float), ids, seen, variant=name) for name in ("paper", "released")}
    found = json.loads(run(capsys, "density", "query.npz", "gallery.npz", "--json"))
    for name, values in expected.items():
        assert found[name][1] is None
        assert found[name][::2] == values[::2].tolist()
    assert (found["rows"], found["identities"]) == (56, 8)
    head, paper, _ = run(capsys, "density", "query.npz", "gallery.npz").splitlines()
    assert head == "ID2 of each part, 56 rows, 8 identities; lower is denser"
    one, _, other = expected["paper"]
    assert paper == f"  paper     {one:.4f}  -       {other:.4f}   distance to the centre, mean over identities"


@pytest.mark.usefixtures("here")
def test_a_file_with_both(capsys):
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", **side, features=WHOLE[name])
    before = [(side["parts"], side["visibility"]) for side in (QUERY, GALLERY)]

    def said(command, where):
        return f"pose2id {command}: parts are used, not the features, of {where}; --whole takes the features\n"

    both = "query.npz and gallery.npz"
    used = json.loads(run(capsys, "evaluate", *BOTH, "--json", err=said("evaluate", both)))["rows"]
    assert used == [as_row("length 1", scores_of(*before))]
    whole = json.loads(run(capsys, "evaluate", *BOTH, "--json", "--whole"))["rows"]
    assert whole == [as_row("as given", evaluate_features(WHOLE["query"], WHOLE["gallery"], *LABELS))]

    run(capsys, "centralize", "query.npz", "-o", "a.npz", err=said("centralize", "query.npz"))
    with np.load("a.npz") as found:
        assert set(found) == {"parts", "visibility", "ids", "cams"}
    run(capsys, "centralize", "query.npz", "-o", "b.npz", "--whole")
    with np.load("b.npz") as found:
        assert set(found) == {"features", "ids", "cams"}
        assert equal(found["features"], centralize(WHOLE["query"]))

    run(capsys, "rerank", *BOTH, "-o", "a.npy", "-q")
    assert equal(np.load("a.npy"), rerank_parts(before[0][0], before[1][0], before[0][1], before[1][1]))
    run(capsys, "rerank", *BOTH, "-o", "b.npy", "--whole")
    assert equal(np.load("b.npy"), rerank(WHOLE["query"], WHOLE["gallery"]))
    found = json.loads(run(capsys, "density", "query.npz", "--whole", "--json"))
    assert found["paper"] == id_density(WHOLE["query"].astype(float), QUERY["ids"])
    assert len(json.loads(run(capsys, "density", "query.npz", "--json", "-q"))["paper"]) == 3


EVERY = {
    "centralize": ("centralize", "query.npz", "-o", "out.npz"),
    "density": ("density", "query.npz"),
    "rerank": ("rerank", *BOTH, "-o", "out.npz"),
    "evaluate": ("evaluate", *BOTH),
    "evaluate before and after": ("evaluate", *BOTH, "--centralize"),
}


SPOILT = np.ones((16, 3, 6), np.float32)
SPOILT[5, 2, 0] = np.nan
BAD = {
    "NaN where visible": (
        {"visibility": np.ones((16, 3), bool), "parts": SPOILT},
        "parts must be finite where visible, received NaN or inf in 1 part(s): row 5 part 2; ",
    ),
    "another shape": (
        {"visibility": np.ones((16, 4), bool)},
        "visibility must have shape (16, 3), one entry per part, received (16, 4)",
    ),
    "out of range": (
        {"visibility": np.full((16, 3), 1.5)},
        "visibility must hold bools, or floats from 0 to 1, received 1.5 at (0, 0)",
    ),
    "integers": (
        {"visibility": np.full((16, 3), 2)},
        "visibility must hold bools, 0 and 1, or floats from 0 to 1, received the integer 2",
    ),
    "parts of integers": ({"parts": np.ones((16, 3, 6), int)}, "parts must hold float16, bfloat16, float32 or float64"),
    "a plain matrix": (
        {"parts": np.ones((16, 18))},
        "parts must have shape (N, P, D), one row for each image, received",
    ),
}


@pytest.mark.parametrize("command", EVERY.values(), ids=EVERY.keys())
@pytest.mark.parametrize(("arrays", "words"), BAD.values(), ids=BAD.keys())
@pytest.mark.usefixtures("here")
def test_bad_parts_are_told_in_one_line(capsys, command, arrays, words):
    np.savez("query.npz", **(QUERY | arrays))
    assert refuse(capsys, *command).startswith(f"query.npz: {words}")


@pytest.mark.usefixtures("here")
def test_bad_generated_parts(capsys):
    centralize_it, after = EVERY["centralize"], EVERY["evaluate before and after"]
    for arrays, words in (
        (
            {"generated_parts": np.ones((16, 2, 3, 5), np.float32)},
            "generated_parts must have shape (16, M, 3, 6) with M",
        ),
        (
            {"generated_parts": np.ones((16, 3, 6), np.float32)},
            "generated_parts must have shape (N, M, P, D), received",
        ),
        (
            {"generated_parts": np.ones((16, 1, 3, 6)), "generated_visibility": np.ones((16, 3))},
            "generated_visibility must have shape (16, 1, 3), one entry per part, received (16, 3)",
        ),
    ):
        np.savez("query.npz", **QUERY, **arrays)
        for command in (centralize_it, after):
            assert refuse(capsys, *command).startswith(f"query.npz: {words}")
        run(capsys, *EVERY["evaluate"])  # which has no use for it


@pytest.mark.usefixtures("here")
def test_what_does_not_go_with_parts(capsys):
    for command in ("centralize", "rerank", "evaluate before and after"):
        message = refuse(capsys, *EVERY[command], "--engine", "pivots")
        assert message == (
            "--engine pivots searches no parts, which query.npz holds; one engine does, leave --engine out"
        )
    assert refuse(capsys, "evaluate", *BOTH, "--fill") == "--fill goes with --centralize"
    words = "would hold the parts without their name and visibility; write .npz or .safetensors"
    for name in ("out.npy", "out.pt"):
        assert refuse(capsys, "centralize", "query.npz", "-o", name) == f"output {name} {words}"
    words = "it holds: cams, ids, parts, visibility; store it under that name, as in np.savez(..., features=...)"
    for command in EVERY.values():
        assert refuse(capsys, *command, "--whole") == f"query.npz must hold an array 'features', {words}"
    np.savez("query.npz", features=WHOLE["query"], ids=QUERY["ids"])
    for command in (EVERY["centralize"], EVERY["evaluate before and after"]):
        np.savez("gallery.npz", features=WHOLE["gallery"], ids=GALLERY["ids"])
        assert refuse(capsys, *command, "--fill") == "--fill needs an array 'parts' in query.npz, it holds none"
    with pytest.raises(SystemExit):
        main(["centralize", "query.npz", "-o", "out.npz", "--fill", "--whole"])
    assert "--whole: not allowed with argument --fill" in capsys.readouterr().err


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.usefixtures("here")
def test_advice_where_memory_is_short_is_about_parts(capsys, monkeypatch, command):
    def fail(*_, **__):
        raise MemoryError("too much")

    for name in ("centralize_parts", "centralize", "rerank_parts", "rerank", "run_study", "part_density", "id_density"):
        monkeypatch.setattr(f"pose2id.cli.features.{name}", fail)
    message = refuse(capsys, *EVERY[command])
    assert message.startswith("out of memory (too much): ")
    assert "where files hold 'features' too, --whole needs less" in message
    assert "engine" not in message
    assert "rerank_top" not in message
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", features=WHOLE[name], ids=side["ids"], cams=side["cams"])
    message = refuse(capsys, *EVERY[command])
    assert ("another --engine may need less" in message) == (command != "density")
    assert "--whole" not in message


@pytest.mark.usefixtures("here")
def test_files_that_do_not_fit(capsys):
    two = (EVERY["rerank"], EVERY["evaluate"], ("density", "query.npz", "gallery.npz"))
    np.savez("gallery.npz", features=WHOLE["gallery"], ids=GALLERY["ids"], cams=GALLERY["cams"])
    for command in two:
        words = "query.npz holds 'parts' and gallery.npz does not; take all from one model"
        assert refuse(capsys, *command) == words
    np.savez("query.npz", **QUERY, features=WHOLE["query"])
    for command in two:
        words = "query.npz holds 'parts' and gallery.npz does not; pass --whole to use the 'features' of all"
        assert refuse(capsys, *command) == words
        run(capsys, *command, "--whole")
    np.savez("query.npz", **QUERY)
    np.savez("gallery.npz", parts=GALLERY["parts"][:, :2], visibility=GALLERY["visibility"][:, :2], ids=GALLERY["ids"])
    for command in (("rerank", *BOTH, "-o", "other.npz"), two[1]):
        words = "must hold parts of equal P and D, received (16, 3, 6) and (40, 2, 6); take both from one model"
        assert refuse(capsys, *command) == f"query.npz and gallery.npz {words}"
    words = "must have equal P and D and ids of one kind, received 3 x 6 columns and int64 ids, 2 x 6 columns and int64"
    assert refuse(capsys, *two[2]).startswith(f"query.npz, gallery.npz {words}")


# --- the recipe of the documentation ------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
def test_the_recipe(tmp_path, monkeypatch, capsys, masked):
    monkeypatch.chdir(tmp_path)
    recipe = PAGE.partition("## BPBReID and KPR\n")[2].partition("\n## ")[0]
    save, add = re.findall(r"^```py\n(.*?)^```$", recipe, re.M | re.S)
    commands = re.findall(r"^pose2id (.*)$", recipe, re.M)
    assert [command.split()[0] for command in commands] == ["evaluate", "centralize", "rerank", "density"]
    names = {"qf": torch.tensor(np.nan_to_num(QUERY["parts"])), "gf": torch.tensor(np.nan_to_num(GALLERY["parts"]))}
    for letter, side in (("q", QUERY), ("g", GALLERY)):
        names[f"{letter}f_parts_visibility"] = torch.tensor(side["visibility"]) if masked else None
        names |= {f"{letter}_pids": side["ids"], f"{letter}_camids": side["cams"]}
    exec(compile(save, "recipe", "exec"), names)
    if masked:
        names["features_of_poses"] = [torch.tensor(QUERY["parts"] * 0 + m).nan_to_num() for m in (1, 2)]
        names["visibility_of_poses"] = [torch.tensor(QUERY["visibility"])] * 2
        exec(compile(add, "recipe", "exec"), names)
        found = read_features("query.npz")
        assert found.generated_parts.shape == (16, 2, 3, 6)
        assert found.generated_visibility[:, 1].tolist() == QUERY["visibility"].tolist()
    for command in commands:
        assert main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    sides = [(np.nan_to_num(s["parts"]), s["visibility"] if masked else None) for s in (QUERY, GALLERY)]
    assert " ".join(["length 1", *map(str, scores_of(*sides).cells())]) in re.sub(" +", " ", out)
    assert Path("distances.npy").exists()
