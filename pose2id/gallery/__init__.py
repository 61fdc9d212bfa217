"""A living gallery: rows come and go, and its centralized rows are at every moment those of `centralize`.

- `gallery`: `Gallery`, what users call; `answers`, what they get.
- `arguments`, `settings`: what a gallery may be given, and what it keeps of its settings.
- `opening`, `access`: how it is found or made; who may read and write, and when.
- `changes`, `updates`: one change, and what it touches; `questions`, `verification`: what is asked of one version.
- `lists`: the nearest rows of every row, and what becomes of them when rows go and come.
- `database`, `sqlite`, `postgresql`: the truth. `schema`: its tables; `transactions`: the one place that asks in SQL.
- `keys`: keys and the ids that stand for them there.
- `memory`, `cache`: what a process keeps of it, and the rows as memory-mapped files, which can always be made anew.
- `publishing`, `stores`: vector databases that follow.
"""

from pose2id.gallery.answers import Changes, Found, Neighborhood
from pose2id.gallery.gallery import Gallery
from pose2id.gallery.publishing import Published

__all__ = ["Changes", "Found", "Gallery", "Neighborhood", "Published"]
