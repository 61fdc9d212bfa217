"""A living gallery: rows come and go, and its centralized rows are at every moment those of `centralize`.

- `gallery`: `Gallery`, what users call.
- `settings`, `arguments`: what a gallery keeps of its settings, and what it may be given.
- `lists`: the nearest rows of every row, and what becomes of them when rows come and go.
- `database`: SQLite or PostgreSQL, the truth; the one place that knows SQL.
- `publishing`, `stores`: vector databases that follow.
- `cache`: the rows as memory-mapped files, which can always be made anew.
"""

from pose2id.gallery.gallery import Changes, Found, Gallery, Neighborhood
from pose2id.gallery.publishing import Published

__all__ = ["Changes", "Found", "Gallery", "Neighborhood", "Published"]
