"""Publishing a gallery: rows a second, what an unchanged and a slightly changed one costs, recall of the index.

    python benchmarks/stores.py 20000 512 pgserver milvus-lite

A target is "pgserver" (a server of that package, started here), "milvus-lite" (a new place), or the beginning of a URL
as `Gallery.publish` takes it, to which the table or collection is added. Of each an exact and an approximate index
(HNSW) are measured. Rows are people of five rows at five cameras, who differ in 32 directions; queries are new rows of
some of them, so half of the ten nearest are other people.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from pose2id.gallery import Gallery
from pose2id.gallery.stores import milvus, open_store
from pose2id.gallery.stores.targets import take_target

BATCH, FEW, QUERIES, TOP, EACH, DIRECTIONS = 1000, 20, 100, 10, 5, 32
CANDIDATES = (None, 40, 100, 200)
"""How many an approximate search keeps on its way; None: what is used where nothing is said."""


def people(rng, n, width):
    """n rows of length 1, a person after the other."""
    centres = rng.standard_normal((-(-n // EACH), DIRECTIONS)) @ rng.standard_normal((DIRECTIONS, width))
    return vary(rng, centres.repeat(EACH, axis=0)[:n])


def vary(rng, rows):
    """Other rows of the same people."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows + 0.5 / rows.shape[1] ** 0.5 * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def find_target(stack, folder, name):
    if name == "milvus-lite":
        return f"milvus://{folder}/people.db?collection="
    if name != "pgserver":
        return name + ("&" if "?" in name else "?") + ("collection=" if name.startswith("milvus") else "table=")
    import pgserver

    server = pgserver.get_server(stack.enter_context(tempfile.TemporaryDirectory()))
    stack.callback(server.cleanup)
    return f"{server.get_uri()}&table="


def search_table(target, query, candidates, cam):
    """The keys that are found for each query, and the seconds that it takes."""
    import psycopg

    order = "distance" if target.index == "hnsw" else "distance, id"
    chosen = "NOT zero" + (f" AND cam = '{cam}'" if cam else "")
    asked = f"SELECT key, vector <-> %s::vector AS distance FROM {target.options['table']} WHERE {chosen} "
    with psycopg.connect(f"postgresql://{target.address}") as connection:
        if candidates:
            connection.execute(f"SET hnsw.ef_search = {candidates}")
        start = time.perf_counter()
        words = f"{asked} ORDER BY {order} LIMIT {TOP}"
        found = [connection.execute(words, [str(row.tolist())]).fetchall() for row in query]
        spent = (time.perf_counter() - start) / len(query)
    return [[key for key, _ in each] for each in found], [np.array([far for _, far in each]) for each in found], spent


def search_collection(target, query, candidates, cam):
    import pymilvus

    name = target.options["collection"]
    chosen = "zero == false" + (f" and cam == '{cam}'" if cam else "")
    more = {"search_params": {"params": {"ef": candidates}}} if candidates else {}
    with closing(pymilvus.MilvusClient(**milvus._find_server(target))) as client:
        start = time.perf_counter()
        found = [client.search(name, [row], chosen, TOP, ["key"], **more)[0] for row in query]
        spent = (time.perf_counter() - start) / len(query)
    lengths = [np.sqrt([hit["distance"] for hit in each]) for each in found]
    return [[hit["entity"]["key"] for hit in each] for each in found], lengths, spent


def settle(target):
    """Let Milvus build its index, which it has of what was stored for some time."""
    import pymilvus

    with closing(pymilvus.MilvusClient(**milvus._find_server(target))) as client:
        client.flush(target.options["collection"])
        client.release_collection(target.options["collection"])
        client.load_collection(target.options["collection"])


def recall(lengths, expected):
    """The part of the nearest that was found; of rows that are as far as the last one, any will do."""
    return np.mean(
        [np.sum(of <= last + 1e-5) / TOP for of, last in zip(lengths, expected.distances[:, -1], strict=True)]
    )


def timed(call, *arguments, **options):
    start = time.perf_counter()
    result = call(*arguments, **options)
    return time.perf_counter() - start, result


def measure(gallery, rng, text, query):
    target = take_target(text)
    first, told = timed(gallery.publish, text, anew=True)
    assert told.sent == len(gallery)
    again, told = timed(gallery.publish, text)
    assert told.sent == told.removed == 0
    with closing(open_store(text)) as store:
        listed, ids = timed(store.ids)
    assert len(ids) == len(gallery)
    gallery.remove(rng.choice(gallery.keys(), FEW, replace=False).tolist())
    gallery.add(people(rng, FEW, query.shape[1]), [f"{text} {each}" for each in range(FEW)], cams=["0"] * FEW)
    little, told = timed(gallery.publish, text)
    print(f"\n{target.scheme}, {target.index}: {len(ids):,} rows in {first:.2f} s, {len(ids) / first:,.0f} a second")
    print(f"  nothing changed: {again:.2f} s")
    print(f"  {told.sent} rows sent and {told.removed} removed: {little:.2f} s; all ids read: {listed:.2f} s")
    search = search_table if "table" in target.options else search_collection
    if search is search_collection:
        print(f"  flushed and loaded anew: {timed(settle, target)[0]:.2f} s")
    for cam in (None, "3"):
        expected = gallery.search(query, TOP, cams=None if cam is None else [cam])
        for candidates in CANDIDATES if target.index == "hnsw" else (None,):
            found, lengths, spent = search(target, query, candidates, cam)
            words = f"{candidates or 'default'} candidates, {'all' if cam is None else 'one camera'}"
            same = sum(one == other for one, other in zip(found, expected.keys, strict=True))
            told = f"recall {recall(lengths, expected):.4f}, the same order {same} times, {1e3 * spent:.1f} ms a query"
            print(f"  {words}: {told}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("targets", nargs="+")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = people(rng, options.rows, options.width)
    query = vary(rng, rows[rng.permutation(len(rows))[:QUERIES]])
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        gallery = stack.enter_context(Gallery.open(Path(folder, "people.gallery")))
        for start in range(0, len(rows), BATCH):
            part = np.arange(start, min(start + BATCH, len(rows)))
            gallery.add(rows[part], [f"row {at}" for at in part], cams=part % EACH)
        print(f"{len(rows):,} x {options.width}, {QUERIES} queries, the {TOP} nearest of each")
        for name in options.targets:
            address = find_target(stack, folder, name)
            for index in ("exact", "hnsw"):
                measure(gallery, rng, f"{address}people_{index}&index={index}", query)


if __name__ == "__main__":
    main()
