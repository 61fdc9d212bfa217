"""The whole method on synthetic pedestrians: generate, centralize, the tables of the paper, a sheet of pictures.

The generator is one that ``pose2id ipg-train`` made of ``data/tiny.toml``. People, pictures and cameras are drawn by a
program (`pose2id.synthetic`), and the generator was trained on other people of the same world. So the
numbers show that the method does what the paper says, and how its parts work together; they say nothing about how much
it brings on photographs. Nothing is printed here; the command line prints.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id.centralization import centralize
from pose2id.density import id_density
from pose2id.evaluation import Scores, evaluate, evaluate_features
from pose2id.reranking import rerank
from pose2id.synthetic import SyntheticSet, make_camera, make_person, make_set, render

if TYPE_CHECKING:
    from pose2id.ipg.pipeline import IPGPipeline

__all__ = [
    "Encoder",
    "Row",
    "Views",
    "Walkthrough",
    "build_tables",
    "compare_with_poses",
    "count_right_people",
    "draw_people",
    "draw_sheet",
    "encode",
    "format_tables",
    "make_encoders",
    "make_people",
    "make_real_views",
    "rows_as_dicts",
    "run_walkthrough",
    "switch_off",
]

TRAINED = range(2000, 4000)
"""Identities of the generator and of its encoder, seed 0; see ``data/tiny.toml``."""
VALIDATION = range(5000, 5100)
"""Identities for the choice of guidance and eta."""
TESTED = range(30)
GUIDANCE = 2.0
ETAS = {"strong": 0.25, "weak": 2.0, "untrained": 2.0, "raw pixels": 2.0}
"""From a feasibility study; to be chosen on `VALIDATION` for a trained generator."""
STEPS = 10
ABLATED = 90
"""About so many queries for each row of Fig. 5."""
WEAK_IDENTITIES, WEAK_STEPS = range(6000, 6100), 100

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Encoder = Callable[[Images], Features]


@dataclass(frozen=True)
class Row:
    """A row of a table: scores as fractions, by the protocol ``market1501``.

    Attributes
    ----------
    table, encoder, name : str
    mAP, error, rank1, id2 : float
        `error` is the standard error of mAP over identities; `id2` is over query and gallery, as in the paper.
    """

    table: str
    encoder: str
    name: str
    mAP: float
    error: float
    rank1: float
    id2: float


@dataclass(frozen=True, eq=False)
class Views:
    """Features of one encoder: of the pictures (N, D), of what was generated (N, M, D), and of controls."""

    features: Features
    generated: Features
    mirrored: Features
    augmented: Features
    real: Features


@dataclass(frozen=True, eq=False)
class Walkthrough:
    """What `run_walkthrough` found out.

    Attributes
    ----------
    rows : list of Row
        The tables.
    people : SyntheticSet
        The held-out people, queries first.
    drawn : ndarray of uint8, shape (N, 8, H, W, 3)
        All of them in the eight poses.
    views : dict of str to Views
        Features by the encoder's name.
    """

    rows: list[Row]
    people: SyntheticSet
    drawn: Images
    views: dict[str, Views]


def run_walkthrough(pipe: IPGPipeline, ids: Iterable[int] = TESTED, *, progress: bool = False) -> Walkthrough:
    """Draw held-out people, extract features, centralize, evaluate: the tables of the paper on this world.

    Parameters
    ----------
    pipe : IPGPipeline
        A small one, such as ``IPGPipeline.from_pretrained("OUT/pipeline")``.
    ids : iterable of int
        People that it was not trained on.
    progress : bool
        Bars on stderr.

    Returns
    -------
    Walkthrough
    """
    people, queries = make_people(ids, progress=progress)
    drawn = draw_people(pipe, people, progress=progress)
    real = make_real_views(people)
    encoders = make_encoders(pipe, progress=progress)
    views = {name: view_features(encoder, people, drawn, real) for name, encoder in encoders.items()}
    rows = build_tables(people, queries, views)
    few = people.select(slice(0, queries, max(1, queries // ABLATED)))
    rows += _ablate(pipe, few, people.select(slice(queries, None)), encoders["strong"], progress=progress)
    return Walkthrough(rows, people, drawn, views)


def _ablate(
    pipe: IPGPipeline, few: SyntheticSet, gallery: SyntheticSet, strong: Encoder, *, progress: bool
) -> list[Row]:
    """Fig. 5: generated features alone as queries, with parts of the generator switched off."""
    title, rows = "Fig. 5: generated features alone as queries", []
    for name, off in (
        ("tokens and reference", {}),
        ("reference only, tokens off", {"tokens": True}),
        ("tokens only, reference off", {"reference": True}),
        ("both off", {"tokens": True, "reference": True}),
    ):
        drawn = draw_people(switch_off(pipe, **off) if off else pipe, few, progress=progress)
        query, items = _unit(strong(drawn).mean(1)), _unit(strong(gallery.images))
        scores = evaluate_features(query, items, few.ids, gallery.ids, few.cams, gallery.cams)
        density = id_density(np.concatenate([query, items]), np.concatenate([few.ids, gallery.ids]))
        rows.append(Row(title, "strong", name, scores.mAP, _error(scores, few.ids), scores.rank(1), density))
    return rows


def draw_sheet(people: SyntheticSet, drawn: Images, path: str | os.PathLike[str], *, count: int = 8) -> Path:
    """A picture of references, poses and what was generated; `count` people, evenly from all of them."""
    from PIL import Image

    from pose2id.ipg.poses import representative_poses

    height, width = people.images.shape[1:3]
    poses = [np.asarray(pose.draw(width, height)) for pose in representative_poses()]
    blank = np.full_like(poses[0], 255)
    chosen = np.linspace(0, len(people) - 1, count).round().astype(int)
    rows = [np.concatenate([blank, *poses], axis=1)]
    rows += [np.concatenate([people.images[row], *drawn[row]], axis=1) for row in chosen]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet = sheet.resize((3 * sheet.width, 3 * sheet.height), Image.Resampling.NEAREST)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    sheet.save(temporary, format="PNG")
    temporary.replace(target)
    return target


def make_people(ids: Iterable[int] = TESTED, *, seed: int = 0, progress: bool = False) -> tuple[SyntheticSet, int]:
    """Held-out people: ten pictures of each, queries first, and the number of queries.

    The six cameras have two shots each; the first shot is a query, the second is in the gallery, but the last two
    cameras have no second one.
    """
    world = make_set(ids, seed=seed, cams=6, per_cam=2, progress=progress)
    shot = np.arange(len(world)) % 2
    query, gallery = np.flatnonzero(shot == 0), np.flatnonzero((shot == 1) & (world.cams < 4))
    return world.select(np.concatenate([query, gallery])), len(query)


def draw_people(
    pipe: IPGPipeline,
    people: SyntheticSet,
    poses: Sequence[Any] | None = None,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 42,
    batch_size: int = 32,
    progress: bool = False,
) -> Images:
    """Every person in every pose, (N, M, H, W, 3); noise by the place in the set."""
    from PIL import Image
    from tqdm import tqdm

    pipe.set_progress_bar_config(disable=True)
    chunk = max(1, batch_size // 8)
    rows: list[Any] = []
    for start in tqdm(range(0, len(people), chunk), desc="generating", unit="batch", disable=not progress):
        images = [Image.fromarray(image) for image in people.images[start : start + chunk]]
        keys = list(range(start, start + len(images)))
        drawn: Any = pipe(
            images,
            poses,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=seed,
            output_type="np",
            batch_size=batch_size,
            reference_keys=keys,
            return_dict=False,
        )[0]
        rows.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(rows)


def switch_off(pipe: IPGPipeline, *, tokens: bool = False, reference: bool = False) -> IPGPipeline:
    """The same generator, that does not see the identity tokens, or the reference network's hidden states."""
    from pose2id.ipg.pipeline import IPGPipeline

    class Ablated(IPGPipeline):
        """Remembers less of a person."""

        def remember(self, image: Any, height: int, width: int) -> Any:
            seen = self.identity_tokens(None if tokens else image)
            bank = None if reference else self.reference_bank(self.reference_latents(image, height, width), seen)
            return self._project(bank, seen)

    return Ablated(**pipe.components, sample_size=pipe.config.sample_size)


