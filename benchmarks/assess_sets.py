"""Sets for `pose2id.study.assess` to be made and tried on: features with identities and cameras, in families.

Real ones: Omniglot by three encoders (and pixels of the embedded set), printed letters in many fonts, glyphs of eleven
scripts, digits by hand and patches of two photographs (scikit-learn), spoken digits; drawn ones: the synthetic people;
and identities made in feature space, of many kinds. Most by untrained encoders, and by a linear one that was trained on
half of the identities and is tried on the others. Each as given, with noise, and projected at random.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import load_omniglot
from features import reid_like
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import affine_transform

from pose2id.datasets import load_demo

DEGRADED = ("-", "noise 0.5", "noise 1", "noise 1.5", "16 dimensions", "6 dimensions")


class Case(NamedTuple):
    """One set: all rows; the first `n_query` are the queries."""

    family: str
    name: str
    features: np.ndarray
    ids: np.ndarray
    cams: np.ndarray
    n_query: int
    generated: np.ndarray | None = None


def degrade(case: Case, how: str) -> Case:
    rng, (name, _, rest) = np.random.default_rng(0), how.partition(" ")
    arrays = [case.features] + [case.generated] * (case.generated is not None)
    if name == "noise":
        size = float(rest) * arrays[0].std(axis=0).mean()
        sizes = size, size / 2
        arrays = [x + s * rng.standard_normal(x.shape) for x, s in zip(arrays, sizes, strict=False)]
    elif name.isdigit():
        basis = np.linalg.qr(rng.standard_normal((arrays[0].shape[1], int(name))))[0]
        arrays = [array @ basis for array in arrays]
    arrays = [np.ascontiguousarray(x, dtype=np.float32) for x in arrays]
    return case._replace(
        name=case.name if how == "-" else f"{case.name}, {how}",
        features=arrays[0],
        generated=arrays[1] if len(arrays) > 1 else None,
    )


def split(family: str, name: str, x: np.ndarray, ids: np.ndarray, cams: np.ndarray, seed: int = 0) -> Case:
    """A set in random order, one row of each identity and camera (at most 4 of an identity) as queries."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    x, ids, cams = x[order], ids[order], cams[order]
    _, first = np.unique(ids * 1000 + cams, return_index=True)
    counts: dict[int, int] = {}
    queries = []
    for row in first[rng.permutation(len(first))]:
        counts[ids[row]] = counts.get(ids[row], 0) + 1
        if counts[ids[row]] <= 4:
            queries.append(row)
    mask = np.zeros(len(x), bool)
    mask[queries] = True
    both = np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])
    return Case(family, name, x[both], ids[both], cams[both], len(queries))


