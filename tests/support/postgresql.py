"""A real PostgreSQL server, with pgvector, for tests."""

import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path


def find_closed(pgserver):
    """The folders that pgserver would open to everybody: as root it runs the server as another user, who must get in.

    In a container that is of no matter.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or "CI" in os.environ:
        return []
    return [folder for folder in Path(pgserver.__file__).parents if folder.stat().st_mode & 0o005 != 0o005]


@contextmanager
def serve(pgserver):
    """The URL of a server of the package pgserver, which stops at the end."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the user that the server runs as
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = pgserver.get_server(folder)
        # Nobody pulls the plug, so nobody need wait for the disk.
        made.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf();")
        yield made.get_uri()
        made.cleanup()


def new_schema(url):
    """The URL of a new schema."""
    import psycopg

    name = f"s{os.urandom(8).hex()}"
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{url}&options=-csearch_path%3D{name},public"