def make_encoders(pipe: IPGPipeline, *, seed: int = 0, progress: bool = False) -> dict[str, Encoder]:
    """Four encoders: the generator's own, one that was trained for seconds, one that was not trained, and pixels."""
    import torch

    from pose2id.ipg.encoder_training import train_encoder
    from pose2id.ipg.small import SmallEncoder

    few = make_set(WEAK_IDENTITIES, seed=0, per_cam=1, progress=progress)
    weak = train_encoder(few.images, few.ids, steps=WEAK_STEPS, seed=seed, progress=progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = SmallEncoder(img_size=pipe.identity_encoder.config.img_size).eval()
    networks = {"strong": pipe.identity_encoder, "weak": weak, "untrained": untrained}
    encoders: dict[str, Encoder] = {name: partial(encode, network) for name, network in networks.items()}
    return encoders | {"raw pixels": _shrink}


def encode(network: Any, images: Images) -> Features:
    """Features of pictures with any number of leading axes, (..., H, W, 3), by a `SmallEncoder`."""
    from pose2id.ipg.encoder_training import encode_images

    flat = images.reshape(-1, *images.shape[-3:])
    return encode_images(network, flat).reshape(*images.shape[:-3], -1)


def _shrink(images: Images) -> Features:
    """Pixels as a feature: means of squares of 4 x 4."""
    *lead, height, width, _ = images.shape
    squares = images.astype(np.float32).reshape(*lead, height // 4, 4, width // 4, 4, 3)
    means: Features = squares.mean((-2, -4)).reshape(*lead, -1) - 127.5
    return means


def make_real_views(people: SyntheticSet, count: int = 8, *, seed: int = 0) -> Images:
    """As an upper bound: other pictures of the same people, (N, count, H, W, 3), as if the generator were perfect."""
    height, width = people.images.shape[1:3]
    shots = make_set(np.unique(people.ids), seed=seed, cams=6, per_cam=4, height=height, width=width)
    rng = np.random.default_rng(seed)
    fresh = np.arange(len(shots)) % 4 >= 2  # the first two shots are the pictures themselves
    return np.stack([shots.images[rng.choice(np.flatnonzero(fresh & (shots.ids == who)), count)] for who in people.ids])


def _augment(images: Images, count: int = 8, *, seed: int = 0) -> Images:
    """Plain augmentations of each picture: mirrored, shifted, brighter or darker, (N, count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    n, height, width, _ = images.shape
    views = np.empty((n, count, height, width, 3), np.uint8)
    padded = np.pad(images, ((0, 0), (4, 4), (2, 2), (0, 0)), mode="edge")
    for i in range(n):
        for j in range(count):
            top, left = rng.integers(9), rng.integers(5)
            view = padded[i, top : top + height, left : left + width] * rng.uniform(0.8, 1.2, 3)
            views[i, j] = np.clip(view[:, ::-1] if j % 2 else view, 0, 255)
    return views


def view_features(encoder: Encoder, people: SyntheticSet, generated: Images, real: Images) -> Views:
    """What one encoder makes of all these pictures."""
    return Views(
        features=encoder(people.images),
        generated=encoder(generated),
        mirrored=encoder(np.ascontiguousarray(people.images[:, :, ::-1])),
        augmented=encoder(_augment(people.images)),
        real=encoder(real),
    )


def build_tables(people: SyntheticSet, queries: int, views: dict[str, Views]) -> list[Row]:
    """The paper's Tables 2 to 7 and Fig. 8 on these people, with controls.

    Parameters
    ----------
    people : SyntheticSet
        Queries first.
    queries : int
        How many there are.
    views : dict of str to Views
        By the encoder's name; see `make_encoders`.

    Returns
    -------
    list of Row
    """
    rows: list[Row] = []
    for encoder, seen in views.items():
        eta = ETAS[encoder]
        add = partial(_add_row, rows, people, queries, encoder, seen)
        number = "2" if encoder in ("strong", "weak") else "5"
        title = f"Table {number}: {'parts of the method' if number == '2' else 'encoders without ReID training'}"
        add(title, "base")
        add(title, "+ NFC", k=2)
        add(title, f"+ IPG, eta = {eta:g}", eta=eta)
        add(title, "+ IPG + NFC", eta=eta, k=2)
        if number == "5":
            continue
        for side in ("query", "gallery"):
            title = f"Tables 3 and 4: {side} only"
            add(title, "+ NFC", k=2, side=side)
            add(title, f"+ IPG, eta = {eta:g}", eta=eta, side=side)
        for m in range(seen.generated.shape[1] + 1):
            add("Table 6: number of poses M", f"M = {m}", eta=eta if m else 0, m=m)
        for other in (0.25, 0.5, 1, 2, 4):
            add("Fig. 8: eta", f"eta = {other:g}", eta=other)
        add("Table 7: with re-ranking", "base", reranked=True)
        add("Table 7: with re-ranking", "+ IPG + NFC", eta=eta, k=2, reranked=True)
        controls = {
            "mirrored picture": seen.mirrored[:, None],
            "8 plain augmentations": seen.augmented,
            "8 other real pictures (oracle)": seen.real,
        }
        for name, features in controls.items():
            for other in sorted({eta, 1.0}):
                title = "Controls in place of generated pictures"
                add(title, f"{name}, eta = {other:g}", eta=other, instead=features)
    order = {row.table: i for i, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: order[row.table])


def _add_row(
    rows: list[Row],
    people: SyntheticSet,
    queries: int,
    encoder: str,
    seen: Views,
    table: str,
    name: str,
    *,
    eta: float = 0.0,
    k: int = 0,
    m: int | None = None,
    side: str = "both",
    reranked: bool = False,
    instead: Features | None = None,
) -> None:
    generated = seen.generated[:, :m] if instead is None else instead
    parts = []
    for part, half in (("query", slice(queries)), ("gallery", slice(queries, None))):
        chosen = side in (part, "both")
        used = generated[half] if eta and chosen else None
        parts.append(centralize(seen.features[half], used, eta, k if chosen else 0, k if chosen else 0))
    query, gallery = parts
    labels = (people.ids[:queries], people.ids[queries:], people.cams[:queries], people.cams[queries:])
    scores = evaluate(rerank(query, gallery), *labels) if reranked else evaluate_features(query, gallery, *labels)
    density = id_density(np.concatenate(parts), people.ids)
    rows.append(Row(table, encoder, name, scores.mAP, _error(scores, labels[0]), scores.rank(1), density))


def _error(scores: Scores, ids: NDArray[np.int64]) -> float:
    """Standard error of mAP, over the mean average precisions of identities."""
    means = np.array([np.nanmean(scores.average_precision[ids == who]) for who in np.unique(ids)])
    return float(means.std(ddof=1) / len(means) ** 0.5)


def count_right_people(encoder: Encoder, people: SyntheticSet, drawn: Images, gallery: SyntheticSet) -> float:
    """Share of the generated pictures whose nearest real identity is that of their reference.

    The nearest identity is that of the nearest mean feature of the gallery's pictures; the reference's own picture must
    not be in it.
    """
    names = np.unique(gallery.ids)
    features = _unit(encoder(gallery.images))
    centres = _unit(np.stack([features[gallery.ids == name].mean(0) for name in names]))
    nearest = names[(_unit(encoder(drawn)) @ centres.T).argmax(-1)]  # (N, M)
    return float((nearest == people.ids[:, None]).mean())


def _unit(features: Features) -> Features:
    unit: Features = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return unit


def compare_with_poses(people: SyntheticSet, drawn: Images, poses: Sequence[Any], yaws: Sequence[float]) -> float:
    """Share of the generated pictures that are most like the true person in the pose that was asked for.

    Each is compared with the person as the program draws it in each of the poses: by how well colours inside of the
    person's outline fit after a change of brightness and contrast in each channel, against those outside. By chance it
    would be one in the number of poses.
    """
    height, width = people.images.shape[1:3]
    right = []
    for row, who in enumerate(people.ids):
        person = make_person(0, int(who))
        true = [
            render(
                person, pose, yaw, make_camera(0, 0), np.random.default_rng(0), height=height, width=width, clean=True
            )
            for pose, yaw in zip(poses, yaws, strict=True)
        ]
        for asked in range(len(poses)):
            fits = [_fit(drawn[row, asked], picture.image, picture.mask) for picture in true]
            right.append(int(np.argmax(fits)) == asked)
    return float(np.mean(right))


def _fit(image: Images, true: Images, mask: NDArray[np.bool_]) -> float:
    """Correlation of two pictures inside a mask, times the contrast of the first across the mask's border."""
    inside, outside = image[mask].astype(np.float64), image[~mask].astype(np.float64)
    wanted = true[mask].astype(np.float64)
    own, other = inside - inside.mean(0), wanted - wanted.mean(0)
    correlation = (own * other).sum() / max(1e-9, np.sqrt((own**2).sum() * (other**2).sum()))
    spread = np.concatenate([inside, outside]).std(0) + 1e-9
    contrast = np.abs((inside.mean(0) - outside.mean(0)) / spread).mean()
    return float(correlation + contrast)


def format_tables(rows: Sequence[Row]) -> str:
    """The rows as text, one block for each table, scores in percent."""
    lines = [f"{'':<48}{'mAP':>7}{'+-':>6}{'R1':>7}{'ID2':>8}", "-" * 76]
    for table in dict.fromkeys(row.table for row in rows):
        lines.append(table)
        for row in (row for row in rows if row.table == table):
            cells = f"{100 * row.mAP:>7.1f}{100 * row.error:>6.1f}{100 * row.rank1:>7.1f}{row.id2:>8.3f}"
            lines.append(f"  {row.encoder:<11}{row.name:<35}{cells}")
    return "\n".join([*lines, "-" * 76, *_LEGEND])


_LEGEND = (
    "Synthetic people, drawn by a program; nobody is real. The generator was trained on other people of",
    "the same world, together with the encoder 'strong': what 'weak' gains is mostly what 'strong' knew.",
    "mAP, its standard error over identities (+-) and R1 in percent (market1501); ID2: lower is denser.",
)


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [dataclasses.asdict(row) for row in rows]