def pca(x: np.ndarray, width: int) -> np.ndarray:
    x = x - x.mean(axis=0)
    return x @ np.linalg.svd(x[:: max(1, len(x) // 3000)], full_matrices=False)[2][:width].T


def filtered(pictures: np.ndarray, seed: int, count: int = 24, size: int = 5, grid: int = 4) -> np.ndarray:
    """Random filters, their squared responses pooled in a grid: an encoder that nothing was trained for."""
    rng = np.random.default_rng(seed)
    filters = rng.standard_normal((count, size * size))
    filters -= filters.mean(axis=1, keepdims=True)
    rows = []
    for picture in pictures:
        windows = sliding_window_view(picture, (size, size))
        response = np.abs(windows.reshape(*windows.shape[:2], -1) @ filters.T)
        parts = [np.array_split(part, grid, axis=1) for part in np.array_split(response, grid, axis=0)]
        rows.append(np.concatenate([cell.mean(axis=(0, 1)) for line in parts for cell in line]))
    rows = np.array(rows)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


def gradients(pictures: np.ndarray, grid: int = 4, bins: int = 8) -> np.ndarray:
    """Histograms of the directions of edges, in a grid."""
    rows = []
    for picture in pictures:
        dy, dx = np.gradient(picture)
        size, angle = np.hypot(dx, dy), ((np.arctan2(dy, dx) / np.pi * bins / 2) % bins).astype(int) % bins
        cells = []
        for i in np.array_split(np.arange(picture.shape[0]), grid):
            for j in np.array_split(np.arange(picture.shape[1]), grid):
                at = np.ix_(i, j)
                cells.append(np.bincount(angle[at].ravel(), size[at].ravel(), bins))
        rows.append(np.sqrt(np.concatenate(cells)))
    rows = np.array(rows)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


def omniglot(folder: Path) -> Iterator[Case]:
    for encoder in ("strong", "weak"):
        data = load_omniglot(folder, encoder)
        x, ids, cams, n = data["feats"], data["pid"], data["cam"], int(data["n_query"])
        yield Case(f"omniglot {encoder}", encoder, x, ids, cams, n, data["view_mean"])
        rng = np.random.default_rng(1)
        for count, each in ((100, 20), (400, 5), (300, 3)):
            kept = rng.permutation(400)[:count]
            rows = [rng.permutation(np.flatnonzero(ids == i))[:each] for i in np.unique(ids)[kept]]
            rows = np.concatenate(rows)
            name = f"{encoder}, {count} characters, {each} drawings"
            yield split(f"omniglot {encoder}", name, x[rows], ids[rows], cams[rows])


def embedded() -> Iterator[Case]:
    data = load_demo()
    yield Case("embedded", "embedded", data.features, data.ids, data.cams, data.n_query, data.generated.mean(axis=1))
    with np.load(Path(__import__("pose2id").__file__).parent / "data/omniglot_tiny.npz") as archive:
        pictures = np.unpackbits(archive["thumbs"], axis=1).reshape(-1, 28, 28).astype(float)
    rows = {
        "pixels": pca(pictures.reshape(len(pictures), -1), 32),
        "edges": gradients(pictures),
        "filters": filtered(pictures, 0),
    }
    for name, x in rows.items():
        yield Case("drawings", f"drawings, {name}", x, data.ids, data.cams, data.n_query)


def letters(folders: list[Path]) -> Iterator[Case]:
    """Printed characters: an identity is a character, a camera a kind of font."""
    from PIL import Image, ImageDraw, ImageFont

    names = sorted(path for folder in folders for path in folder.glob("*.ttf"))
    names = [x for x in names if x.stem.split("-")[0] in FAMILIES]
    families = sorted({x.stem.split("-")[0] for x in names})
    characters = [*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0x30, 0x3A), *range(0xC0, 0x130), *range(0x391, 0x3CA)]
    characters += range(0x410, 0x450)
    pictures, ids, cams = [], [], []
    rng = np.random.default_rng(0)
    for path in names:
        font = ImageFont.truetype(str(path), 26)
        for number in characters:
            if chr(number).isalnum():
                image = Image.new("L", (32, 32))
                ImageDraw.Draw(image).text(
                    (16 + rng.uniform(-2, 2), 16 + rng.uniform(-2, 2)), chr(number), 255, font, "mm"
                )
                pictures.append(np.asarray(image) / 255.0)
                ids.append(number)
                cams.append(families.index(path.stem.split("-")[0]))
    pictures, ids, cams = np.array(pictures), np.array(ids), np.array(cams)
    kept = np.random.default_rng(0).permutation(len(pictures))[:5000]
    pictures, ids, cams = pictures[kept], ids[kept], cams[kept]
    rows = {
        "pixels": pca(pictures.reshape(len(pictures), -1), 64),
        "edges": gradients(pictures, 5),
        "filters": filtered(pictures, 0),
    }
    for name, x in rows.items():
        yield split("letters", f"letters, {name}", x, ids, cams)


FAMILIES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSansCondensed", "LiberationSans", "LiberationSerif")
FAMILIES += ("LiberationMono", "LiberationSansNarrow", "NotoSans", "NotoSerif", "NotoSansDisplay", "NotoSerifDisplay")
FAMILIES += ("NotoMono", "NotoSansMono")


def digits() -> Iterator[Case]:
    from sklearn.datasets import load_digits

    data = load_digits()
    ids, cams = data.target, np.arange(len(data.target)) % 6
    yield split("digits", "digits, pixels", data.data, ids, cams)
    yield split("digits", "digits, edges", gradients(data.images / 16, 2), ids, cams)


def spoken(repository: str) -> Iterator[Case]:
    """Spoken digits: an identity is a digit by a speaker, or a speaker; a camera a part of the recordings."""
    names = subprocess.run(
        ["git", "-C", repository, "ls-tree", "-r", "--name-only", "HEAD", "recordings"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    names = [x for x in names if x.endswith(".wav")]
    raw = subprocess.run(
        ["git", "-C", repository, "cat-file", "--batch"],
        input="".join(f"HEAD:{x}\n" for x in names).encode(),
        capture_output=True,
        check=True,
    ).stdout
    rows, labels, at = [], [], 0
    for name in names:
        end = raw.index(b"\n", at)
        size = int(raw[at:end].split()[2])
        with wave.open(io.BytesIO(raw[end + 1 : end + 1 + size])) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        at = end + 1 + size + 1
        if len(sound) < 400:
            continue
        windows = sliding_window_view(np.pad(sound, (0, 256)), 256)[:: max(1, len(sound) // 60)] * np.hanning(256)
        power = np.log(np.abs(np.fft.rfft(windows)) ** 2 + 1e3)
        bands = np.stack([part.mean(axis=1) for part in np.array_split(power[:, 1:], 24, axis=1)], axis=1)
        rows.append(np.stack([part.mean(axis=0) for part in np.array_split(bands, 12, axis=0)]).ravel())
        digit, speaker, number = Path(name).stem.split("_")
        labels.append((int(digit), speaker, int(number)))
    x = np.array(rows)
    x = x - x.mean(axis=0)
    people = sorted({speaker for _, speaker, _ in labels})
    both = np.array([d * 10 + people.index(s) for d, s, _ in labels])
    cams = np.array([number % 6 for *_, number in labels])
    yield split("spoken", "spoken digits of speakers", x, both, cams)
    yield split("spoken", "spoken digits, 32 components", pca(x, 32), both, cams)
    yield split(
        "spoken", "spoken digits, any speaker", x, both // 10, np.array([people.index(s) for _, s, _ in labels])
    )


def trained(cases: Iterable[Case], width: int = 48) -> Iterator[Case]:
    """Linear discriminants of half of the identities, on the other half."""
    for case in cases:
        rng = np.random.default_rng(0)
        names = rng.permutation(np.unique(case.ids))
        seen = np.isin(case.ids, names[: len(names) // 2])
        x = case.features.astype(float)
        x = pca(x, 300) if x.shape[1] > 400 else x
        x = x - x[seen].mean(axis=0)
        who = np.unique(case.ids[seen], return_inverse=True)[1]
        means = np.zeros((who.max() + 1, x.shape[1]))
        np.add.at(means, who, x[seen])
        means /= np.bincount(who)[:, None]
        within = np.cov((x[seen] - means[who]).T, bias=True)
        within += 0.1 * np.eye(len(within)) * np.trace(within) / len(within)
        whiten = np.linalg.inv(np.linalg.cholesky(within)).T
        axes = np.linalg.svd(means @ whiten, full_matrices=False)[2][:width].T
        cams = np.unique(case.cams, return_inverse=True)[1]
        yield split(case.family, f"{case.name}, trained", (x @ whiten @ axes)[~seen], case.ids[~seen], cams[~seen])


def warp(picture: np.ndarray, rng: np.random.Generator, size: int, angle: float, scale: float, shift: float):
    """The middle of a picture, a little turned, scaled and moved."""
    turn, factors = rng.normal(0, angle), np.exp(rng.normal(0, scale, 2))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * factors
    offset = np.array(picture.shape) / 2 - matrix @ np.full(2, size / 2) + rng.normal(0, shift, 2)
    return affine_transform(picture, matrix, offset, output_shape=(size, size), order=1)


def encoded(family: str, pictures: np.ndarray, ids: np.ndarray, cams: np.ndarray, seed: int) -> Iterator[Case]:
    flat = pictures.reshape(len(pictures), -1)
    rows = {
        "pixels": pca(flat - flat.mean(axis=1, keepdims=True), 64),
        "edges": gradients(pictures),
        "filters": filtered(pictures, seed),
    }
    for name, x in rows.items():
        yield split(family, f"{family}, {name}", x, ids, cams)


def patches() -> Iterator[Case]:
    """An identity is a place in a photograph, a camera its contrast."""
    from sklearn.datasets import load_sample_images

    photographs = [image.mean(axis=2) / 255 for image in load_sample_images().images]
    rng = np.random.default_rng(5)
    pictures, ids, cams = [], [], []
    for place in range(400):
        photograph = photographs[place % 2]
        y, x = (int(rng.integers(40, length - 40)) for length in photograph.shape)
        for _ in range(int(rng.integers(3, 14))):
            cam = int(rng.integers(4))
            contrast, light = ((1, 0), (0.7, 0.1), (1.3, -0.1), (0.8, -0.05))[cam]
            picture = warp(photograph[y - 36 : y + 36, x - 36 : x + 36], rng, 32, 0.15, 0.12, 2.5)
            pictures.append(np.clip(picture * contrast + light + rng.normal(0, 0.04, picture.shape), 0, 1))
            ids.append(place)
            cams.append(cam)
    yield from encoded("patches", np.array(pictures), np.array(ids), np.array(cams), 1)


def glyphs(folders: list[Path]) -> Iterator[Case]:
    """An identity is a character of a script, drawn in several weights, turned and scaled."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(7)
    pictures, ids, cams = [], [], []
    for script, (first, last) in SCRIPTS.items():
        paths = sorted(path for folder in folders for path in folder.glob(f"Noto*{script}-*.ttf"))
        fonts = [ImageFont.truetype(str(path), 34) for path in paths]
        for number in filter(lambda n: chr(n).isalpha(), range(first, last) if fonts else ()):
            for time in range(int(rng.integers(4, 16))):
                image = Image.new("L", (56, 56))
                font = fonts[int(rng.integers(len(fonts)))]
                ImageDraw.Draw(image).text((28, 28), chr(number), 255, font, "mm")
                pictures.append(warp(np.asarray(image) / 255.0, rng, 40, 0.12, 0.1, 1.5))
                ids.append(number)
                cams.append(time % 5)
    if pictures:
        yield from encoded("glyphs", np.array(pictures), np.array(ids), np.array(cams), 3)


SCRIPTS = {
    "Devanagari": (0x905, 0x939), "Ethiopic": (0x1200, 0x1246), "Georgian": (0x10D0, 0x10F0),
    "Armenian": (0x531, 0x556), "Hebrew": (0x5D0, 0x5EA), "Tamil": (0xB85, 0xBB9), "Thai": (0xE01, 0xE2E),
    "Cherokee": (0x13A0, 0x13D0), "Sinhala": (0xD85, 0xDC6), "Myanmar": (0x1000, 0x1021),
    "CanadianAboriginal": (0x1401, 0x1440),
}  # fmt: skip


def people(seed: int = 0) -> Iterator[Case]:
    from PIL import Image

    from pose2id.programs.extraction.encoders import load_encoder
    from pose2id.synthetic import make_set

    data = make_set(range(1000, 1120), seed=3 + seed, per_cam=2)
    small = np.stack([np.asarray(Image.fromarray(x).resize((8, 16))) for x in data.images]).astype(float)
    grey = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in data.images]) / 255.0
    stripes = []
    for picture in data.images:
        cells = [part[:, 8:-8].reshape(-1, 3) // 43 for part in np.array_split(picture, 6, axis=0)]
        stripes.append(np.concatenate([np.bincount(c @ (36, 6, 1), minlength=216) for c in cells]))
    encode = load_encoder("tiny").call
    encoded = [
        np.asarray(encode([Image.fromarray(x) for x in data.images[i : i + 64]])) for i in range(0, len(data), 64)
    ]
    rows = {
        "encoder": np.concatenate(encoded),
        "pixels": small.reshape(len(small), -1) - small.mean(),
        "colours": pca(np.sqrt(np.array(stripes)), 64),
        "edges": gradients(grey),
    }
    for name, x in rows.items():
        yield split("people", f"people, {name}", x, np.asarray(data.ids), np.asarray(data.cams))


def made(count: int, seed: int = 0) -> Iterator[Case]:
    """Identities in feature space: sizes, noise, dimension, spectrum, groups and cameras at random."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        n = int(rng.integers(800, 2500))
        each = float(np.exp(rng.uniform(np.log(2.5), np.log(40))))
        width = int(rng.choice([16, 32, 64, 128, 256, 512]))
        slope = rng.uniform(0, 1.5)
        scale = (1 + np.arange(width) / rng.uniform(1, 20)) ** -slope
        scale /= np.sqrt((scale**2).sum())
        uneven = rng.random() < 0.5
        sizes = np.maximum(1, rng.lognormal(np.log(each), 0.7 if uneven else 0.05, int(n / each) + 2)).astype(int)
        ids = np.repeat(np.arange(len(sizes)), sizes)
        n_cams = int(rng.integers(2, 9))
        cams = rng.integers(0, n_cams, len(ids))
        groups = rng.standard_normal((max(2, len(sizes) // int(rng.integers(3, 40))), width)) * scale
        shared = rng.uniform(0, 0.9) * (rng.random() < 0.7)
        centres = np.sqrt(shared) * groups[rng.integers(0, len(groups), len(sizes))]
        centres = centres + np.sqrt(1 - shared) * rng.standard_normal((len(sizes), width)) * scale
        noise_scale = scale if rng.random() < 0.5 else np.full(width, width**-0.5)
        noise = np.exp(rng.uniform(np.log(0.25), np.log(3))) * (width / (width + 40)) ** 0.5
        x = centres[ids]
        if rng.random() < 0.6:
            x = x + rng.uniform(0, 1.2) * (rng.standard_normal((n_cams, width)) * scale)[cams]
        if rng.random() < 0.5:
            key = np.unique(ids * n_cams + cams, return_inverse=True)[1]
            x = x + rng.uniform(0, 1.0) * (rng.standard_normal((key.max() + 1, width)) * scale)[key]
        kind = rng.integers(0, 3)
        drawn = rng.standard_normal((len(ids), width)) if kind < 2 else rng.standard_t(3, (len(ids), width)) / 3**0.5
        if kind == 1:
            drawn *= rng.lognormal(-0.1, 0.5, (len(ids), 1))
        x = x + noise * drawn * noise_scale
        if rng.random() < 0.3:
            x = np.maximum(x, 0)
        if rng.random() < 0.3:
            x = x + rng.uniform(0, 2) * np.ones(width) * width**-0.5
        yield split("made", f"made {number}", x, ids, cams, number)
    for number in range(count // 5):
        x, ids, cams = reid_like(2500, (64, 256, 768)[number % 3], seed=1000 * seed + number)
        rng = np.random.default_rng([seed, number])
        x = x + rng.uniform(0, 2) * rng.standard_normal(x.shape) / x.shape[1] ** 0.5
        yield split("tracklets", f"tracklets {number}", x, ids, cams, number)


def every_case(
    folder: Path | None,
    fonts: list[Path],
    sounds: str | None,
    *,
    made_sets: int,
    seed: int = 0,
    degraded: tuple[str, ...] = DEGRADED,
) -> Iterator[Case]:
    """All sets; those whose folders are not named are left out."""
    sources: list[list[Case]] = [list(omniglot(folder))] if folder else []
    sources += [list(embedded()), list(digits())]
    both = [patches(), people(seed), *([letters(fonts), glyphs(fonts)] if fonts else [])]
    both += [spoken(sounds)] if sounds else []
    for source in map(list, both):
        sources += [source, list(trained(source))]
    if folder:
        sources.append(list(trained(case for case in sources[0] if case.name == "weak")))
    for case in itertools.chain(*sources):
        smaller = "characters" in case.name
        for how in degraded:
            if not smaller or how in ("-", "noise 1", "16 dimensions"):
                yield degrade(case, how)
    yield from (degrade(case, "-") for case in made(made_sets, seed) if len(case.ids) - case.n_query >= 200)
