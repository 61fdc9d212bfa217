"""The report: one HTML page that says whether centralization helps on some features, to be opened by a double click.

- `contents`: what it says: tables, curves, rankings
- `audit`: pairs of neighbours, for somebody to look at and answer
- `drawing`: curves, histograms and maps as shapes
- `pictures`: photographs, small, inside the page
- ``page.html``: the page, a template of Jinja2
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from pose2id.atomic import write_file
from pose2id.errors import escape, require
from pose2id.report.audit import Audit, identify_set, prepare_audit
from pose2id.report.contents import Contents, gather, name_views
from pose2id.report.drawing import draw_curves, draw_histogram, draw_plane
from pose2id.report.pictures import Pictures
from pose2id.study import FeatureSet, Setting
from pose2id.validation import check_count, check_flag

__all__ = ["Audit", "prepare_audit", "write_report"]

LEFT_OUT = (
    "; the share of the same identity leaves out rows labelled -1, which belong to nobody; distractors with one label, "
    "such as 0, count in it as one person"
)
PACKAGES = ("pose2id", "torch", "numpy", "scipy")


def write_report(
    query: FeatureSet,
    gallery: FeatureSet,
    output: str | os.PathLike[str],
    setting: Setting,
    *,
    labelled: bool = True,
    query_paths: Sequence[str] | None = None,
    gallery_paths: Sequence[str] | None = None,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    title: str = "Does centralization help?",
    command: Sequence[str] = (),
    protocol: str = "market1501",
    reranked: bool = True,
    count: int = 24,
    engine: str = "auto",
    overwrite: bool = False,
    audit: Audit | None = None,
    report: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> Path:
    """Write a page that compares features with what a setting makes of them.

    Parameters
    ----------
    query, gallery : FeatureSet
        Features or parts. Without labels (`labelled` False) their `ids` are not looked at.
    output : path
        The ``.html`` file; it holds everything, and asks the network for nothing.
    setting : Setting
        What is compared with the features as they are.
    labelled : bool
        Whether there are identities: scores, curves, right and wrong answers need them.
    query_paths, gallery_paths : sequences of str, optional
        The photographs' paths, one a row, shown as names.
    images : path or sequence of one or two paths, optional
        The folder that these are relative to, for pictures, or one for the queries and one for the gallery; a picture
        that is missing is left out, and counted.
    title : str
    command : sequence of str
        What made the page, to be shown.
    protocol, engine, progress
        As for `pose2id.evaluate_features` and `pose2id.centralize`.
    reranked : bool
        Also show rankings after re-ranking of the first 100.
    count : int
        Queries whose rankings are shown: those that change most.
    overwrite : bool
        Replace an existing file.
    audit : Audit, optional
        Pairs of neighbours to be looked at on the page, by `prepare_audit` for this gallery.
    report : callable
        Is told what begins.
    tell : callable
        Is told the verdict that stands on top of the page, once that is written.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError, TypeError
        As `pose2id.study.run_study`; for an output that exists.
    MissingExtraError
        Without Jinja2 (extra ``report``).

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.report import write_report
    >>> from pose2id.study import FeatureSet, Setting
    >>> data = load_demo()
    >>> query, gallery = (FeatureSet(data.features[i], data.ids[i], data.cams[i]) for i in (data.query, data.gallery))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(query, gallery, f"{folder}/report.html", Setting("k1 = k2 = 3", k1=3, k2=3), count=3)
    ...     "mAP" in path.read_text(encoding="utf-8")
    True
    """
    jinja2 = require("jinja2", "report", "the report")
    check_count(count, "count", 1)
    for value, name in ((labelled, "labelled"), (reranked, "reranked"), (overwrite, "overwrite")):
        check_flag(value, name)
    path = check_page(output, overwrite=overwrite)
    if audit is not None and audit.identity != identify_set(gallery):
        raise ValueError("audit must be of this gallery, its features are others; call prepare_audit again")
    pictures = Pictures(images)
    contents = gather(
        query,
        gallery,
        setting,
        labelled=labelled,
        protocol=protocol,
        reranked=reranked,
        count=count,
        engine=engine,
        report=report,
        progress=progress,
        estimated=None if audit is None else audit.estimated,
    )
    report("pictures")
    shown = _describe(contents, query, gallery, query_paths, gallery_paths, pictures, labelled=labelled)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_show
    )
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    planes, marks = draw_plane(contents.plane, labelled=labelled)
    versions = {name: metadata.version(name) for name in PACKAGES} | {"Python": platform.python_version()}
    sizes = [tuple(data.features.shape) for data in (query, gallery)]
    amounts = f"{_count(sizes[0][0], 'query', 'queries')} against {_count(sizes[1][0], 'gallery row', 'gallery rows')}"
    made = [
        ("queries", " x ".join(map(str, sizes[0]))),
        ("gallery", " x ".join(map(str, sizes[1]))),
        ("setting", _tell_setting(setting)),
        ("re-ranking", f"k1 = {setting.rerank_k1}, k2 = {setting.rerank_k2}, lambda = {setting.rerank_lambda}"),
        *versions.items(),
    ]
    if pictures.missing:
        contents.notes.append(
            f"{_count(len(pictures.missing), 'picture is', 'pictures are')} not below {pictures.where}, such as "
            f"{pictures.missing[0]}."
        )
    if pictures.damaged:
        amount = _count(len(pictures.damaged), "picture", "pictures")
        contents.notes.append(f"{amount} cannot be read, such as {pictures.damaged[0]}.")
    verdict = _judge(contents, labelled=labelled, cams=gallery.cams is not None, audited=audit is not None)
    page = template.render(
        title=title,
        verdict=verdict,
        summary=f"{amounts}. Compared are features of length 1 with {_tell_setting(setting)}.",
        contents=contents,
        audit=None if audit is None else audit.as_dict(),
        audited=_tell_audit(audit),
        curves=draw_curves(contents.curves, name_views(list(contents.curves))),
        histograms=[draw_histogram(part, name_views([part["name"]])[part["name"]]) for part in contents.histograms],
        planes=planes,
        marks=marks,
        settings={"words": f"By {_tell_setting(setting)}{LEFT_OUT if labelled else ''}"},
        views=name_views(contents.views),
        shown=shown,
        labelled=labelled,
        protocol=protocol,
        pictures=pictures.uris,
        made=made,
        command=shlex.join(command),
        versions=versions,
    )
    with write_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    tell(verdict)
    return path


def check_page(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """A path that a page may be written to: no file in the way unless `overwrite`, in a folder that is there."""
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"output {path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise ValueError(f"output {path} exists already; name another or pass --overwrite")
    if path.exists():
        if not path.is_file():
            raise ValueError(f"output {path} is a device, a pipe or a socket, which is never replaced; name a file")
        with path.open("rb") as stream:
            start = stream.read(256).lstrip().lower()
        if start and not start.startswith((b"<!doctype html", b"<html")):
            raise ValueError(f"output {path} is a file that is no page, which a page does not replace; name another")
    if not path.parent.is_dir():
        raise ValueError(f"output {path} must be in an existing folder, {path.parent} is none")
    return path


def _show(value: Any) -> Any:
    """Texts as on a terminal: names may hold line ends, marks that change the direction of writing, and no text."""
    return escape(value) if type(value) is str else value


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _tell_audit(audit: Audit | None) -> str:
    if audit is None:
        return ""
    words, shown = f"{audit.total:,} pairs of mutual neighbours in the gallery (k1 = k2 = 2)", len(audit.pairs)
    words = f"All {words}." if shown == audit.total else f"{shown:,} of the {words}, drawn at random."
    words += " Centralizing adds the features of such rows to each other: does that mix people?"
    if audit.missing:
        words += f" Left out are pairs whose pictures are not there, or damaged, such as {audit.missing[0]}."
    return words


def _tell_setting(setting: Setting) -> str:
    words = [f"k1 = {setting.k1}", f"k2 = {setting.k2}", f"alpha = {setting.alpha:g}"]
    words += [f"eta = {setting.eta:g}"] if setting.eta else []
    words += ["neighbours of other cameras only"] if setting.other_cameras else []
    words += ["hidden parts of the gallery filled"] if setting.fill_gallery else []
    return ", ".join(words)


def _judge(contents: Contents, *, labelled: bool, cams: bool, audited: bool) -> str:
    """The sentences on top."""
    if not labelled or contents.gain is None:
        return _judge_without(contents, cams=cams, audited=audited)
    gain, error = contents.gain
    words = f"mAP changes by {100 * gain:+.2f} points"
    if math.isnan(error):
        words += "; of one identity, which says nothing of others."
    else:
        words += f", with a standard error of {100 * error:.2f} over identities."
        found = "Unclear" if abs(gain) <= 2 * error else "It helps" if gain > 0 else "It hurts"
        words = f"{found} on these features: {words}"
    counted = contents.counted
    if counted is None or not counted.pairs:
        return words
    low, high = counted.interval
    share = f"{counted.precision:.0%} are of one identity ({low:.0%} to {high:.0%})"
    return f"{words} Of the gallery's mutual neighbours (k1 = k2 = 2) {share}."


def _judge_without(contents: Contents, *, cams: bool, audited: bool) -> str:
    """What can be said without identities."""
    more = "" if audited else " Sixty pairs of neighbours that you look at tell more: --audit 60."
    found = contents.estimated
    words = ""
    if found is not None:
        low, high = found.interval
        words = (
            f"Of the gallery's mutual neighbours (k1 = k2 = 2) perhaps {found.precision:.0%} are of one identity "
            f"({low:.0%} to {high:.0%} on other sets whose neighbours agreed like these). "
        )
        verdicts = [(name, found.verdicts[name]) for name in ("recommended", "published")]
        if any(word != "unclear" for _, word in verdicts):
            told = {"helps": "helps", "hurts": "hurts", "unclear": "may help or not"}
            said = ", ".join(f"the {name} setting {told[word]}" for name, word in verdicts)
            return f"An estimate without identities, of mAP: {said}. {words}Rank-1 may fall where mAP rises.{more}"
    look = ", and at how many neighbours come from other cameras" if cams else ""
    words = f"Without identities this page cannot say whether it helps. {words}"
    return f"{words}Look at the rankings that change{look}.{more}"


def _describe(
    contents: Contents,
    query: FeatureSet,
    gallery: FeatureSet,
    query_paths: Sequence[str] | None,
    gallery_paths: Sequence[str] | None,
    pictures: Pictures,
    *,
    labelled: bool,
) -> list[dict[str, Any]]:
    """The rankings as the page shows them: names, pictures, marks."""
    names = name_views(contents.views)

    def name(data: FeatureSet, paths: Sequence[str] | None, row: int) -> str:
        words = [str(paths[row])] if paths is not None else [f"row {row}"]
        words += [f"identity {data.ids[row]}"] if labelled else []
        words += [] if data.cams is None else [f"camera {data.cams[row]}"]
        return ", ".join(words)

    found = []
    for one in contents.shown:
        own = name(query, query_paths, one.query)
        views = []
        for key, rows in one.views.items():
            tiles = []
            for rank, (row, right) in enumerate(rows, 1):
                kind = "" if right is None else "right" if right else "wrong"
                tiles.append(
                    {
                        "kind": kind,
                        "mark": f"{rank}" + {"right": " ✓", "wrong": " ✗"}.get(kind, ""),
                        "name": name(gallery, gallery_paths, row),
                        "alt": f"{rank}, {kind or 'found'}: {name(gallery, gallery_paths, row)}",
                        "picture": pictures.number(None if gallery_paths is None else str(gallery_paths[row]), -1),
                    }
                )
            views.append({"key": key, "name": names[key], "tiles": tiles})
        words = ""
        if one.precision:
            before, after = one.precision["before"], one.precision["after"]
            words = f"average precision {100 * before:.1f} → {100 * after:.1f}"
            words = "no right answer in the gallery" if math.isnan(before) else words
        found.append(
            {
                "name": own,
                "search": unicodedata.normalize("NFC", own).lower(),
                "direction": "" if one.gain is None else "up" if one.gain > 0 else "down" if one.gain < 0 else "",
                "words": words,
                "picture": pictures.number(None if query_paths is None else str(query_paths[one.query])),
                "views": views,
            }
        )
    return found
