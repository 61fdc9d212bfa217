"""The command line: the functions' values, one line for bad input, nothing half written."""

import importlib.metadata
import io
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support.faiss import STATES
from support.starting import run as run_forked

import pose2id
from pose2id import centralize, evaluate, evaluate_features, id_density, rerank
from pose2id.cli import choices, features, main
from pose2id.cli.arguments import DEMO_FOLDER, build_parser
from pose2id.cli.doctor import read_extras
from pose2id.evaluation import METRICS, PROTOCOLS
from pose2id.files import SIDES
from pose2id.ipg.folders import LAYOUTS
from pose2id.neighbors import ENGINES, _exact, choose_engine
from pose2id.neighbors.engines import Engine
from pose2id.programs import demo

RNG = np.random.default_rng(0)
IDS = np.arange(8)
CENTRES = RNG.standard_normal((8, 6)) * 2
COMMANDS = (
    *("demo", "extract", "centralize", "density", "rerank", "evaluate", "tune", "report", "gallery"),
    *("generate", "poses", "weights", "train", "ipg-train"),
    "synthetic",
    "doctor",
)
not_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")


def a_set(repeats, first_camera):
    """Features of 8 identities, seen `repeats` times each, and their labels."""
    ids = np.tile(IDS, repeats)
    features = (CENTRES[ids] + RNG.standard_normal((len(ids), 6))).astype(np.float32)
    return {"features": features, "ids": ids, "cams": np.repeat(np.arange(repeats) + first_camera, len(IDS))}


QUERY, GALLERY = a_set(2, 0), a_set(5, 1)
LABELS = (QUERY["ids"], GALLERY["ids"], QUERY["cams"], GALLERY["cams"])
VIEWS = RNG.standard_normal((16, 3, 6)).astype(np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with query.npz and gallery.npz."""
    monkeypatch.chdir(tmp_path)
    np.savez("query.npz", **QUERY)
    np.savez("gallery.npz", **GALLERY)
    return tmp_path


BOTH = ("--query", "query.npz", "--gallery", "gallery.npz")


def run(capsys, *arguments, err=""):
    """What a command that must succeed prints to stdout."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, err)
    return captured.out


def refuse(capsys, *arguments):
    """The one line that a command prints to stderr on bad input, without its beginning; nothing is written."""
    before = contents()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith(f"pose2id {arguments[0]}: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert contents() == before
    return captured.err.removeprefix(f"pose2id {arguments[0]}: ").rstrip("\n")


def contents():
    """Every file of the working folder, hidden ones too, byte for byte."""
    return {
        path.relative_to(Path.cwd()): path.read_bytes() if os.access(path, os.R_OK) else None
        for path in Path.cwd().rglob("*")
        if path.is_file()
    }


def start(*arguments, buffered=True, **options):
    """Start the command line as a process of its own."""
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "" if buffered else "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pose2id.cli", *map(str, arguments)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def save_tensors(path, **arrays):
    pytest.importorskip("safetensors.torch").save_file({name: torch.as_tensor(a) for name, a in arrays.items()}, path)


def load_tensors(path):
    return pytest.importorskip("safetensors.torch").load_file(path)


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


# --- centralize ---------------------------------------------------------------------------------------------------

METHOD_OPTIONS = {
    "": {},
    "--k1 3 --k2 4": {"k1": 3, "k2": 4},
    "--k1 0": {"k1": 0},
    "--eta 0.5": {"eta": 0.5},
    "--alpha 4 --exclude-cams": {"alpha": 4.0, "exclude": QUERY["cams"]},
    "--no-normalize": {"normalize": False},
    "--engine exact -q": {"engine": "exact"},
}


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("options", METHOD_OPTIONS)
def test_centralize_writes_what_the_function_gives(here, capsys, options, views):
    more = {"generated": VIEWS} if views else {}
    np.savez("in.npz", **QUERY, **more)
    out = run(capsys, "centralize", "in.npz", "-o", "out.npz", *options.split())
    assert out == "out.npz: 16 x 6, float32\n"
    written = load("out.npz")
    assert set(written) == set(QUERY)
    assert written["features"].dtype == np.float32
    expected = centralize(QUERY["features"], more.get("generated"), **METHOD_OPTIONS[options])
    np.testing.assert_array_equal(written["features"], expected)
    np.testing.assert_array_equal(written["ids"], QUERY["ids"])
    np.testing.assert_array_equal(written["cams"], QUERY["cams"])
    assert sorted(path.name for path in here.iterdir()) == ["gallery.npz", "in.npz", "out.npz", "query.npz"]


@pytest.mark.usefixtures("here")
def test_centralize_with_faiss(capsys):
    pytest.importorskip("faiss")
    run(capsys, "centralize", "query.npz", "-o", "out.npz", "--engine", "faiss")
    np.testing.assert_array_equal(load("out.npz")["features"], centralize(QUERY["features"]))


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if not engine.exact])
@pytest.mark.usefixtures("here")
def test_centralize_with_approximate_engines(capsys, monkeypatch, engine):
    """The engine that is named is the one that is asked, and what it finds is what is added."""
    asked = []

    def search(search):
        asked.append(engine)
        indices, distances = _exact.search(search)
        return indices.roll(1, 0), distances  # of another row: as no other engine answers

    monkeypatch.setitem(sys.modules, "rolling", SimpleNamespace(search=search))
    monkeypatch.setitem(ENGINES, engine, Engine("rolling", "search", exact=False))
    run(capsys, "centralize", "query.npz", "-o", "out.npz", "--engine", engine)
    written = load("out.npz")["features"]
    assert asked == [engine]
    np.testing.assert_array_equal(written, centralize(QUERY["features"], engine=engine))
    assert np.abs(written - centralize(QUERY["features"])).max() > 0.01


@pytest.mark.usefixtures("here")
def test_help_names_every_engine(capsys):
    with pytest.raises(SystemExit):
        main(["rerank", "--help"])
    assert f"--engine {{auto,{','.join(ENGINES)}}}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("here")
def test_centralize_keeps_string_ids(capsys):
    names = np.array([f"person {i}" for i in QUERY["ids"]])
    np.savez("in.npz", features=QUERY["features"], ids=names)
    run(capsys, "centralize", "in.npz", "-o", "out.npz")
    assert load("out.npz")["ids"].tolist() == names.tolist()


@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8"])
@pytest.mark.usefixtures("here")
def test_centralize_keeps_the_dtype(capsys, dtype):
    rows = QUERY["features"].astype(dtype)
    np.save("in.npy", rows)
    run(capsys, "centralize", "in.npy", "-o", "out.npy")
    written = np.load("out.npy")
    assert written.dtype.newbyteorder("=") == rows.dtype.newbyteorder("=")
    np.testing.assert_array_equal(written, centralize(rows))


@pytest.mark.usefixtures("here")
def test_centralize_pt(capsys):
    rows = torch.tensor(QUERY["features"]).half()
    torch.save(rows, "in.pt")
    assert run(capsys, "centralize", "in.pt", "-o", "out.pt") == "out.pt: 16 x 6, torch.float16\n"
    assert torch.equal(torch.load("out.pt", weights_only=True), centralize(rows))


@pytest.mark.usefixtures("here")
def test_centralize_bfloat16(capsys):
    rows = torch.tensor(QUERY["features"]).bfloat16()
    save_tensors("in.safetensors", features=rows, ids=QUERY["ids"], cams=QUERY["cams"])
    run(capsys, "centralize", "in.safetensors", "-o", "out.safetensors", "--exclude-cams")
    written = load_tensors("out.safetensors")
    assert written["features"].dtype == torch.bfloat16
    assert torch.equal(written["features"], centralize(rows, exclude=QUERY["cams"]))
    assert written["ids"].tolist() == QUERY["ids"].tolist()
    run(capsys, "centralize", "in.safetensors", "-o", "out.pt")
    assert torch.equal(torch.load("out.pt", weights_only=True), centralize(rows))
    message = refuse(capsys, "centralize", "in.safetensors", "-o", "out.npz")
    assert message == "features is bfloat16, which numpy files cannot hold; write .safetensors or .pt"


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.pt", "x.safetensors"])
@pytest.mark.usefixtures("here")
def test_centralize_over_its_own_input(capsys, name):
    rows = QUERY["features"]
    writers = {
        ".npz": lambda: np.savez(name, features=rows),
        ".npy": lambda: np.save(name, rows),
        ".pt": lambda: torch.save(torch.tensor(rows), name),
        ".safetensors": lambda: save_tensors(name, features=rows),
    }
    writers[Path(name).suffix]()
    assert "exists already" in refuse(capsys, "centralize", name, "-o", name)
    run(capsys, "centralize", name, "-o", name, "--overwrite")
    run(capsys, "centralize", name, "-o", "twice.npy", "--k1", 0)
    np.testing.assert_allclose(np.load("twice.npy"), centralize(rows), rtol=0, atol=1e-6)


