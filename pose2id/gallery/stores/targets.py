"""How a target is written: ``milvus://...`` or ``postgresql://...``; its passwords are never said."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pose2id.errors import escape, one_line, suggest
from pose2id.validation import check_choice

ROOMS = {"milvus": "milvus", "postgresql": "pgvector", "postgres": "pgvector"}
"""The module of each scheme."""
OWN = {"milvus": ("collection", "index", "secure"), "pgvector": ("table", "index")}
"""What a target says to pose2id after its question mark; of PostgreSQL everything else is for libpq."""
SECRET = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret", "token")
"""What libpq, or nobody, takes after the question mark and is not to be said."""
INDEXES = ("exact", "hnsw")


@dataclass(frozen=True)
class Target:
    """A target that was read; its text says nothing secret."""

    scheme: str
    name: str  # without passwords
    address: str = field(repr=False)  # without what is for pose2id
    options: dict[str, str]  # what is for pose2id
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def index(self) -> str:
        """How the store shall be searched: "exact" or "hnsw"."""
        return check_choice(self.options.get("index", INDEXES[0]), "index of the target", INDEXES)

    def words(self, error: Exception) -> str:
        """What an error says, in one line and without passwords."""
        words = one_line(error)
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return words[:300]

    def explain(self, error: Exception) -> str:
        """The same after the name."""
        return f"{self.name}: {self.words(error)}"


def unreadable(scheme: str) -> ValueError:
    """The error for what cannot be read, which it does not quote."""
    return ValueError(
        f"the target cannot be read, it must look like {scheme}://user:password@host:port/database?name=value; write "
        "special letters in the password as %XX"
    )


def take_target(text: object) -> Target:
    """Read a target; ValueError for what is none, which does not quote it, as it may hold a password."""
    if not isinstance(text, str):
        raise TypeError(f"target must be a string, received {type(text).__name__}")
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ROOMS:
        began = f"one that begins with {scheme[:20]}://" if found and scheme.isalnum() else "something else"
        raise ValueError(
            f"target must begin with milvus:// or postgresql://, such as postgresql://user@host/database?table=people, "
            f"received {began}"
        )
    where, _, query = rest.partition("?")
    is_file = scheme == "milvus" and where.endswith(".db") and "@" not in where.partition("/")[0]
    try:
        written = [(name, value) for name, value in (each.split("=", 1) for each in query.split("&") if query)]
        parts = urlsplit("" if is_file else f"x://{where}")
        misplaced = "@" in query or (not is_file and where.count("@") != parts.netloc.count("@"))
        misplaced |= not is_file and not where.isprintable()  # a line's end, which urlsplit passes over
        misplaced |= "%00" in text or "\0" in text  # where libpq stops reading
        if misplaced or parts.netloc.count("@") > 1 or (parts.port or 0) < 0:
            raise ValueError  # of a password most likely
    except ValueError:
        raise unreadable(scheme) from None
    given = [(unquote(name), unquote(value)) for name, value in written]  # a plus sign is one, as for libpq
    own = OWN[ROOMS[scheme]]
    options = {name: value for name, value in given if name in own}
    unknown = [name for name, _ in given if name not in own]
    if unknown and scheme == "milvus":
        raise ValueError(
            f"a target in Milvus has {', '.join(own)} after its question mark, received "
            f"'{escape(unknown[0][:20])}'{suggest(unknown[0], own)}"
        )
    kept = "&".join(each for each in query.split("&") if each.partition("=")[0] not in own)
    user, key = parts.username or "", parts.password
    if scheme == "milvus" and key is None:  # what is alone is a key
        user, key = "", user
    host = parts.netloc.rpartition("@")[2]
    shown = where if is_file else f"{unquote(user)}{'@' * bool(user)}{host}{parts.path}"
    label = options.get("collection") or options.get("table")
    name = escape(f"{scheme}://{shown}" + (f" ({label})" if label else ""))
    hidden = {key or "", *(value for name, value in written if unquote(name) in SECRET)}
    hidden = {*hidden, *map(unquote, hidden)}
    hidden = {*hidden, *(escape(" ".join(each.split())) for each in hidden)} - {""}  # as an error shows them
    return Target(scheme, name, where + f"?{kept}" * bool(kept), options, tuple(sorted(hidden, key=len, reverse=True)))
