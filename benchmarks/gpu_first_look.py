"""The first look at a GPU: what nobody could see without one, as one Markdown file, in about ten minutes.

python benchmarks/gpu_first_look.py -o FILE.md                           on a GPU
python benchmarks/gpu_first_look.py -o FILE.md --device cpu --small      the same in seconds, to see that it runs

Each section is guarded: what raises is told in the file, and the rest goes on. The file is written anew after each
section, so that an end by force loses one. docs/gpu.md says what the answers are for, and where to send them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import os
import platform
import shutil
import statistics
import subprocess
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from features import reid_like

from pose2id import arrays, centralize, evaluate, evaluate_features, id_density, knn_graph, rerank, rerank_top
from pose2id.atomic import write_file
from pose2id.distances import full_precision
from pose2id.neighbors import describe_engines
from pose2id.neighbors._int8 import layout, machine
from pose2id.tables import format_markdown


class Look:
    """One look at one device: how big the sets are, how to measure, and what has raised so far."""

    def __init__(self, device: str, *, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.rows, self.queries, self.width = (96, 32, 16) if small else (17_000, 3000, 768)
        self.repeats = 1 if small else 3
        self.failures: list[tuple[str, str, str]] = []  # where, the last line, the whole traceback

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def features(self, rows=None, width=None):
        """Features, identities and cameras, on the CPU."""
        return tuple(map(torch.from_numpy, reid_like(rows or self.rows, width or self.width)))

    def wait(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, call, repeats=None):
        """The median time of a call, after one that is not counted."""
        call()
        self.wait()
        times = []
        for _ in range(repeats or self.repeats):
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self, call, rows):
        """The peak of a call's memory on the device beyond what was there, as a share of the rows."""
        if not self.on_gpu:
            return "-"
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return f"{(torch.cuda.max_memory_allocated() - before) / rows.nbytes:.2f}"

    def waits(self, call):
        """How often the host waits for the device in a call, as torch's debug mode warns of it."""
        if not self.on_gpu:
            return "-"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(each.message) for each in told)

    def attempt(self, where, call):
        """What a call gives; None if it raises, which is kept."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  whatever it is belongs into the file
            last = traceback.format_exception_only(error)[-1].strip()
            self.failures.append((where, last, traceback.format_exc()))
            return None


def tell_machine(look):
    """Device, driver, versions."""
    said = [f"- {platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs"]
    said += [f"- torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.version.cuda}"]
    packages = ("pose2id", "numpy", "scipy", "diffusers", "faiss-cpu", "faiss-gpu-cu12", "faiss-gpu")
    said += ["- " + ", ".join(f"{name} {_version(name)}" for name in packages)]
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    said += [f"- commit {_output(commit)}"]
    if look.on_gpu:
        has = torch.cuda.get_device_properties(look.device)
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        said += [f"- GPU {torch.cuda.get_device_name()}, capability {capability}"]
        said += [f"- {has.total_memory / 2**30:.1f} GiB, {has.multi_processor_count} multiprocessors"]
        wanted = "--query-gpu=driver_version,clocks.max.sm,power.limit"
        said += [f"- driver, clock, power: {_output(['nvidia-smi', wanted, '--format=csv,noheader'])}"]
        said += [f"- cuDNN {torch.backends.cudnn.version()}, float32 products: {torch.get_float32_matmul_precision()}"]
    return said


def tell_engines(look):
    """Which engines work, and the largest int8 code whose products are exact."""
    level = machine.largest_code(look.device.type)
    table = [(name, "works" if works else "no", words) for name, works, words in describe_engines()]
    return [
        f"`largest_code`: {level} (127 is right)",
        "",
        format_markdown(("engine", "", "what it says"), table, align="<"),
    ]


def tell_products(look):
    """The shapes and layouts of int8 products that pose2id uses, and those that it avoids: exact, raised, speed."""
    size = 64 if look.small else 8192
    table = []
    for words, m, k, n, layouts in (
        ("pivots, B1", 512, 128, 2048, "NT"),
        ("pivots, by rows", 512, 128, 2048, "NN"),
        ("projection, B1", 512, 768, 128, "NT"),
        ("projection, by rows", 512, 768, 128, "NN"),
        ("left by columns", 512, 768, 128, "TN"),
        ("17 rows", 17, 128, 128, "NT"),
        ("16 rows", 16, 128, 128, "NT"),
        ("16 columns", 64, 16, 64, "NT"),
        ("12 columns", 64, 12, 64, "NT"),
        ("20 on the right", 64, 128, 20, "NT"),
        ("a tile", size, 768, size, "NT"),
        ("a wide tile", size, 2048, size, "NT"),
    ):
        left, right = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((m, k), (n, k)))
        part = min(m, 256)  # of the rows, to compare
        wanted = left[:part].double() @ right.double().T
        left, right = left.to(look.device), right.to(look.device)
        if layouts[0] == "T":
            left = left.T.contiguous().T
        columns = right.T if layouts[1] == "T" else right.T.contiguous()
        shape = f"{m} x {k} x {n}"
        try:
            same = torch.equal(torch._int_mm(left, columns)[:part].cpu().double(), wanted)
            seconds = look.seconds(lambda left=left, columns=columns: torch._int_mm(left, columns))
            table.append((words, shape, layouts, "exact" if same else "WRONG", f"{2e-12 * m * k * n / seconds:.2f}"))
        except RuntimeError as error:
            table.append((words, shape, layouts, str(error).splitlines()[0][:90], ""))
    rows = torch.randn(size, 768, device=look.device)
    with full_precision(look.device):
        seconds = look.seconds(lambda: rows @ rows.T)
    table.append(("float32", f"{size} x 768 x {size}", "NT", "", f"{2e-12 * 768 * size**2 / seconds:.2f}"))
    return [format_markdown(("what", "shape", "layout", "result", "10^12 operations/s"), table, align="<")]


def tell_launches(look):
    """What a launch, a wait, and a step over so many elements take: what `arrays.CUDA_ELEMENTS` was estimated from."""
    one = torch.zeros(1, device=look.device)
    number = 10 if look.small else 2000

    def repeat(call):
        return lambda: [call() for _ in range(number)]

    table = [("a launch", look.seconds(repeat(lambda: one.add_(1))) / number)]
    table += [("a launch and a wait", look.seconds(repeat(one.item)) / number)]
    for exponent in (10, 14) if look.small else (16, 18, 20, 22, 24, 26):
        some = torch.zeros(2**exponent, device=look.device)
        table += [(f"a step over 2^{exponent} float32", look.seconds(repeat(lambda some=some: some.add_(1))) / number)]
    return [format_markdown(("what", "microseconds"), [(words, f"{1e6 * took:.1f}") for words, took in table])]


def calls(rows, ids, cams, queries):
    """The public functions on rows of one device, by name; each gives tensors."""
    query, gallery = rows[:queries], rows[queries:]
    labels = ids[:queries], ids[queries:], cams[:queries], cams[queries:]
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows.device)
    distances = torch.cdist(query.cpu(), gallery.cpu()).to(rows.device)

    def near(found):
        return found.indices, found.distances

    def scores(found):
        numbers = found.mAP, found.mINP, *found.cmc[:20]
        return torch.tensor([found.valid_queries, found.tied_rank1]), torch.tensor(numbers, dtype=torch.float64)

    return {
        "knn_graph k=2": lambda: near(knn_graph(rows, 2)),
        "knn_graph k=20": lambda: near(knn_graph(rows, 20)),
        "knn_graph k=2, float16": lambda: near(knn_graph(rows.half(), 2)),
        "knn_graph k=2, float64": lambda: near(knn_graph(rows.double(), 2)),
        "knn_graph k=2, noise": lambda: near(knn_graph(noise, 2)),
        "centralize": lambda: (centralize(rows),),
        "centralize, alpha": lambda: (centralize(rows, alpha=3.0),),
        "centralize, float16": lambda: (centralize(rows.half()),),
        "rerank": lambda: (rerank(query, gallery),),
        "rerank_top 100": lambda: near(rerank_top(query, gallery, 100)),
        "evaluate": lambda: scores(evaluate(distances, *labels)),
        "evaluate_features": lambda: scores(evaluate_features(query, gallery, *labels)),
        "id_density": lambda: (torch.tensor([id_density(rows, ids)], dtype=torch.float64),),
    }


def difference(found, expected):
    """Whether whole numbers, such as neighbours, are equal, and the largest difference of others; None if none."""
    same, most = None, None
    for one, other in zip(found, expected, strict=True):
        one, other = one.cpu(), other.cpu()
        if other.is_floating_point():
            apart = torch.where(one == other, 0.0, one.double() - other.double())  # inf - inf is no number
            most = max(most or 0.0, float(apart.abs().max()))
        else:
            share = float((one == other).double().mean())
            same = share if same is None else min(same, share)
    neighbors = "" if same is None else "all" if same == 1 else f"{100 * same:.4f} %"
    return neighbors, "" if most is None else f"{most:.1e}"


def tell_functions(look):
    """All functions on one set: on the CPU and on the device, neighbours and numbers, memory, waits."""
    rows, ids, cams = look.features()
    there = rows.to(look.device)
    here, away = (calls(part, ids, cams, look.queries) for part in (rows, there))
    table = []
    for name, call in away.items():

        def compare(name=name, call=call):
            start = time.perf_counter()
            expected = here[name]()
            cpu = time.perf_counter() - start
            same = difference(call(), expected)
            took = look.seconds(call)
            return (
                name,
                f"{cpu:.3f}",
                f"{took:.4f}",
                f"{cpu / took:.1f}x",
                *same,
                look.peak(call, there),
                look.waits(call),
            )

        found = look.attempt(name, compare)
        table.append(found or (name, *[""] * 6, "raised"))
    head = ("call", "CPU [s]", "device [s]", "", "equal neighbours", "largest difference", "memory / features", "waits")
    return [
        f"{look.queries} + {look.rows - look.queries} rows of {look.width}, CPU: one run",
        "",
        format_markdown(head, table),
    ]


def tell_determinism(look):
    """Whether two runs are equal to the last bit, without and with `torch.use_deterministic_algorithms`."""
    rows, ids, cams = look.features(min(look.rows, 6000))
    table = []
    for name, call in calls(rows.to(look.device), ids, cams, look.queries // 2).items():
        cells = []
        for mode in (False, True):

            def run_twice(call=call):
                one, other = call(), call()
                return "equal" if all(map(torch.equal, one, other)) else f"differ by {difference(one, other)[1]}"

            torch.use_deterministic_algorithms(mode)
            try:
                cells.append(look.attempt(f"{name}, deterministic: {mode}", run_twice) or "raised")
            finally:
                torch.use_deterministic_algorithms(False)
        table.append((name, *cells))
    return [format_markdown(("call", "usual", "deterministic"), table)]


def tell_peers(look):
    """Against plain products and topk in torch, and against faiss on the GPU where it is installed."""
    table = []
    for width in (look.width, 2 * look.width):
        rows = look.features(look.rows, width)[0].to(look.device)
        for k in (2, 20):
            ours = look.seconds(lambda rows=rows, k=k: knn_graph(rows, k))
            found = knn_graph(rows, k).indices.sort(dim=1).values
            for name, search in _peers(look).items():

                def compare(name=name, search=search, rows=rows, k=k, ours=ours, found=found):
                    theirs = search(rows, k)
                    share = float((theirs.sort(dim=1).values == found).double().mean())
                    took = look.seconds(lambda: search(rows, k))
                    cells = f"{ours:.4f}", f"{took:.4f}", f"{took / ours:.2f}x", f"{100 * share:.3f} %"
                    return f"{len(rows)} x {rows.shape[1]}", k, name, *cells

                row = look.attempt(f"{name}, {width} columns, k = {k}", compare)
                table += [row] if row else []
    return [format_markdown(("rows", "k", "peer", "ours [s]", "peer [s]", "ratio", "same neighbours"), table)]


def _peers(look):
    def by_products(rows, k):
        norms, found = rows.square().sum(dim=1), []
        for start in range(0, len(rows), 2048):
            part = slice(start, start + 2048)
            tile = torch.addmm(norms, rows[part], rows.T, alpha=-2)
            at = torch.arange(len(tile), device=rows.device)
            tile[at, at + start] = torch.inf
            found.append(tile.topk(k, dim=1, largest=False).indices)
        return torch.cat(found)

    def by_faiss(rows, k):
        import faiss
        import faiss.contrib.torch_utils

        found = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, k + 1)[1]
        own = found == torch.arange(len(rows), device=rows.device)[:, None]
        own[~own.any(dim=1), -1] = True  # rows that others equal
        return found[~own].view(-1, k)

    peers = {"torch, products and topk": by_products}
    try:
        import faiss

        if look.on_gpu and getattr(faiss, "get_num_gpus", int)():
            peers["faiss.knn_gpu"] = by_faiss
    except ImportError:
        pass
    return peers


def tell_larger_sets(look):
    """Larger sets: exact, and `pivots` with its recall."""
    table = []
    for rows in (96,) if look.small else (50_000, 200_000):
        there = look.features(rows)[0].to(look.device)
        for engine in ("exact", "pivots"):

            def search(engine=engine, there=there, sample=0):
                return knn_graph(there, 2, engine=engine, recall_sample=sample)

            def measure(search=search, there=there):
                recall = search(sample=50 if look.small else 1000).sampled_recall
                return f"{look.seconds(search, 1):.3f}", f"{recall:.4f}", look.peak(search, there), look.waits(search)

            found = look.attempt(f"{engine}, {rows} rows", measure)
            table.append((f"{rows} x {there.shape[1]}", engine, *(found or ("raised", "", "", ""))))
    return [format_markdown(("rows", "engine", "seconds", "recall", "memory / features", "waits"), table)]


def tell_blocks(look):
    """Which size of blocks is best here: `arrays.CUDA_ELEMENTS`, and the rows of a tile of codes."""
    rows, ids, cams = look.features()
    of = calls(rows.to(look.device), ids, cams, look.queries)
    names = ("knn_graph k=2", "knn_graph k=20", "centralize", "rerank", "evaluate", "evaluate_features")
    sizes = (2**10,) if look.small else tuple(2**exponent for exponent in (20, 22, 24, 26))
    changes = [("CUDA_ELEMENTS", arrays, size) for size in sizes]
    changes += [("TILE_CUDA", layout, size) for size in ((1024,) if look.small else (2048, 4096, 8192, 16_384))]
    table = []
    for what, where, size in changes:
        with mock.patch.object(where, what, size):
            took = [
                look.attempt(f"{name} at {what} = {size}", lambda name=name: look.seconds(of[name])) for name in names
            ]
        table.append((f"{what} = {size}", *("raised" if each is None else f"{each:.4f}" for each in took)))
    return [format_markdown(("seconds", *names), table)]


def tell_generator(look):
    """The tiny generator, by preset and dtype: pictures a second, and how far they are from those of the CPU."""
    from PIL import Image

    from pose2id.ipg import IPGPipeline, representative_poses
    from pose2id.ipg.presets import PRESETS

    pipe = IPGPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    people = [Image.new("RGB", (32, 64), colour) for colour in ("navy", "olive", "maroon")]
    poses = representative_poses()
    if look.small:
        people, poses = people[:1], poses[:1]

    def draw(preset):
        return pipe(people, poses, preset=preset, output_type="np", batch_size=32).images

    presets = ("draft",) if look.small else tuple(PRESETS)
    pictures = {preset: draw(preset) for preset in presets}
    table = []
    for dtype in (torch.float32,) if look.small else (torch.float32, torch.float16, torch.bfloat16):
        pipe.to(look.device, dtype)
        for preset in presets:

            def measure(preset=preset):
                apart = np.abs(draw(preset) - pictures[preset])
                took = look.seconds(lambda: draw(preset))
                speed = len(people) * len(poses) / took
                waits = look.waits(lambda: draw(preset))
                return f"{speed:.2f}", f"{255 * apart.max():.1f}", f"{255 * apart.mean():.2f}", waits

            found = look.attempt(f"preset {preset}, {dtype}", measure)
            table.append((str(dtype).removeprefix("torch."), preset, *(found or ("raised", "", "", ""))))
    head = ("dtype", "preset", "pictures/s", "largest difference / 255", "mean", "waits")
    return [f"{len(people)} people in {len(poses)} poses, 64 x 32 pixels", "", format_markdown(head, table)]


SECTIONS = {
    "Machine": tell_machine,
    "Engines": tell_engines,
    "int8 products": tell_products,
    "Launches and steps": tell_launches,
    "Functions": tell_functions,
    "Bits": tell_determinism,
    "Peers": tell_peers,
    "Larger sets": tell_larger_sets,
    "Sizes of blocks": tell_blocks,
    "Generator": tell_generator,
}


def write(path, look, sections, started, *, overwrite, going=""):
    """Write all that is known so far."""
    took = f"{(time.perf_counter() - started) / 60:.1f} minutes" + (f", {going} is going on" if going else "")
    lines = [f"# First look at {look.device}, {dt.date.today()}", "", f"{took}{', small' if look.small else ''}.", ""]
    lines += ["Nothing raised." if not look.failures else f"**{len(look.failures)} raised:**", ""]
    lines += [f"- {where}: `{last}`" for where, last, _ in look.failures]
    for title, said in sections.items():
        told = (SECTIONS[title].__doc__ or "").strip()
        lines += ["", f"## {title}", "", told, "", *(said or ["It raised."])]
    if look.failures:
        lines += ["", "## Tracebacks", ""]
        lines += [f"{where}\n\n```\n{whole.strip()}\n```\n" for where, _, whole in look.failures]
    with write_file(path, overwrite=overwrite) as new:
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _output(command):
    """What a program says, in one line; "-" where it is not there."""
    if shutil.which(command[0]) is None:
        return "-"
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")
    return "; ".join(line.strip() for line in said if line.strip()) or "-"


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu; default: cuda")
    parser.add_argument("--small", action="store_true", help="sets of some hundred rows, to see that it runs")
    parser.add_argument("--force", action="store_true", help="replace the file")
    asked = parser.parse_args(words)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it for deterministic algorithms
    if asked.output.exists() and not asked.force:
        parser.error(f"{asked.output} exists; name another file, or --force")
    if asked.device.startswith("cuda"):
        if not torch.cuda.is_available():
            parser.error("torch finds no CUDA device; --device cpu runs without")
        torch.cuda.set_device(torch.device(asked.device))
    look, sections, started = Look(asked.device, small=asked.small), {}, time.perf_counter()
    save = functools.partial(write, asked.output, look, sections, started)
    try:
        save(overwrite=asked.force, going="Machine")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for title, tell in SECTIONS.items():
        print(f"{title} ...", flush=True)
        sections[title] = look.attempt(title, lambda tell=tell: tell(look))
        save(overwrite=True, going=title)
    save(overwrite=True)
    print(f"{asked.output}: {len(look.failures)} raised" if look.failures else f"{asked.output}: nothing raised")


if __name__ == "__main__":
    main()