# --- density ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_density(capsys):
    features = np.concatenate([QUERY["features"], GALLERY["features"]]).astype(np.float64)
    ids = np.concatenate([QUERY["ids"], GALLERY["ids"]])
    paper, released = (id_density(features, ids, variant=variant) for variant in ("paper", "released"))
    found = json.loads(run(capsys, "density", "query.npz", "gallery.npz", "--json"))
    assert found == {"paper": paper, "released": released, "rows": 56, "identities": 8}
    table = run(capsys, "density", "query.npz", "gallery.npz")
    assert re.findall(r"^  (\w+) +(\d\.\d{4}) ", table, re.MULTILINE) == [
        ("paper", f"{paper:.4f}"),
        ("released", f"{released:.4f}"),
    ]
    assert "56 rows, 8 identities" in table


@pytest.mark.usefixtures("here")
def test_density_of_different_kinds_of_file(capsys):
    save_tensors("gallery.safetensors", **GALLERY)
    mixed = json.loads(run(capsys, "density", "query.npz", "gallery.safetensors", "--json"))
    assert mixed == json.loads(run(capsys, "density", "query.npz", "gallery.npz", "--json"))


@pytest.mark.usefixtures("here")
def test_density_leaves_out_junk(capsys):
    ids = np.where(np.arange(40) % 4 == 0, -1, GALLERY["ids"])
    np.savez("x.npz", features=GALLERY["features"], ids=ids.astype(float)[None], cams=np.zeros(3))
    rows, kept = GALLERY["features"].astype(np.float64), ids != -1
    found = json.loads(run(capsys, "density", "x.npz", "--json"))
    assert found["paper"] == pytest.approx(id_density(rows[kept], ids[kept]), rel=1e-9)
    assert (found["rows"], found["identities"]) == (30, len(np.unique(ids[kept])))
    assert f"30 rows, {found['identities']} identities, without 10 rows of junk; lower" in run(
        capsys, "density", "x.npz"
    )
    counted = json.loads(run(capsys, "density", "x.npz", "--json", "--junk"))
    assert counted["paper"] == id_density(rows, ids, junk=True)
    assert (counted["rows"], counted["identities"]) == (40, found["identities"] + 1)
    np.savez("x.npz", features=GALLERY["features"], ids=["-1"] * 40)
    assert "all 40 are junk" in refuse(capsys, "density", "x.npz")


@pytest.mark.parametrize("name", ["ids", "cams"])
@pytest.mark.usefixtures("here")
def test_labels_of_other_programs(capsys, name):
    """Whole floats and columns give what the integers give, and come out as integers."""
    expected = run(capsys, "evaluate", *BOTH, "--centralize", "--exclude-cams")
    np.savez("gallery.npz", **(GALLERY | {name: GALLERY[name].astype(np.float32)[:, None]}))
    assert run(capsys, "evaluate", *BOTH, "--centralize", "--exclude-cams") == expected
    run(capsys, "centralize", "gallery.npz", "-o", "out.npz")
    assert (load("out.npz")[name].dtype, load("out.npz")[name].tolist()) == (np.int64, GALLERY[name].tolist())


@pytest.mark.usefixtures("here")
def test_cameras_that_the_protocol_does_not_know(capsys):
    for name, side in (("query.npz", QUERY), ("gallery.npz", GALLERY)):
        np.savez(name, **(side | {"cams": side["cams"] - side["cams"].min()}))
    message = refuse(capsys, "evaluate", *BOTH, "--protocol", "sysu-mm01")
    assert (
        "cams must be cameras as protocol 'sysu-mm01' numbers them, each one of 1, 2, 3, 4, 5, 6, received 0" in message
    )


# --- rerank -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ("", {}),
        ("--k1 7 --k2 3 --lambda 0.5", {"k1": 7, "k2": 3, "lambda_value": 0.5}),
        ("--engine exact", {"engine": "exact"}),
    ],
)
@pytest.mark.usefixtures("here")
def test_rerank_writes_what_the_function_gives(capsys, options, keywords):
    out = run(capsys, "rerank", *BOTH, "-o", "out.npz", *options.split())
    assert out == "out.npz: 16 x 40, float32\n"
    written = load("out.npz")
    assert set(written) == {"distances"}
    np.testing.assert_array_equal(written["distances"], rerank(QUERY["features"], GALLERY["features"], **keywords))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8"])
@pytest.mark.usefixtures("here")
def test_rerank_of_different_kinds_of_file(capsys, dtype):
    np.save("query.npy", QUERY["features"].astype(dtype))
    gallery = torch.tensor(GALLERY["features"]).to(torch.float64 if dtype == "f8" else torch.float32)
    torch.save(gallery, "gallery.pt")
    run(capsys, "rerank", "--query", "query.npy", "--gallery", "gallery.pt", "-o", "out.npy")
    expected = rerank(QUERY["features"].astype(dtype), gallery.numpy().astype(dtype))
    np.testing.assert_array_equal(np.load("out.npy"), expected)


# --- evaluate -----------------------------------------------------------------------------------------------------


def as_row(name, scores):
    ranks = {f"rank{k}": scores.rank(k) for k in (1, 5, 10)}
    counts = {"valid_queries": scores.valid_queries, "tied_rank1": scores.tied_rank1}
    return {"name": name, "mAP": scores.mAP, "mINP": scores.mINP} | ranks | counts


def before_and_after(protocol="market1501", metric="euclidean", method=(), reranking=()):
    """The rows of evaluate --centralize --rerank on features of any length, from the functions."""
    q, g = QUERY["features"], GALLERY["features"]
    options, method = {"protocol": protocol, "metric": metric}, dict(method)
    cams = [{"exclude": side["cams"]} if method.pop("exclude_cams", None) else {} for side in (QUERY, GALLERY)]
    after = [centralize(x, **method, **cam) for x, cam in zip((q, g), cams, strict=True)]
    sets = {"as given": (q, g), "length 1": [centralize(x, k1=0) for x in (q, g)], "centralized": after}
    for name, (x, y) in sets.items():
        yield as_row(name, evaluate_features(x, y, *LABELS, **options))
    for name, (x, y) in sets.items():
        distances = rerank(x, y, **dict(reranking))
        yield as_row(f"{name}, re-ranked", evaluate(distances, *LABELS, protocol=protocol))


