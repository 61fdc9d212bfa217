"""Feature files: what is read, what is refused, and that a file is written whole or not at all."""

import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pose2id import MissingExtraError
from pose2id.files import SUFFIXES, check_output, read_features, read_tensors, write_arrays

ROWS = np.random.default_rng(0).standard_normal((5, 3))
IDS = np.array([4, 4, 0, -1, 7])
CAMS = np.array([1, 2, 1, 2, 1])
VIEWS = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
posix = pytest.mark.skipif(os.name != "posix", reason="file modes and limits of POSIX")
not_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")


def safetensors():
    return pytest.importorskip("safetensors.torch")


def save(path, features, **others):
    """Write a file with the packages' own functions, not with ours."""
    if path.suffix == ".npz":
        np.savez(path, features=np.asarray(features), **others)
    elif path.suffix == ".npy":
        np.save(path, np.asarray(features))
    elif path.suffix == ".pt":
        torch.save(torch.as_tensor(features), path)
    else:
        tensors = {name: torch.as_tensor(array) for name, array in {"features": features, **others}.items()}
        safetensors().save_file(tensors, path)
    return path


def load(path):
    """All arrays of a file, with the packages' own functions; the only array of a bare file is None."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".npy":
        return {None: np.load(path, allow_pickle=False)}
    if path.suffix == ".pt":
        return {None: torch.load(path, weights_only=True)}
    return safetensors().load_file(path)


def plain(array):
    """Values and name of the dtype, the same for both kinds of array."""
    tensor = isinstance(array, torch.Tensor)
    values = array.double().numpy() if tensor and array.is_floating_point() else np.asarray(array)
    return values.tolist(), str(array.dtype).removeprefix("torch.")


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    """Every format."""
    if request.param == ".safetensors":
        safetensors()
    return request.param


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_are_read_as_they_are(tmp_path, suffix, dtype):
    path = save(tmp_path / f"x{suffix}", ROWS.astype(dtype))
    file = read_features(path)
    assert file.path == path
    assert plain(file.features) == plain(ROWS.astype(dtype))
    assert isinstance(file.features, torch.Tensor) is (suffix in (".pt", ".safetensors"))
    assert (file.ids, file.cams, file.generated) == (None, None, None)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_named_arrays_are_read(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", ROWS, ids=IDS, cams=CAMS, generated=VIEWS, paths=np.arange(2))
    file = read_features(str(path), needs=("ids", "cams", "generated"))
    for name, array in (("features", ROWS), ("ids", IDS), ("cams", CAMS), ("generated", VIEWS)):
        assert plain(getattr(file, name)) == plain(array)


def test_strings_are_read(tmp_path):
    path = save(tmp_path / "x.npz", ROWS, ids=np.array(["a", "b", "a", "ß", "-1"]), cams=IDS)
    assert read_features(path).ids.tolist() == ["a", "b", "a", "ß", "-1"]


def test_compressed_archive(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", features=ROWS, ids=IDS)
    assert plain(read_features(tmp_path / "x.npz").features) == plain(ROWS)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bfloat16_is_read(tmp_path, suffix):
    rows = torch.tensor(ROWS).bfloat16()
    assert torch.equal(read_features(save(tmp_path / f"x{suffix}", rows)).features, rows)


def test_the_only_tensor_may_have_any_name(tmp_path):
    safetensors().save_file({"embeddings": torch.tensor(ROWS)}, tmp_path / "x.safetensors")
    assert plain(read_features(tmp_path / "x.safetensors").features) == plain(ROWS)


def test_old_pt_files_are_read(tmp_path):
    torch.save(torch.tensor(ROWS), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert plain(read_features(tmp_path / "x.pt").features) == plain(ROWS)


def test_missing_names_are_told_with_those_there(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, feats=ROWS, ids=IDS)
    with pytest.raises(
        ValueError,
        match=r"x\.npz must .* 'features', it holds: feats, ids; .*np\.savez\(\.\.\., features=\.\.\.\)$",
    ):
        read_features(path)
    save(path, ROWS, cams=CAMS)
    with pytest.raises(
        ValueError,
        match=r"x\.npz must .* 'ids', it holds: cams, features; .*np\.savez\(\.\.\., ids=\.\.\.\)$",
    ):
        read_features(path, needs=("ids",))
    np.savez(path)
    with pytest.raises(ValueError, match=r"must hold an array 'features', it holds: nothing; store it"):
        read_features(path)
    with pytest.raises(ValueError, match=r"'ids', it holds: features; a \.npy file holds features only, use \.npz: np"):
        read_features(save(tmp_path / "x.npy", ROWS), needs=("ids",))


@pytest.mark.parametrize("shape", [(1, 20, 64), (20, 1, 64), (20,), ()])
def test_the_shape_of_features_is_checked_before_the_labels(tmp_path, shape):
    np.savez(tmp_path / "x.npz", features=np.zeros(shape, np.float32), ids=np.arange(20))
    with pytest.raises(ValueError, match=r"x\.npz: features must have shape \(N, D\), one row for each image, rec"):
        read_features(tmp_path / "x.npz", needs=("ids",))


def test_several_tensors_need_the_name(tmp_path):
    safetensors().save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"must hold an array 'features', it holds: a, b; store it under that name"):
        read_features(tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npy", ".npz"])
def test_files_of_tensors_do_not_depend_on_the_device(tmp_path, suffix, device):
    """A machine without a GPU reads what one with a GPU wrote."""
    there, here = tmp_path / f"there{suffix}", tmp_path / f"here{suffix}"
    write_arrays(there, {"features": torch.tensor(ROWS, device=device)})
    write_arrays(here, {"features": torch.tensor(ROWS)})
    assert plain(read_features(there).features) == plain(ROWS)
    if suffix == ".pt":
        there, here = (torch.load(path, weights_only=True) for path in (there, here))
        assert there.device == here.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["x.csv", "x", "x.NPZ", "x.pkl", "x.npz.gz"])
def test_other_suffixes_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a \.npz, \.npy, \.safetensors, \.pt, \.pth, \.mat file, received"):
        read_features(tmp_path / name)


def test_no_such_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"x{suffix} is not a file"):
        read_features(tmp_path / f"x{suffix}")
    (tmp_path / f"x{suffix}").mkdir()
    with pytest.raises(FileNotFoundError, match=f"x{suffix} is not a file"):
        read_features(tmp_path / f"x{suffix}")


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def pickled(path, trap):
    """Write a file of the suffix of `path` that would run code when unpickled."""
    objects = np.array([trap, None], dtype=object)
    if path.suffix == ".npz":
        np.savez(path, features=ROWS, ids=objects)
    elif path.suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        torch.save({"features": torch.tensor(ROWS), "trap": trap}, path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_pickled_objects_are_never_loaded(tmp_path, suffix):
    path, trace = tmp_path / f"x{suffix}", tmp_path / "trace"
    pickled(path, Trap(trace))
    with pytest.raises(ValueError, match=rf"x{suffix} cannot be read .* holds pickled objects, which are never loaded"):
        read_features(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_never_loaded(tmp_path, protocol):
    trace = tmp_path / "trace"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Trap(trace), protocol=protocol))
    with pytest.raises(ValueError, match="holds pickled objects, which are never loaded, or is damaged"):
        read_features(tmp_path / "x.pt")
    assert not trace.exists()


def test_objects_nobody_asks_for_do_not_hinder(tmp_path):
    save(tmp_path / "x.npz", ROWS, paths=np.array(["a", None], dtype=object))
    assert plain(read_features(tmp_path / "x.npz").features) == plain(ROWS)


@pytest.mark.parametrize(
    ("held", "kind"),
    [([torch.zeros(2)], "list"), (3, "int")],
    ids=["list", "number"],
)
def test_pt_must_hold_tensors(tmp_path, held, kind):
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=f"it must hold one plain tensor, it holds a {kind}"):
        read_features(tmp_path / "x.pt")


def test_archive_of_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("features", "1 2 3")
    with pytest.raises(ValueError, match="'features' in it is not a numpy array"):
        read_features(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"must hold an array 'features', it holds: readme\.txt"):
        read_features(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"1.0,2.0\n3.0,4.0\n", b"hello, this is a text\n", b'{"features": [1, 2]}', b"\x89PNG\r\n\x1a\n" * 9],
    ids=["empty", "one byte", "csv", "text", "json", "png"],
)
def test_other_content_is_not_called_pickled(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x{suffix} cannot be read as {suffix}: ") as caught:
        read_features(path)
    assert "pickle" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cut_files_are_refused_wherever_they_are_cut(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", ROWS)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"x{suffix} cannot be read as {suffix}: "):
            read_features(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt", "old.pt"])
def test_damaged_bytes_raise_nothing_else(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == "old.pt":
        torch.save(torch.tensor(ROWS), path, _use_new_zipfile_serialization=False)
    else:
        save(path, ROWS)
    whole, rng, messages = np.fromfile(path, np.uint8), np.random.default_rng(0), []
    for _ in range(300):
        damaged, count = whole.copy(), rng.choice([1, 5, 20])
        damaged[rng.integers(0, len(whole), count)] = rng.integers(0, 256, count)
        damaged.tofile(path)
        try:
            read_features(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(message.startswith(f"{path} ") for message in messages)


@not_root
def test_unreadable_file(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", ROWS)
    path.chmod(0)
    with pytest.raises(ValueError, match="cannot be read"):
        read_features(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("container", ["numpy", "torch"])
def test_round_trip(tmp_path, suffix, container, dtype):
    rows = torch.tensor(ROWS).to(getattr(torch, dtype))
    path = write_arrays(tmp_path / f"x{suffix}", {"features": rows.numpy() if container == "numpy" else rows})
    assert path == tmp_path / f"x{suffix}"
    assert plain(read_features(path).features) == plain(rows)
    assert plain(next(iter(load(path).values()))) == plain(rows)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip_of_bfloat16(tmp_path, suffix):
    rows = torch.tensor(ROWS).bfloat16()
    if suffix == ".safetensors":
        safetensors()
    assert torch.equal(read_features(write_arrays(tmp_path / f"x{suffix}", {"features": rows})).features, rows)


def test_names_are_written_where_the_format_has_names(tmp_path, suffix):
    arrays = {"features": ROWS, "ids": IDS, "cams": torch.tensor(CAMS)}
    written = load(write_arrays(tmp_path / f"x{suffix}", arrays))
    if suffix in (".npy", ".pt"):
        assert list(written) == [None]
        assert plain(written[None]) == plain(ROWS)
    else:
        assert {name: plain(array) for name, array in written.items()} == {n: plain(a) for n, a in arrays.items()}


def test_strings_are_written_by_npz_only(tmp_path):
    arrays = {"features": ROWS, "ids": IDS.astype(str)}
    assert load(write_arrays(tmp_path / "x.npz", arrays))["ids"].tolist() == ["4", "4", "0", "-1", "7"]
    safetensors()
    assert set(load(write_arrays(tmp_path / "x.safetensors", arrays))) == {"features"}


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_any_byte_order_is_written(tmp_path, suffix, dtype):
    written = load(write_arrays(tmp_path / f"x{suffix}", {"features": ROWS.astype(dtype), "ids": IDS.astype(">i4")}))
    rows = written["features"] if "features" in written else written[None]
    assert plain(rows)[0] == ROWS.astype(dtype).tolist()
    if "ids" in written:
        assert plain(written["ids"])[0] == IDS.tolist()


def test_strided_and_read_only_arrays(tmp_path, suffix):
    rows = np.asfortranarray(ROWS)[::-2]
    rows.setflags(write=False)
    assert plain(read_features(write_arrays(tmp_path / f"a{suffix}", {"features": rows})).features) == plain(rows)
    columns = torch.tensor(ROWS).T
    assert plain(read_features(write_arrays(tmp_path / f"b{suffix}", {"features": columns})).features) == plain(columns)


def test_only_the_rows_of_a_view_are_written(tmp_path, suffix):
    path = write_arrays(tmp_path / f"x{suffix}", {"features": torch.zeros(50_000, 3, requires_grad=True)[:4]})
    assert path.stat().st_size < 5000
    assert not load(path).popitem()[1].any()


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_bfloat16_does_not_fit_into_numpy(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"features is bfloat16.*write \.safetensors or \.pt"):
        write_arrays(tmp_path / f"x{suffix}", {"features": torch.tensor(ROWS).bfloat16()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_objects_are_not_pickled(tmp_path, suffix):
    with pytest.raises(TypeError, match="features holds objects, which could only be pickled"):
        write_arrays(tmp_path / f"x{suffix}", {"features": np.array([1, "a"], dtype=object)})
    assert not list(tmp_path.iterdir())


def test_existing_file_is_refused_and_kept(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"x{suffix} exists already; name another or pass --overwrite"):
        write_arrays(path, {"features": ROWS})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"mine"]


def test_overwrite_replaces(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"mine")
    write_arrays(path, {"features": ROWS}, overwrite=True)
    assert plain(read_features(path).features) == plain(ROWS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_in_the_way(tmp_path, suffix, overwrite):
    (tmp_path / f"x{suffix}").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        write_arrays(tmp_path / f"x{suffix}", {"features": ROWS}, overwrite=overwrite)


def test_folder_must_exist(tmp_path, suffix):
    with pytest.raises(ValueError, match="must be in an existing folder"):
        check_output(tmp_path / "nowhere" / f"x{suffix}", overwrite=True)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="must be in an existing folder"):
        write_arrays(tmp_path / "file" / f"x{suffix}", {"features": ROWS})


@pytest.mark.parametrize("name", ["x.csv", "x", "x.NPY"])
def test_other_suffixes_are_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"must be a \.npz, .* received suffix"):
        write_arrays(tmp_path / name, {"features": ROWS})
    assert not list(tmp_path.iterdir())


@posix
def test_mode_of_a_new_file_is_the_usual_one(tmp_path, suffix):
    before = os.umask(0o027)
    try:
        path = write_arrays(tmp_path / f"x{suffix}", {"features": ROWS})
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@posix
def test_mode_of_a_replaced_file_is_kept(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"private")
    path.chmod(0o600)
    write_arrays(path, {"features": ROWS}, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o600


WRITERS = {
    ".npz": ("numpy", "savez"),
    ".npy": ("numpy", "save"),
    ".pt": ("torch", "save"),
    ".safetensors": ("safetensors.torch", "save_file"),
}


def failing(monkeypatch, suffix, error):
    """Let the writer of a format write half a file and then raise."""

    def write_half(*arguments, **_options):
        path = next(a for a in arguments if isinstance(a, str | Path))
        Path(path).write_bytes(b"half")
        raise error

    module, name = WRITERS[suffix]
    monkeypatch.setattr(sys.modules[module], name, write_half)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(28, "No space left on device"), OSError),
        (RuntimeError("enforce fail at inline_container.cc"), (OSError, RuntimeError)),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["OSError", "RuntimeError", "interrupt"],
)
def test_failure_in_the_middle_leaves_everything_as_it_was(tmp_path, suffix, monkeypatch, exists, error, seen):
    path = tmp_path / f"x{suffix}"
    if exists:
        path.write_bytes(b"mine")
    failing(monkeypatch, suffix, error)
    with pytest.raises(seen):
        write_arrays(path, {"features": ROWS}, overwrite=True)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"mine"] * exists


@posix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # older numpy leaves the archive open
def test_full_disk(tmp_path, suffix):
    """The real thing: the system refuses to write on, and each package reports that in its own way."""
    resource = pytest.importorskip("resource")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"mine")
    rows = np.zeros((300, 300))
    torch.save(torch.zeros(1), tmp_path / "warm.pt")  # what is imported on first use is read before the limit
    (tmp_path / "warm.pt").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match=f"x{suffix} cannot be written: "):
            write_arrays(path, {"features": rows}, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"mine"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path, savez = tmp_path / "x.npz", np.savez

    def save_while_another_writes(*arguments, **arrays):
        savez(*arguments, **arrays)
        path.write_bytes(b"another's")

    monkeypatch.setattr(np, "savez", save_while_another_writes)
    with pytest.raises(ValueError, match="exists already"):
        write_arrays(path, {"features": ROWS})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"another's"]


@not_root
def test_folder_without_permission(tmp_path, suffix):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"cannot be written.*Permission denied"):
            write_arrays(tmp_path / f"x{suffix}", {"features": ROWS})
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_written_over_the_file_read(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", ROWS)
    file = read_features(path)
    write_arrays(path, {"features": file.features + 1}, overwrite=True)
    assert plain(file.features) == plain(ROWS)  # nothing that was read hangs on the old file
    assert plain(read_features(path).features) == plain(ROWS + 1)


class NoSafetensors:
    """A finder that answers as if the package were not there."""

    def find_spec(self, name, *_):
        if name == "safetensors":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_safetensors(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoSafetensors(), *sys.meta_path])
    path = tmp_path / "x.safetensors"
    line = r"x\.safetensors needs safetensors, which is not installed: pip install 'pose2id\[ipg\]'"
    for act in (lambda: write_arrays(path, {"features": ROWS}), lambda: check_output(path, overwrite=False)):
        with pytest.raises(MissingExtraError, match="^writing " + line):
            act()
    assert not path.exists()
    path.write_bytes(b"anything")
    with pytest.raises(MissingExtraError, match="^reading " + line):
        read_features(path)


def test_a_link_stays_and_its_target_is_written(tmp_path):
    target, link = tmp_path / "target.npy", tmp_path / "link.npy"
    np.save(target, np.zeros(3))
    link.symlink_to(target)
    with pytest.raises(ValueError, match="exists already"):
        write_arrays(link, {"features": np.ones(2)})
    assert write_arrays(link, {"features": np.ones(2)}, overwrite=True) == link
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(target), np.ones(2))


# Tensor files of any kind


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pt"])
def test_tensors_of_any_name_are_read(tmp_path, name, mapped):
    tensors = {"a.weight": torch.tensor(ROWS), "b": torch.arange(3), "c": torch.ones(2).bfloat16()}
    if name.endswith(".safetensors"):
        safetensors().save_file(tensors, tmp_path / name)
    else:
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=name == "x.pth")
    read = read_tensors(str(tmp_path / name), mapped=mapped)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], tensor) and read[key].dtype == tensor.dtype for key, tensor in tensors.items())


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pt"])
def test_a_tensor_file_that_cannot_be_read_is_told_without_its_name(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / "trace"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(
        ValueError, match=r"^it is a Git LFS pointer, not the file itself; fetch that with git lfs pull$"
    ):
        read_tensors(path)
    path.write_bytes(b"<!doctype html>\n")
    with pytest.raises(ValueError, match=r"^it is no file of torch.save, it begins with b'<!do|^SafetensorError: "):
        read_tensors(path)
    if name != "x.safetensors":
        torch.save({"a": Trap(trace)}, path, _use_new_zipfile_serialization=name == "x.pth")
        with pytest.raises(
            ValueError, match=r"^it holds more than tensors \(\w+\.mkdir\), which is never loaded and did"
        ):
            read_tensors(path, mapped=True)
        assert not trace.exists()
    with pytest.raises(ValueError, match=r"^FileNotFoundError: "):
        read_tensors(tmp_path / f"none{path.suffix}")


# Labels as other programs store them


def holds(suffix, path, **labels):
    """A file of this format with these labels."""
    arrays = {name: np.asarray(array) for name, array in labels.items()}
    return save(path.with_suffix(suffix), ROWS, **arrays)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", ["ids", "cams"])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64"])
def test_labels_of_other_programs_are_read(tmp_path, suffix, name, shape, dtype):
    if suffix == ".safetensors":
        safetensors()
    values = np.array([4, 4, 0, -1, 120])
    path = holds(suffix, tmp_path / "x", **{name: values.astype(dtype).reshape(shape)})
    found = getattr(read_features(path), name)
    assert (np.asarray(found).tolist(), tuple(found.shape)) == (values.tolist(), (5,))
    assert plain(found)[1] == ("int64" if dtype.startswith("float") else dtype)


def test_labels_of_bfloat16_and_of_one_row(tmp_path):
    safetensors().save_file(
        {"features": torch.ones(1, 2), "ids": torch.ones(1, 1).bfloat16()}, tmp_path / "x.safetensors"
    )
    assert read_features(tmp_path / "x.safetensors").ids.tolist() == [1]
    np.savez(tmp_path / "x.npz", features=ROWS, ids=np.array([["a"], ["b"], ["a"], ["c"], ["-1"]]))
    assert read_features(tmp_path / "x.npz").ids.tolist() == ["a", "b", "a", "c", "-1"]


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "longdouble"])
def test_labels_as_floats_of_other_machines(tmp_path, dtype):
    path = holds(".npz", tmp_path / "x", ids=np.array([[4, 4, 0, -1, 120]], dtype))
    assert plain(read_features(path).ids) == plain(np.array([4, 4, 0, -1, 120]))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_labels_as_narrow_floats(tmp_path, dtype):
    labels = torch.tensor([[4], [-1], [7]]).to(getattr(torch, dtype))
    safetensors().save_file({"features": torch.ones(3, 2), "ids": labels}, tmp_path / "x.safetensors")
    found = read_features(tmp_path / "x.safetensors").ids
    assert (found.tolist(), found.dtype) == ([4, -1, 7], torch.int64)


def test_pickled_labels_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", features=ROWS, cams=np.array(["a"] * 5, dtype=object))
    with pytest.raises(ValueError, match=r"x.npz cannot be read .* never loaded, as 'cams'; save plain numbers or str"):
        read_features(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["ids", "cams"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2, 1.5, 2, 1], r"must be integers or strings, received 1.5 in row 2; store them as int64 or as strings"),
        ([1, 2, np.nan, 2, 1], "received nan in row 2; store them as"),
        ([1, 2, 1, 2, np.inf], "received inf in row 4; store"),
        ([1, 2, 1, 2**53 + 2.0, 1], "in row 3; float64 cannot hold all whole numbers beyond 9007199254740992; store"),
        (np.array([1, 2, 2**24 + 2, 2, 1], np.float32), "float32 cannot hold all whole numbers beyond 16777216; "),
        (np.array([1, 2, 2050, 2, 1], ">f2"), "float16 cannot hold all whole numbers beyond 2048; store"),
        (np.array([1, 2, 2050, 2, 1], np.float16), "float16 cannot hold all whole numbers beyond 2048; store"),
        ([1, 2, 1, 2], r"must have shape \(5,\), one label per row, received \(4,\); store one integer or string for"),
        (np.ones((5, 2), int), r"must have shape \(5,\), .* received \(5, 2\); store one"),
        (np.ones((5, 1, 1), int), r"received \(5, 1, 1\); store one"),
        (np.array(7), r"received \(\); store one"),
        ([True, False] * 2 + [True], "must be integers or strings, received dtype bool; .* store one"),
        (np.array([1, 2, 1, 2, 1j]), "received dtype complex128; .* store one"),
        (np.array([b"a"] * 5), r"received dtype \|S1; .* store one"),
        (np.array([2**63] * 5, np.uint64), "must fit into int64"),
        (np.zeros(5, "M8[s]"), "received dtype datetime64"),
        (np.zeros(5, [("id", "i8")]), "received dtype"),
    ],
)
def test_labels_that_are_none_are_named_with_file_key_and_remedy(tmp_path, name, labels, words):
    path = holds(".npz", tmp_path / "x", **{name: labels})
    with pytest.raises(ValueError, match=rf"x\.npz: {name} .*{words}"):
        read_features(path)
    others = tuple({"ids", "cams"} - {name})
    assert plain(read_features(path, names=others).features) == plain(ROWS)


def test_a_name_that_a_file_holds_twice(tmp_path):
    np.savez(tmp_path / "x.npz", features=ROWS)
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("features.npy", archive.read("features.npy"))
    with pytest.raises(ValueError, match=r"x.npz cannot be read as .npz: it holds features twice"):
        read_features(tmp_path / "x.npz")


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 2")
def test_strings_of_variable_width_are_written_as_strings(tmp_path):
    words = np.array(["a", "bcd", "", "é", "a"], dtype=np.dtypes.StringDType())
    write_arrays(tmp_path / "x.npz", {"features": ROWS, "ids": words})
    assert read_features(tmp_path / "x.npz").ids.tolist() == words.tolist()
    assert set(load(write_arrays(tmp_path / "y.npz", {"features": ROWS, "ids": words}))) == {"features", "ids"}


def test_files_of_any_labels_are_read_right_or_refused(tmp_path):
    """Random types, shapes and values of `ids` and `cams`, against what Python makes of each number."""
    rng = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "U3", "S2", "?", "c8", "M8[s]", ">i4", ">f8"]
    shapes = [(5,), (1, 5), (5, 1), (5, 2), (4,), (), (0,), (5, 1, 1), (10,)]
    specials = [0, -1, 0.5, np.nan, np.inf, 2.0**24 + 2, 2.0**53 + 2, 1e30, 7, 120]
    read = refused = 0
    for _ in range(400):
        shape = shapes[min(rng.integers(0, 14), len(shapes) - 1) if rng.random() < 0.5 else rng.integers(0, 3)]
        values = rng.choice(specials if rng.random() < 0.4 else [0, 1, 7, 100], size=shape)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = np.asarray(values).astype(kinds[rng.integers(0, len(kinds))])
        path = save(tmp_path / "x.npz", ROWS, ids=labels)
        try:
            found = read_features(path).ids
        except ValueError as error:
            refused += 1
            words = str(error)
        else:
            read += 1
            words = f"{path}: ids"
            assert found.shape == (5,)
            assert found.dtype.kind in "iuU"
            assert found.tolist() == np.ravel(labels).tolist()
            assert all(type(label) in (int, str) for label in found.tolist())
        assert words.startswith(f"{path}: ids")
    assert min(read, refused) > 100