@pytest.mark.parametrize("protocol", ["market1501", "all"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.usefixtures("here")
def test_evaluate_before_and_after(capsys, protocol, metric):
    arguments = (*BOTH, "--centralize", "--rerank", "--protocol", protocol, "--metric", metric)
    expected = list(before_and_after(protocol, metric))
    found = json.loads(run(capsys, "evaluate", *arguments, "--json"))
    assert found == {"protocol": protocol, "metric": metric, "rows": expected}
    # The rows differ, so none can stand for another; only the cosine does not care for length.
    assert len({row["mAP"] for row in expected}) == (6 if metric == "euclidean" else 5)

    head, *lines, legend, ties = run(capsys, "evaluate", *arguments).splitlines()
    assert re.fullmatch(
        r"ties: in other orders of equal distances mAP is (\d+\.\d\d to \d+\.\d\d \([\w ,-]+\)(, )?)+", ties
    )
    assert legend == "length 1: the rows as given, only each scaled to that length, as centralizing leaves them"
    assert head.split() == ["mAP", "mINP", "R1", "R5", "R10", "queries", "tied", "R1"]
    for line, row in zip(lines, expected, strict=True):
        assert line.startswith(row["name"] + " ")
        scores = [f"{100 * row[name]:.2f}" for name in ("mAP", "mINP", "rank1", "rank5", "rank10")]
        assert line.removeprefix(row["name"]).split() == [*scores, str(row["valid_queries"]), str(row["tied_rank1"])]


@pytest.mark.usefixtures("here")
def test_evaluate_passes_every_option_on(capsys):
    method, reranking = {"k1": 3, "k2": 4, "alpha": 2.0, "eta": 0.5}, {"k1": 7, "k2": 3, "lambda_value": 0.6}
    options = "--k1 3 --k2 4 --alpha 2 --eta 0.5 --rerank-k1 7 --rerank-k2 3 --rerank-lambda 0.6 --engine exact"
    found = json.loads(run(capsys, "evaluate", *BOTH, "--centralize", "--rerank", *options.split(), "--json"))
    assert found["rows"] == list(before_and_after(method=method, reranking=reranking))
    assert found["rows"] != list(before_and_after())


@pytest.mark.usefixtures("here")
def test_evaluate_with_neighbours_from_other_cameras_and_generated_features(capsys):
    np.savez("query.npz", **QUERY, generated=VIEWS)
    err = "pose2id evaluate: only query.npz holds 'generated': the gallery, gallery.npz, is not fused\n"
    found = json.loads(run(capsys, "evaluate", *BOTH, "--centralize", "--exclude-cams", "--json", err=err))["rows"]
    q = centralize(QUERY["features"], VIEWS, exclude=QUERY["cams"])
    g = centralize(GALLERY["features"], exclude=GALLERY["cams"])
    assert found[2] == as_row("centralized, with generated features", evaluate_features(q, g, *LABELS))
    for options, name in (
        (("--rerank",), "centralized, with generated features, re-ranked"),
        (("--rerank", "--eta", 0), "centralized, re-ranked"),
    ):
        told = "" if "--eta" in options else err
        found = json.loads(run(capsys, "evaluate", *BOTH, "--centralize", *options, "--json", err=told))["rows"]
        assert found[-1]["name"] == name


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("", ["as given"]),
        ("--centralize", ["as given", "length 1", "centralized"]),
        ("--rerank", ["as given", "as given, re-ranked"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_evaluate_prints_what_was_asked_for(capsys, options, names):
    found = json.loads(run(capsys, "evaluate", *BOTH, *options.split(), "--json"))
    expected = {row["name"]: row for row in before_and_after()}
    assert found["rows"] == [expected[name] for name in names]


@pytest.mark.usefixtures("here")
def test_evaluate_leaves_out_length_1_where_it_says_nothing_new(capsys):
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", **(side | {"features": centralize(side["features"], k1=0)}))
    found = json.loads(run(capsys, "evaluate", *BOTH, "--centralize", "--json"))["rows"]
    assert [row["name"] for row in found] == ["as given", "centralized"]


@pytest.mark.usefixtures("here")
def test_evaluate_string_ids_and_no_cameras(capsys):
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", features=side["features"], ids=np.array([f"p{i}" for i in side["ids"]]))
    found = json.loads(run(capsys, "evaluate", *BOTH, "--json", "-q"))["rows"]
    scores = evaluate_features(QUERY["features"], GALLERY["features"], QUERY["ids"], GALLERY["ids"])
    assert found == [as_row("as given", scores)]


@pytest.mark.parametrize("lacking", SIDES)
@pytest.mark.parametrize("command", ["evaluate --centralize", "tune --ks 0", "report -o page.html --no-rerank"])
@pytest.mark.usefixtures("here")
def test_generated_features_of_one_side_are_told(capsys, command, lacking):
    if command.startswith("report"):
        pytest.importorskip("matplotlib")
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        more = {} if name == lacking else {"generated": side["features"][:, None]}
        np.savez(f"{name}.npz", **side, **more)
    having = next(side for side in SIDES if side != lacking)
    words, line = command.split(), f"only {having}.npz holds 'generated': the {lacking}, {lacking}.npz, is not fused\n"
    assert main([words[0], *BOTH, *words[1:], "-q"]) == 0
    assert capsys.readouterr().err == ""
    again = ["--overwrite"] * (words[0] == "report")
    assert main([words[0], *BOTH, *words[1:], *again]) == 0
    assert capsys.readouterr().err == f"pose2id {words[0]}: {line}"
    without = ["--etas", "0"] if words[0] == "tune" else ["--eta", "0"]
    assert main([words[0], *BOTH, *words[1:], *again, *without]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("here")
def test_generated_features_of_one_side_of_one_file_are_told(capsys):
    sides = {
        f"{name}_{key}": each for name, side in (("query", QUERY), ("gallery", GALLERY)) for key, each in side.items()
    }
    np.savez("both.npz", **sides, query_generated=VIEWS)
    assert main(["evaluate", "--query", "both.npz", "--gallery", "both.npz", "--centralize"]) == 0
    line = "only the query of both.npz holds 'generated': the gallery is not fused\n"
    assert capsys.readouterr().err == f"pose2id evaluate: {line}"


@pytest.mark.parametrize("protocol", choices.PROTOCOLS)
@pytest.mark.usefixtures("here")
def test_evaluate_says_that_no_camera_rule_is_applied(capsys, protocol):
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", features=side["features"], ids=side["ids"])
    command = ["evaluate", *BOTH, "--protocol", protocol]
    quiet = run(capsys, *command, "-q")
    assert main(command) == 0
    line = "pose2id evaluate: no 'cams' in query.npz and gallery.npz: nothing is removed for its camera\n"
    assert capsys.readouterr() == (quiet, line if PROTOCOLS[protocol].same_camera_is_junk else "")


@pytest.mark.parametrize("protocol", choices.PROTOCOLS)
@pytest.mark.usefixtures("here")
def test_evaluate_one_set_against_itself(capsys, protocol):
    features, ids, cams = (GALLERY[name] for name in ("features", "ids", "cams"))
    command = ("evaluate", "--features", "gallery.npz", "--centralize", "--k1", 3, "--protocol", protocol, "--json")
    found = json.loads(run(capsys, *command))["rows"]
    sets = {"as given": features, "length 1": centralize(features, k1=0), "centralized": centralize(features, k1=3)}
    expected = {name: evaluate_features(x, None, ids, None, cams, protocol=protocol) for name, x in sets.items()}
    assert found == [as_row(name, scores) for name, scores in expected.items()]
    assert len({row["mAP"] for row in found}) == 3


@pytest.mark.usefixtures("here")
def test_evaluate_one_set_without_cameras(capsys):
    np.savez("alone.npz", features=GALLERY["features"], ids=GALLERY["ids"])
    assert main(["evaluate", "--features", "alone.npz"]) == 0
    assert "no 'cams' in alone.npz: nothing is removed for its camera\n" in capsys.readouterr().err
    assert refuse(capsys, "evaluate", "--features", "alone.npz", "--rerank") == (
        "--rerank goes with --query and --gallery: re-ranking needs two sets"
    )


@pytest.mark.usefixtures("here")
def test_evaluate_different_kinds_of_file(capsys):
    save_tensors("gallery.safetensors", **GALLERY)
    arguments = ("--query", "query.npz", "--gallery", "gallery.safetensors", "--centralize", "--rerank", "--json")
    found, expected = json.loads(run(capsys, "evaluate", *arguments))["rows"], list(before_and_after())
    assert [row["name"] for row in found] == [row["name"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-9)


# --- outputs ------------------------------------------------------------------------------------------------------

WRITING = {
    "centralize": ("centralize", "query.npz"),
    "rerank": ("rerank", *BOTH),
}


@pytest.fixture(params=WRITING.values(), ids=WRITING.keys())
def writing(request, here):
    """A command that writes, without its output, and the folder."""
    return request.param, here


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".safetensors"])
def test_existing_output_is_refused_and_then_replaced(writing, capsys, suffix):
    command, here = writing
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    (here / f"out{suffix}").write_bytes(b"mine")
    message = refuse(capsys, *command, "-o", f"out{suffix}")
    assert message == f"output out{suffix} exists already; name another or pass --overwrite"
    run(capsys, *command, "-o", f"out{suffix}", "--overwrite")
    assert (here / f"out{suffix}").read_bytes() != b"mine"
    assert len(list(here.iterdir())) == 3


def test_output_is_refused_before_anything_is_read(writing, capsys):
    command, here = writing
    (here / "query.npz").write_bytes(b"")
    (here / "out.npz").write_bytes(b"mine")
    (here / "folder.npz").mkdir()
    assert "out.npz exists already" in refuse(capsys, *command, "-o", "out.npz")
    assert "folder.npz exists already" in refuse(capsys, *command, "-o", "folder.npz", "--overwrite")
    assert "output out.csv must be a .npz, .npy, .safetensors, .pt file" in refuse(capsys, *command, "-o", "out.csv")
    message = refuse(capsys, *command, "-o", "nowhere/out.npz")
    assert message == "output nowhere/out.npz must be in an existing folder, nowhere is none"


def test_a_failure_in_the_middle_of_writing(writing, capsys, monkeypatch):
    command, here = writing

    def savez(path, **_arrays):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (here / "out.npz").write_bytes(b"mine")
    monkeypatch.setattr(np, "savez", savez)
    message = refuse(capsys, *command, "-o", "out.npz", "--overwrite")
    assert message == "out.npz cannot be written: [Errno 28] No space left on device"


def test_a_failure_before_writing(writing, capsys):
    command, here = writing
    (here / "out.npz").write_bytes(b"mine")
    np.savez("query.npz", features=np.full((3, 6), np.nan))
    refuse(capsys, *command, "-o", "out.npz", "--overwrite")


@not_root
def test_output_in_a_folder_without_permission(writing, capsys):
    command, here = writing
    (here / "locked").mkdir()
    (here / "locked").chmod(0o500)
    message = refuse(capsys, *command, "-o", "locked/out.npz")
    assert message.startswith("locked/out.npz cannot be written: ")
    assert "Permission denied" in message


# --- bad input ----------------------------------------------------------------------------------------------------

READING = {
    "centralize": lambda name: ("centralize", name, "-o", "out.npz"),
    "density": lambda name: ("density", "gallery.npz", name),
    "rerank": lambda name: ("rerank", "--query", "query.npz", "--gallery", name, "-o", "out.npz"),
    "evaluate": lambda name: ("evaluate", "--query", name, "--gallery", "gallery.npz"),
    "evaluate before and after": lambda name: (
        *("evaluate", "--query", "query.npz", "--gallery", name),
        *("--centralize", "--rerank"),
    ),
}


@pytest.fixture(params=READING.values(), ids=READING.keys())
def reading(request, here):  # noqa: ARG001  it makes the files
    """A command that reads a file of a given name among good ones."""
    return request.param


def test_missing_file(reading, capsys):
    assert refuse(capsys, *reading("none.npz")) == "none.npz is not a file"


def test_folder_instead_of_file(reading, capsys):
    Path("folder.npz").mkdir()
    assert refuse(capsys, *reading("folder.npz")) == "folder.npz is not a file"


def test_wrong_suffix(reading, capsys):
    Path("x.csv").write_text("1,2\n")
    message = refuse(capsys, *reading("x.csv"))
    assert message == "x.csv must be a .npz, .npy, .safetensors, .pt, .pth, .mat file, received suffix '.csv'"


def test_missing_features(reading, capsys):
    np.savez("x.npz", embeddings=GALLERY["features"], ids=GALLERY["ids"])
    words = "it holds: embeddings, ids; store it under that name, as in np.savez(..., features=...)"
    assert refuse(capsys, *reading("x.npz")) == f"x.npz must hold an array 'features', {words}"


@pytest.mark.parametrize("command", ["density", "evaluate", "evaluate before and after"])
@pytest.mark.usefixtures("here")
def test_missing_ids(capsys, command):
    np.savez("x.npz", features=GALLERY["features"], cams=GALLERY["cams"])
    message = refuse(capsys, *READING[command]("x.npz"))
    words = "it holds: cams, features; store it under that name, as in np.savez(..., ids=...)"
    assert message == f"x.npz must hold an array 'ids', {words}"
    np.savez("x.npz", features=GALLERY["features"], paths=GALLERY["ids"].astype(str))  # as extract writes
    message = refuse(capsys, *READING[command]("x.npz"))
    assert message.endswith("as in np.savez(..., ids=...); or extract with --names or --dataset")
    torch.save(torch.tensor(GALLERY["features"]), "x.pt")
    np.save("x.npy", GALLERY["features"])
    for name in ("x.pt", "x.npy"):
        message = refuse(capsys, *READING[command](name))
        only = f"a {name[1:]} file holds features only, use .npz: np.savez(..., features=..., ids=...); "
        only += "or give a file of ids, text, .csv or .npy (--help has the option)"
        assert message == f"{name} must hold an array 'ids', it holds: features; {only}"


def broken(good, index, value):
    result = good.copy()
    result[index] = value
    return result


BAD_FEATURES = {
    "NaN": (broken(GALLERY["features"], (3, 1), np.nan), "finite, received NaN or inf in 1 row(s): 3"),
    "inf": (broken(GALLERY["features"], (7, 0), np.inf), "finite, received NaN or inf in 1 row(s): 7"),
    "1-D": (GALLERY["features"][:, 0], "shape ("),
    "3-D": (GALLERY["features"][:, None], "shape ("),
    "0-D": (np.float32(1), "shape ("),
    "no columns": (GALLERY["features"][:, :0], "at least one column"),
    "integers": (GALLERY["features"].astype(int), "received dtype int64; convert to float32 first"),
    "strings": (GALLERY["features"].astype(str), "received dtype <U"),
}


@pytest.mark.parametrize(("features", "words"), BAD_FEATURES.values(), ids=BAD_FEATURES.keys())
def test_bad_features(reading, capsys, features, words):
    np.savez("x.npz", features=features, ids=GALLERY["ids"], cams=GALLERY["cams"])
    message = refuse(capsys, *reading("x.npz"))
    assert message.startswith("x.npz: features must ")
    assert words in message


@pytest.mark.parametrize(
    "shape", [(1, 40, 6), (40, 1, 6), (40, 6, 1), (6,), ()], ids=lambda shape: "x".join(map(str, shape))
)
def test_features_of_another_shape_are_not_blamed_on_the_labels(reading, capsys, shape):
    np.savez("x.npz", **(GALLERY | {"features": np.resize(GALLERY["features"], shape)}))
    message = refuse(capsys, *reading("x.npz"))
    assert message == f"x.npz: features must have shape (N, D), one row for each image, received {shape}"


def test_which_side_is_bad(here, capsys):
    np.savez("query.npz", **(QUERY | {"features": np.full((16, 6), np.nan)}))
    for more in ((), ("--centralize",), ("--centralize", "--rerank")):
        assert refuse(capsys, "evaluate", *BOTH, *more).startswith("query.npz: features must be finite")
    np.savez("query.npz", **QUERY)
    np.savez("gallery.npz", **(GALLERY | {"features": np.full((40, 6), np.nan)}))
    for more in ((), ("--centralize",), ("--centralize", "--rerank")):
        assert refuse(capsys, "evaluate", *BOTH, *more).startswith("gallery.npz: features must be finite")
    assert refuse(capsys, "rerank", *BOTH, "-o", "out.npz").startswith("gallery.npz: features must be finite")
    assert refuse(capsys, "density", "query.npz", "gallery.npz").startswith("gallery.npz: features must be finite")
    assert not (here / "out.npz").exists()


@pytest.mark.parametrize("name", ["ids", "cams"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (GALLERY["ids"][:-1], "must have shape (40,), one label per row, received (39,)"),
        (GALLERY["ids"].repeat(2).reshape(40, 2), "must have shape (40,), one label per row, received (40, 2)"),
        (GALLERY["ids"] + 0.5, "must be integers or strings, received "),
    ],
    ids=["short", "2-D", "floats"],
)
@pytest.mark.parametrize("command", ["centralize", "density", "evaluate", "evaluate before and after"])
@pytest.mark.usefixtures("here")
def test_bad_labels(capsys, command, name, labels, words):
    command = READING[command]("x.npz")
    np.savez("x.npz", **(GALLERY | {name: labels}))
    if (command[0], name) == ("density", "cams"):
        assert "identities" in run(capsys, *command)  # it has no use for cameras
        return
    message = refuse(capsys, *command)
    assert words in message
    assert name in message


@pytest.mark.usefixtures("here")
def test_bad_generated_features(capsys):
    np.savez("x.npz", **QUERY, generated=VIEWS[:, :, :5])
    for command in (READING["centralize"], READING["evaluate before and after"]):
        message = refuse(capsys, *command("x.npz"))
        assert message.startswith("x.npz: generated must have shape (16, M, 6) or (16, 6), ")
        assert message.endswith("received (16, 3, 5)")
    np.savez("x.npz", **QUERY, generated=broken(VIEWS, (3, 1, 0), np.nan))
    for command in (READING["centralize"], READING["evaluate before and after"]):
        message = refuse(capsys, *command("x.npz"))
        assert message.startswith("x.npz: generated must be finite, received NaN or inf in 1 row(s): 3; ")
    run(capsys, *READING["evaluate"]("x.npz"))  # which has no use for it


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_pickled_objects(reading, capsys, suffix):
    objects, name = np.array([None, "a"]), f"x{suffix}"
    if suffix == ".npz":
        np.savez(name, features=objects, ids=GALLERY["ids"])
    elif suffix == ".npy":
        np.save(name, objects, allow_pickle=True)
    else:
        torch.save({"features": objects}, name)
    message = refuse(capsys, *reading(name))
    assert message.startswith(f"{name} cannot be read as {suffix}: it holds pickled objects, which are never loaded")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("content", ["cut", "empty", "text"])
def test_damaged_files(reading, capsys, suffix, content):
    name = f"x{suffix}"
    if suffix == ".npz":
        np.savez(name, **GALLERY)
    elif suffix == ".npy":
        np.save(name, GALLERY["features"])
    elif suffix == ".pt":
        torch.save(torch.tensor(GALLERY["features"]), name)
    else:
        save_tensors(name, **GALLERY)
    whole = Path(name).read_bytes()
    Path(name).write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"1.0 2.0 3.0\n"}[content])
    message = refuse(capsys, *reading(name))
    assert message.startswith(f"{name} cannot be read as {suffix}: ")
    assert "pickle" not in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--centralize --k1 -1", "--k1 must be an integer >= 0, received -1"),
        ("--centralize --k2 2147483648", "--k2 must be an integer below 2**31, received 2147483648"),
        ("--centralize --eta nan", "--eta must be a finite number >= 0, received nan"),
        ("--centralize --alpha -2", "--alpha must be a finite number >= 0, received -2.0"),
        ("--rerank --rerank-k1 0", "--rerank-k1 must be an integer >= 1, received 0"),
        ("--rerank --rerank-k2=-3", "--rerank-k2 must be an integer >= 1, received -3"),
        ("--rerank --rerank-lambda 1.5", "--rerank-lambda must be a number from 0 to 1, received 1.5"),
    ],
)
@pytest.mark.usefixtures("here")
def test_bad_options(capsys, options, words):
    assert refuse(capsys, "evaluate", *BOTH, *options.split()) == words


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rerank --k1 0", "--k1 must be an integer >= 1, received 0"),  # the older name, as it was typed
        ("rerank --rerank-k1 0", "--rerank-k1 must be an integer >= 1, received 0"),
        ("rerank --lambda 3", "--lambda must be a number from 0 to 1, received 3.0"),
        ("generate people --steps 0", "--steps must be an integer >= 1, received 0"),
        ("generate people --guidance inf", "--guidance must be a finite number >= 0, received inf"),
        ("generate people --height 20", "--height must be a multiple of 8, received 20"),
        ("generate people --width 0", "--width must be an integer >= 1, received 0"),
        ("generate people --seed -1", "--seed must be an integer >= 0, received -1"),
        ("generate people --batch-size 0", "--batch-size must be an integer >= 1, received 0"),
        ("generate people --decode-chunk-size 0", "--decode-chunk-size must be an integer >= 1, received 0"),
        ("generate people --guidance-rescale 2", "--guidance-rescale must be a number from 0 to 1, received 2.0"),
        ("generate people --guidance-start -1", "--guidance-start must be a number from 0 to 1, received -1.0"),
        ("generate people --guidance-stop nan", "--guidance-stop must be a number from 0 to 1, received nan"),
        ("synthetic --ids 0", "--ids must be an integer >= 2, received 0"),
        ("synthetic --ids 10000", "--ids must be an integer from 2 to 9999, received 10000"),
        ("synthetic --cams 1", "--cams must be an integer >= 2, received 1"),
        ("synthetic --per-cam 1", "--per-cam must be an integer >= 2, received 1"),
        ("synthetic --seed -1", "--seed must be an integer >= 0, received -1"),
        ("synthetic --height 7", "--height must be an integer >= 8, received 7"),
        ("synthetic --width 7", "--width must be an integer >= 8, received 7"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_number_out_of_range_is_told_with_the_option_that_was_typed(capsys, command, words):
    name, *options = command.split()
    more = BOTH if name == "rerank" else ()
    assert refuse(capsys, name, *more, "-o", "out.npy", *options) == words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--k1 3", "--k1 goes with --centralize"),
        ("--k1 2", "--k1 goes with --centralize"),  # as it is anyway: it does nothing here either
        ("--k2=3 --rerank", "--k2 goes with --centralize"),
        ("--eta 1", "--eta goes with --centralize"),
        ("--alpha 0", "--alpha goes with --centralize"),
        ("--exclude-cams", "--exclude-cams goes with --centralize"),
        ("--exclude-cams --rerank", "--exclude-cams goes with --centralize"),
        ("--rerank-k1 5", "--rerank-k1 goes with --rerank"),
        ("--centralize --rerank-k2 5", "--rerank-k2 goes with --rerank"),
        ("--rerank-lambda 0.3", "--rerank-lambda goes with --rerank"),
        ("--engine exact", "--engine goes with --centralize or --rerank"),
    ],
)
@pytest.mark.usefixtures("here")
def test_options_that_would_do_nothing_are_refused(capsys, options, words):
    assert refuse(capsys, "evaluate", *BOTH, *options.split()) == words


@pytest.mark.usefixtures("here")
def test_a_size_of_poses_without_poses_is_refused(capsys):
    message = refuse(capsys, "generate", "people", "-o", "out", "--pose-size", "64x128")
    assert message == "--pose-size goes with --poses"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("doctor x", "pose2id doctor"),
        ("density query.npz --nonsense", "pose2id density"),
        ("weights info x", "pose2id weights info"),
    ],
)
def test_what_a_command_does_not_know_points_to_its_help(capsys, arguments, command):
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    wrong = arguments.split()[-1]
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"{command}: unrecognized arguments: {wrong}; see {command} --help\n")


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        (("centralize", "query.npz", "-o", "o.npz"), "--engine", choices.ENGINES),
        (("rerank", *BOTH, "-o", "o.npz"), "--engine", choices.ENGINES),
        (("evaluate", *BOTH), "--engine", choices.ENGINES),
        (("evaluate", *BOTH), "--protocol", choices.PROTOCOLS),
        (("evaluate", *BOTH), "--metric", choices.METRICS),
        (("generate", "people", "-o", "out"), "--layout", choices.LAYOUTS),
        (("generate", "people", "-o", "out"), "--dtype", choices.DTYPES),
        (("generate", "people", "-o", "out"), "--preset", choices.PRESETS),
        (("generate", "people", "-o", "out"), "--solver", choices.SOLVERS),
        ((), "--print-completion", choices.SHELLS),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_unknown_choice_is_told_with_those_there_are(capsys, command, option, names):
    before = contents()
    with pytest.raises(SystemExit) as stopped:
        main([*command, option, "magic"])
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out, contents()) == (2, "", before)
    assert captured.err.count("\n") == 1
    assert f"argument {option}: invalid choice: 'magic'" in captured.err
    assert all(name in captured.err for name in names)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("centralise x.npz", "centralize"),
        ("eval --query x", "evaluate"),
        ("evaluate --query x --gallery x --protocol market", "market1501"),
        ("evaluate --query x --gallery x --protocol SYSU", "sysu-mm01"),
        ("evaluate --query x --gallery x --engine exat", "exact"),
        ("rerank --query x --gallery x -o y --engine hnsw", "faiss-hnsw"),
        ("generate x -o y --preset publishd", "published"),
        ("weights downlod", "download"),
        ("evaluate --query x --gallery x --protocl all", "--protocol"),
        ("density x --jnk", "--junk"),
    ],
)
def test_a_name_that_is_nearly_right_is_asked_for(capsys, arguments, meant):
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert f"; did you mean '{meant}'?; see pose2id" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "search g q --cams gate hall",
            "search: unrecognized arguments: --cams gate hall; did you mean '--only-cams' or '--not-cams'?; see",
        ),
        ("search g q --camss a", "--camss a; did you mean '--only-cams' or '--not-cams'?; see"),
        ("search g q --group a", "search: unrecognized arguments: --group a; did you mean '--only-groups' or "),
        ("search g q --no-cams a", "search: unrecognized arguments: --no-cams a; did you mean '--not-cams'?; see"),
        ("--helpp", "pose2id gallery: unrecognized arguments: --helpp; did you mean '--help'?; see"),
        ("search --tops=3", "search: unrecognized arguments: --tops=3; did you mean '--top'?; see"),
        ("search --top 3 -- --tops", "search: the following arguments are required: FILE; see"),
        ("add --time 3", "add: the following arguments are required: PATH, FILE; see"),
    ],
)
def test_an_unknown_option_is_told_with_all_that_may_be_meant(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        main(["gallery", *arguments.split()])
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert said in captured.err


def test_choices_are_those_there_are():
    shtab = pytest.importorskip("shtab")
    assert ("auto", *ENGINES) == choices.ENGINES
    assert tuple(PROTOCOLS) == choices.PROTOCOLS
    assert choices.METRICS == METRICS
    assert choices.SIDES == SIDES
    assert choices.LAYOUTS == LAYOUTS
    assert set(choices.SHELLS) <= set(shtab.SUPPORTED_SHELLS)
    assert all(getattr(torch, name).is_floating_point for name in choices.DTYPES)


@pytest.mark.parametrize(
    "command", [("demo", "--generate"), ("generate", "x", "-o", "y"), ("train", "generator", "x", "-o", "y")]
)
@pytest.mark.usefixtures("here")
def test_what_draws_says_how_to_install_what_is_missing(capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "PIL", None)
    for module in ("walkthrough", "generate", "train"):
        monkeypatch.delitem(sys.modules, f"pose2id.cli.{module}", raising=False)
    message = refuse(capsys, *command)
    assert re.fullmatch(r"the generator needs PIL, which is .*: pip install .*'pose2id\[ipg\]'", message), message


def parsers(parser):
    """The parser and those of its commands, with the words that call them."""
    yield "", parser
    for action in parser._actions:
        if hasattr(action, "choices") and isinstance(action.choices, dict):
            for word, inner in action.choices.items():
                for words, each in parsers(inner):
                    yield f"{word} {words}".strip(), each


def test_every_command_names_a_function_that_runs_it():
    for words, parser in parsers(build_parser()):
        run = parser.get_default("run")
        if run is not None:
            module, _, function = run.partition(":")
            assert callable(getattr(importlib.import_module(f"pose2id.cli.{module}"), function)), words


def test_one_word_has_one_meaning():
    """An option that two commands have says the same of itself in both, but for its default."""
    meanings = {
        "--height": {"height of the pictures in pixels"},
        "--seed": {"number that the random noise is drawn from", "number that people and cameras are drawn from"},
    }
    for _, parser in parsers(build_parser()):
        for action in parser._actions:
            for option in action.option_strings:
                if action.help and action.help != "==SUPPRESS==" and option not in ("--help", "-h"):
                    words = re.sub(r" ?\(default.*", "", action.help)
                    meanings.setdefault(option, set()).add(words)
    assert meanings.pop("-o") == meanings.pop("--output")
    assert meanings["--k1"] == {"a neighbour is among the K1 nearest rows of a row"}
    several = {option for option, words in meanings.items() if len(words) > 1}
    # What is drawn from a seed, replaced, or computed in a format is said by each command for itself; pictures have a
    # width, and so have features; people and cameras are counted where they are drawn, and else a file has them;
    # --generate names weights, and in `demo` it is all there is to draw with.
    assert several <= {"--seed", "--overwrite", "--rerank", "--dtype", "--width", "--generate", "--ids", "--cams"}
    assert len(meanings["--ids"]) == len(meanings["--cams"]) == 2


def test_every_option_says_what_it_is():
    """Not its default alone, and not "of the noise", which leaves out what of the noise it is."""
    for words, parser in parsers(build_parser()):
        for action in (each for each in parser._actions if each.help != "==SUPPRESS=="):
            if isinstance(action.choices, dict):
                continue  # the commands themselves
            text = re.sub(r" ?\(default.*", "", action.help or "")
            assert len(text.split()) > 1, f"{words} {action.dest}: {action.help!r}"
            assert text.split()[0] not in ("of", "with", "for", "who"), f"{words} {action.dest}: {action.help!r}"


@pytest.mark.parametrize("shell", choices.SHELLS)
def test_completion(capsys, shell):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(word in script for word in ("centralize", "faiss-hnsw", "sysu-mm01"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_is_read_by_bash(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    asked = 'COMP_WORDS=(pose2id evaluate --protocol ""); COMP_CWORD=3; _shtab_pose2id; echo "${COMPREPLY[@]}"'
    script = capsys.readouterr().out + "\n" + asked
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert done.stdout.split() == list(choices.PROTOCOLS), done.stderr


def test_completion_without_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 2
    assert "pip install 'pose2id[completion]'" in capsys.readouterr().err


def say_a_word(path):
    features.id_density = lambda *_, **__: logging.getLogger("pose2id").info("a word") or 0.5
    for flag in ([], ["-v"]):
        assert main(["density", path, *flag]) == 0
        sys.stderr.write("with\n" if flag else "without\n")


def test_the_log_is_shown_on_request(here):
    code, _, err = run_forked(say_a_word, str(here / "query.npz"), said=here / "said")
    assert (code, err) == (0, "without\npose2id: a word\npose2id: a word\nwith\n")


@pytest.mark.usefixtures("here")
def test_engine_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = refuse(capsys, "centralize", "query.npz", "-o", "out.npz", "--engine", "faiss")
    assert message.startswith("engine 'faiss' needs faiss: ")
    assert "pip install 'pose2id[faiss-cpu]'" in message


@pytest.mark.usefixtures("here")
def test_cameras_that_are_not_there(capsys):
    np.savez("x.npz", features=GALLERY["features"], ids=GALLERY["ids"])
    message = refuse(capsys, "centralize", "x.npz", "-o", "out.npz", "--exclude-cams")
    assert message == "--exclude-cams needs an array 'cams' in x.npz, it holds none"
    for side in ("query", "gallery"):
        np.savez(f"{side}.npz", features=GALLERY["features"], ids=GALLERY["ids"])
    message = refuse(capsys, "evaluate", *BOTH, "--centralize", "--exclude-cams")
    assert message == "--exclude-cams needs an array 'cams' in query.npz, it holds none"
    np.savez("query.npz", **QUERY)
    assert "query_cams without gallery_cams" in refuse(capsys, "evaluate", *BOTH)


@pytest.mark.usefixtures("here")
def test_sides_that_do_not_fit(capsys):
    np.savez("gallery.npz", **(GALLERY | {"features": GALLERY["features"][:, :5]}))
    for command in (("evaluate", *BOTH, "--centralize"), ("rerank", *BOTH, "-o", "out.npz")):
        message = refuse(capsys, *command)
        assert message == (
            "query.npz and gallery.npz must hold features of equal width D, received (16, 6) and (40, 5); "
            "take both from one model"
        )
    message = refuse(capsys, "density", "query.npz", "gallery.npz")
    assert message.startswith("query.npz, gallery.npz must have ")
    assert message.endswith("equal D and ids of one kind, received 6 columns and int64 ids, 5 columns and int64 ids")
    np.savez("gallery.npz", **(GALLERY | {"ids": GALLERY["ids"].astype(str)}))
    for command in (("evaluate", *BOTH), ("density", "query.npz", "gallery.npz")):
        assert re.search(r"int64.*<U21", refuse(capsys, *command))


@pytest.mark.usefixtures("here")
def test_no_match_at_all(capsys):
    np.savez("query.npz", **(QUERY | {"ids": QUERY["ids"] + 100}))
    assert "at least one query must have a match in the gallery" in refuse(capsys, "evaluate", *BOTH)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["generate-nothing"],
        ["centralize"],
        ["centralize", "x.npz"],
        ["density"],
        ["rerank", "--query", "x.npz", "-o", "out.npz"],
        ["evaluate", "--gallery", "x.npz"],
        ["evaluate"],
        ["evaluate", "--features", "x.npz", "--query", "x.npz"],
        ["evaluate", "--features", "x.npz", *BOTH],
        ["centralize", "x.npz", "-o", "out.npz", "--k1", "1.5"],
        ["doctor", "--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pose2id")
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pose2id {command}")


def test_version_and_commands(capsys):
    for flag in ("--version", "--help"):
        with pytest.raises(SystemExit) as stopped:
            main([flag])
        assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"pose2id {pose2id.__version__}\n")
    assert re.findall(r"^    ([\w-]+)\s", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.usefixtures("here")
def test_interrupt(capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pose2id.cli.features.id_density", stop)
    assert main(["density", "query.npz"]) == 130
    assert capsys.readouterr() == ("", "pose2id density: interrupted\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a long\n  story"), "a long story"),
        (MemoryError(), "MemoryError"),
        (OSError(5, "I/O"), "[Errno 5] I/O"),
    ],
)
@pytest.mark.usefixtures("here")
def test_every_error_is_one_line(capsys, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pose2id.cli.features.id_density", fail)
    assert refuse(capsys, "density", "query.npz") == line


@pytest.mark.usefixtures("here")
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    """A bug is not called bad input."""

    def fail(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr("pose2id.cli.features.id_density", fail)
    with pytest.raises(KeyError, match="ours"):
        main(["density", "query.npz"])


@pytest.mark.parametrize(
    ("terminal", "options", "shown"), [(True, [], True), (True, ["-q"], False), (False, [], False)]
)
@pytest.mark.usefixtures("here")
def test_progress_is_for_terminals(capsys, monkeypatch, terminal, options, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["centralize", "query.npz", "-o", "out.npz", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out.npz: 16 x 6, float32\n"
    assert bool(captured.err) == shown


@pytest.mark.usefixtures("here")
def test_long_steps_are_told_where_no_bar_shows_them(capsys, monkeypatch):
    """A line for each, once: settings that come to the same are worked on once."""
    command = ["evaluate", *BOTH, "--centralize", "--rerank"]
    run(capsys, *command)  # short ones are not told
    monkeypatch.setattr("pose2id.cli.inputs.LONG", 0)
    names = ("as given", "length 1", "centralized")
    steps = [f"{name}: {step}" for name in names for step in ("the query side", "the gallery side", "scoring")]
    steps += [f"{name}, re-ranked: re-ranking" for name in names]
    for options, expected in (([], steps), (["--k1", "0"], [*steps[:6], *steps[9:11]])):
        assert main([*command, *options]) == 0
        captured = capsys.readouterr()
        assert captured.err.splitlines() == [f"pose2id evaluate: {step}" for step in expected]
        assert main([*command, *options, "-q"]) == 0
        assert capsys.readouterr() == (captured.out, "")
    assert main(["centralize", "query.npz", "-o", "out.npz"]) == 0
    assert capsys.readouterr().err == "pose2id centralize: centralizing 16 x 6\n"
    assert main(["rerank", *BOTH, "-o", "out.npy"]) == 0
    assert capsys.readouterr().err == "pose2id rerank: re-ranking 16 queries and 40 gallery rows\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(command) == 0
    assert "pose2id evaluate: " not in capsys.readouterr().err


# --- demo ---------------------------------------------------------------------------------------------------------

SETTINGS = demo.SETTINGS[:3]


@pytest.fixture
def short(here, monkeypatch):
    """The demo with three rows and no real pictures; gives the folder."""
    run_demo = demo.run_demo

    def draw(_data, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in demo.PICTURES:
            (folder / name).write_bytes(b"drawn")
        return [folder / name for name in demo.PICTURES]

    monkeypatch.setattr(demo, "run_demo", lambda data, progress: run_demo(data, settings=SETTINGS, progress=progress))
    monkeypatch.setattr(demo, "draw_pictures", draw)
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    return here


@pytest.fixture(scope="module")
def rows():
    """The three rows, from the function."""
    return demo.run_demo(pose2id.datasets.load_demo(), settings=SETTINGS)


@pytest.mark.usefixtures("short")
def test_demo_prints_the_table(capsys, rows):
    assert run(capsys, "demo", "--no-pictures") == demo.format_table(rows) + "\n"
    found = json.loads(run(capsys, "demo", "--no-pictures", "--json"))
    assert found == {"rows": demo.rows_as_dicts(rows), "pictures": []}
    assert found["rows"][0]["mAP"] == pytest.approx(0.8144, abs=1e-4)


def test_demo_names_its_folder(short, capsys, rows):
    for _ in range(2):  # its own folder is drawn anew each time
        out = run(capsys, "demo")
        assert out == demo.format_table(rows) + "\n\nPictures in pose2id-demo: ranking.png, cmc.png, identities.png\n"
        assert {path.name for path in (short / "pose2id-demo").iterdir()} == set(demo.PICTURES)
    found = json.loads(run(capsys, "demo", "--json"))
    assert found["pictures"] == [str(Path("pose2id-demo", name)) for name in demo.PICTURES]


def test_demo_folder_is_ignored_by_git():
    ignored = Path(__file__).parents[1] / ".gitignore"
    assert f"/{DEMO_FOLDER}/" in ignored.read_text().splitlines()


def test_demo_does_not_replace_pictures_in_other_folders(short, capsys):
    (short / "mine").mkdir()
    (short / "mine" / "cmc.png").write_bytes(b"mine")
    message = refuse(capsys, "demo", "-o", "mine")
    assert message == f"output {Path('mine', 'cmc.png')} exists already; name another folder or pass --overwrite"
    run(capsys, "demo", "-o", "mine", "--no-pictures")
    assert (short / "mine" / "cmc.png").read_bytes() == b"mine"
    run(capsys, "demo", "-o", "mine", "--overwrite")
    assert (short / "mine" / "cmc.png").read_bytes() == b"drawn"
    (short / "file").write_bytes(b"mine")
    assert refuse(capsys, "demo", "-o", "file").startswith("output file must be a folder, it is a file")


def test_demo_without_matplotlib(short, capsys, monkeypatch, rows):
    monkeypatch.undo()
    monkeypatch.chdir(short)
    run_demo = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", lambda data, progress: run_demo(data, settings=SETTINGS, progress=progress))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = "No pictures: drawing the pictures needs matplotlib, which is not installed: pip install 'pose2id[plots]'\n"
    assert main(["demo"]) == 0
    assert capsys.readouterr() == (demo.format_table(rows) + "\n", line)
    assert main(["demo", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"rows": demo.rows_as_dicts(rows), "pictures": []}
    assert captured.err == line
    assert not (short / "pose2id-demo").exists()

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", stop)  # it is said before the work
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", line + "pose2id demo: interrupted\n")
    assert main(["demo", "--no-pictures"]) == 130
    assert capsys.readouterr() == ("", "pose2id demo: interrupted\n")


def test_demo_of_the_generator_without_matplotlib(here, capsys, monkeypatch):
    pytest.importorskip("diffusers")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pose2id.cli.walkthrough.load_pipeline", stop)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--generate"]) == 130
    words = "drawing the map needs matplotlib, which is not installed: pip install 'pose2id[plots]'"
    assert capsys.readouterr() == ("", f"No map of identities: {words}\npose2id demo: interrupted\n")
    assert sorted(path.name for path in here.iterdir()) == ["gallery.npz", "query.npz"]


# --- doctor -------------------------------------------------------------------------------------------------------


def test_doctor_knows_the_extras():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {
        extra: {re.split(r"[>=<\[; ]", requirement)[0] for requirement in requirements}
        for extra, requirements in project["optional-dependencies"].items()
        if extra != "all"
    }
    assert {extra: set(packages) for extra, packages in read_extras().items()} == declared


def test_doctor_as_json(capsys, faiss_state):
    works, words = faiss_state
    found = json.loads(run(capsys, "doctor", "--json"))
    assert found["pose2id"] == pose2id.__version__
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert len(found["cuda"]) == torch.cuda.device_count()
    exact, native, faiss, pivots, *indexes = found["engines"]
    assert (native["name"], native["finds"]) == ("native", "all")
    assert (exact["name"], exact["works"]) == ("exact", True)
    assert (pivots["name"], pivots["works"]) == ("pivots", True)
    assert faiss == {"name": "faiss", "works": works, "detail": words, "finds": "all"}
    assert indexes == [
        {"name": name, "works": works, "detail": words, "finds": "most"} for name in ("faiss-ivf", "faiss-hnsw")
    ]
    assert "choice" not in found
    assert {extra: list(packages) for extra, packages in found["extras"].items()} == read_extras()


def test_doctor_as_text(capsys, faiss_state):
    works, words = faiss_state
    lines = run(capsys, "doctor").splitlines()
    for name in ("faiss     ", "faiss-ivf ", "faiss-hnsw"):
        finds = "all" if ENGINES[name.strip()].exact else "most"
        assert f"  {name} {'works' if works else 'no':<7}{finds:<6}{words}" in lines
    assert any(line.startswith("  exact      works  all   torch") for line in lines)
    assert any(line.startswith("  pivots     works  most  torch") for line in lines)
    assert not any(line.startswith("auto") for line in lines)


@pytest.mark.parametrize("rows", [0, 20_000, 300_000])
def test_doctor_explains_the_choice(capsys, rows):
    choice = json.loads(run(capsys, "doctor", "--rows", rows, "--json"))["choice"]
    assert choice["rows"] == rows
    assert choice["taken"]["cpu"] == choose_engine(rows)._asdict()

    lines = run(capsys, "doctor", "--rows", rows).splitlines()
    at = lines.index(f"auto      for the 2 nearest of {rows:,} rows of 768 columns")
    taken = choose_engine(rows)
    assert lines[at + 1] == f"  cpu        {taken.engine}: {taken.reason}"
    assert (lines[at + 2].strip() == "pivots would be much faster and miss a few neighbours") == (rows == 300_000)


def test_doctor_explains_the_choice_for_a_search(capsys):
    shape = {"width": 2048, "k": 50}
    choice = json.loads(run(capsys, "doctor", "--rows", 4000, "--width", 2048, "--k", 50, "--json"))["choice"]
    assert choice["taken"]["cpu"] == choose_engine(4000, **shape)._asdict() != choose_engine(4000)._asdict()
    assert {name: choice[name] for name in shape} == shape


@pytest.mark.usefixtures("here")
def test_doctor_refuses(capsys):
    assert "--width goes with --rows" in refuse(capsys, "doctor", "--width", 5)
    assert "--k must be an integer >= 1, received 0" in refuse(capsys, "doctor", "--rows", 5, "--k", 0)
    assert "--rows must be an integer >= 0, received -1" in refuse(capsys, "doctor", "--rows", -1)


def extras_of(capsys):
    lines = run(capsys, "doctor").splitlines()
    return dict(line.split(maxsplit=1) for line in lines[lines.index("extras") + 1 :])


@pytest.mark.parametrize(
    ("installed", "extra", "words"),
    [
        ([], "faiss-cpu", "pip install 'pose2id[faiss-cpu]'   (missing: faiss-cpu)"),
        ([], "faiss-gpu", "pip install 'pose2id[faiss-gpu]'   (missing: faiss-gpu)"),
        ([], "ipg", "(missing: accelerate, diffusers, filelock, huggingface-hub, pillow, safetensors)"),
        (["diffusers", "pillow", "accelerate", "filelock"], "ipg", "(missing: huggingface-hub, safetensors)"),
        (["matplotlib", "pillow"], "plots", "matplotlib 1.2.3, pillow 1.2.3"),
        (["faiss-cpu"], "faiss-cpu", "faiss-cpu 1.2.3"),
        (
            ["faiss-cpu"],
            "faiss-gpu",
            "pip uninstall -y faiss-cpu && pip install 'pose2id[faiss-gpu]'   (one of the two, never both)",
        ),
        (
            ["faiss-gpu"],
            "faiss-cpu",
            "pip uninstall -y faiss-gpu && pip install 'pose2id[faiss-cpu]'   (one of the two, never both)",
        ),
    ],
)
def test_doctor_says_what_to_install(capsys, monkeypatch, installed, extra, words):
    def version(name):
        if name in installed:
            return "1.2.3"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert extras_of(capsys)[extra].endswith(words)


def test_doctor_covers_every_state():
    """The states of support/faiss.py hold those that users met."""
    names = {state.__name__.removeprefix("state_") for state in STATES}
    assert {"missing", "runtime_error", "empty_namespace", "both_wheels", "cpu"} <= names


# --- as a process -------------------------------------------------------------------------------------------------

SYNTHETIC = "synthetic world --ids 2 --cams 2 --height 32 --width 16"  # the quickest that computes: it needs no torch


def test_process_with_good_input(here):
    with start("evaluate", *BOTH, "--centralize", "--json", cwd=here) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["rows"] == list(before_and_after())[:3]


def command_in(folder, *arguments):
    os.chdir(folder)
    return main(list(arguments))


def test_process_with_bad_input(here):
    (here / "query.npz").write_bytes(b"not an archive")
    line = "pose2id evaluate: query.npz cannot be read as .npz: not a zip archive\n"
    assert run_forked(command_in, here, "evaluate", *BOTH, said=here / "said") == (2, "", line)


def density_to_nobody(path, out):
    """To a pipe that nobody reads, or to a device."""
    reader, writer = os.pipe() if out == "pipe" else (os.open(out, os.O_RDONLY), os.open(out, os.O_WRONLY))
    os.close(reader)
    os.dup2(writer, 1)
    return main(["density", path])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full, as Linux has one")
@pytest.mark.parametrize(
    ("out", "code", "words"), [("pipe", 0, ""), ("/dev/full", 2, r"pose2id.*: .*No space left on device\n")]
)
def test_output_of_numbers_that_nobody_reads(here, out, code, words):
    found, _, err = run_forked(density_to_nobody, str(here / "query.npz"), out, said=here / "said")
    assert found == code
    assert re.fullmatch(words, err)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("buffered", [True, False])
def test_reader_that_has_seen_enough(here, buffered):
    """As in `pose2id density ... | head -1`."""
    pytest.importorskip("PIL")
    with start(*SYNTHETIC.split(), buffered=buffered, cwd=here) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full, as Linux has one")
@pytest.mark.parametrize("arguments", ["--help", SYNTHETIC])
def test_stdout_cannot_be_written(here, arguments):
    pytest.importorskip("PIL")
    command = f"{shlex.quote(sys.executable)} -m pose2id.cli {arguments} > /dev/full"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["sh", "-c", command], cwd=here, capture_output=True, text=True, env=buffered)
    assert done.returncode == 2
    assert re.fullmatch(r"pose2id.*: .*No space left on device\n", done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed(here, closed):
    read = pytest.importorskip("PIL.Image").open
    command = f"{shlex.quote(sys.executable)} -m pose2id.cli {SYNTHETIC} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for path in (here / "world").rglob("*.jpg"):
        with read(path) as picture:
            assert picture.size == (16, 32)
    assert len(list((here / "world").rglob("*.jpg"))) == 10


@pytest.mark.usefixtures("here")
def test_a_name_that_stdout_cannot_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii"))
    assert main(["centralize", "query.npz", "-o", "\u00e9.npz"]) == 0
    assert written.getvalue().startswith(b"\\xe9.npz: ")


def test_installed_command(here):
    command = Path(sys.executable).with_name("pose2id.exe" if os.name == "nt" else "pose2id")
    if not command.exists():
        pytest.skip("pose2id is not installed in this environment")
    done = subprocess.run([command, "--version"], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "pose2id"


def test_the_package_as_a_command(here):
    done = subprocess.run([sys.executable, "-m", "pose2id", "density"], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"pose2id density: .* required: FILE; see pose2id density --help\n", done.stderr)


@pytest.mark.usefixtures("here")
def test_synthetic(capsys):
    pytest.importorskip("PIL")
    arguments = ["synthetic", "world", "--ids", "4", "--cams", "2", "--height", "32", "--width", "16"]
    assert main(arguments) == 0
    written = sorted(path.name for path in Path("world").iterdir())
    assert written == ["README.txt", "bounding_box_test", "bounding_box_train", "query"]
    assert capsys.readouterr().out.startswith("world: 1")
    assert main(["synthetic", "-o", ""]) == 2  # an unset variable of a shell
    assert capsys.readouterr().err.startswith("pose2id synthetic: folder . exists already; ")
    assert "exists" in refuse(capsys, *arguments)
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["synthetic", "-o", *arguments[1:], "--overwrite"]) == 0
    for options in ([], ["-o", "one", "two"]):
        with pytest.raises(SystemExit):
            main(["synthetic", *options, "--ids", "4"])
