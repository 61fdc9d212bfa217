"""Files from the Hub: resumed, checked, and still fetched where the Hub's client has changed."""

from __future__ import annotations

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")
from huggingface_hub import constants, file_download, utils  # noqa: E402

from pose2id.hub import fetch, hash_file  # noqa: E402
from pose2id.poses import keypoints  # noqa: E402

REPOSITORY, REVISION = "somebody/something", "0123456789012345678901234567890123456789"
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(ThreadingHTTPServer):
    """A Hub with one large file; sends the bytes before `until` and then hangs up. `begins`: where requests began."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.until, self.begins = CONTENT, SHA256, None, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, begin):
        known = self.path == f"/{REPOSITORY}/resolve/{REVISION}/model.onnx"
        self.send_response(404 if not known else 206 if begin else 200)
        if known:
            self.send_header("ETag", f'"{self.server.etag}"')
            self.send_header("X-Repo-Commit", REVISION)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(self.server.content) - begin if known else 0))
        self.end_headers()
        return known

    def do_HEAD(self):
        self.answer(0)

    def do_GET(self):
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if not self.answer(begin):
            return
        self.server.begins.append(begin)
        self.wfile.write(self.server.content[begin : self.server.until])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in Hub, and the Hub's client pointed at it, with an empty cache and one attempt only."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (
        ("HF_HUB_CACHE", str(tmp_path / "hub")),
        ("HF_HUB_OFFLINE", False),
        ("DOWNLOAD_CHUNK_SIZE", 1000),
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
    ):
        monkeypatch.setattr(constants, name, value)
    once = file_download.http_get
    monkeypatch.setattr(file_download, "http_get", lambda *args, **options: once(*args, **options, _nb_retries=0))
    yield server
    server.shutdown()
    server.server_close()


def fetch_model(**options):
    return fetch(REPOSITORY, "model.onnx", REVISION, **options)


def blobs(tmp_path):
    return {path.name: path.stat().st_size for path in tmp_path.rglob("blobs/*")}


def test_a_file_is_fetched_once(hub, tmp_path):
    path = fetch_model(size=len(CONTENT), sha256=SHA256)
    assert path.name == "model.onnx"
    assert path.read_bytes() == CONTENT
    assert hash_file(path) == SHA256
    assert fetch_model() == path
    assert hub.begins == [0]
    assert blobs(tmp_path) == {SHA256: len(CONTENT)}


def test_a_broken_download_goes_on(hub, tmp_path):
    hub.until = 4000
    with pytest.raises(OSError, match=rf"model\.onnx of somebody/something .* {hub.url} did not give it: .* try again"):
        fetch_model()
    assert blobs(tmp_path) == {f"{SHA256}.pose2id": 4000}
    hub.until = None
    assert fetch_model(sha256=SHA256).read_bytes() == CONTENT
    assert hub.begins == [0, 4000]


def test_the_model_of_dwpose_goes_on(hub, monkeypatch):
    pinned = {"REPOSITORY": REPOSITORY, "REVISION": REVISION, "FILE": "model.onnx"}
    for name, value in {**pinned, "SIZE": len(CONTENT), "SHA256": SHA256}.items():
        monkeypatch.setattr(keypoints, name, value)
    hub.until = 3000
    with pytest.raises(OSError, match=r"goes on where it broke off.* pass load_session the path of a copy"):
        keypoints.download_model()
    hub.until = None
    assert keypoints.download_model().read_bytes() == CONTENT
    assert hub.begins == [0, 3000]


def test_what_came_wrong_is_removed(hub, tmp_path):
    hub.content = CONTENT[::-1]
    with pytest.raises(OSError, match=f"what came has SHA-256 .*, must have {SHA256}; it was deleted, try again"):
        fetch_model()
    assert blobs(tmp_path) == {}
    hub.content = CONTENT
    assert fetch_model().read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"size": 5}, f"has {len(CONTENT)} bytes, must have 5"),
        ({"size": len(CONTENT), "sha256": "ab"}, f"has SHA-256 {SHA256}, must have ab"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_another_file_than_the_pinned_one_is_refused(pinned, message):
    path = fetch_model()
    with pytest.raises(ValueError, match=rf"^{path} {message}; delete {path.resolve()} and run it twice$"):
        fetch_model(**pinned, again="run it twice")


def test_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"is not in {tmp_path / 'hub'}, and HF_HUB_OFFLINE forbids to fetch"):
        fetch_model()
    assert hub.begins == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = fetch_model()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_model() == path


def other_arguments(url, stream):  # noqa: ARG001
    raise AssertionError("not called")


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (utils, "build_hf_headers", None),  # not callable
        (file_download, "http_get", other_arguments),
        (huggingface_hub, "get_hf_file_metadata", lambda _: object()),
    ],
)
def test_where_the_client_has_changed_its_own_download_is_used(hub, tmp_path, monkeypatch, caplog, place, name, value):
    path = tmp_path / "by-itself"

    def download(repository, filename, *, revision):
        assert (repository, filename, revision) == (REPOSITORY, "model.onnx", REVISION)
        path.write_bytes(CONTENT)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(place, name, value)
    assert fetch_model(size=len(CONTENT), sha256=SHA256) == path
    assert hub.begins == []
    (record,) = caplog.records
    assert record.message.startswith("huggingface_hub has changed (")
    with pytest.raises(ValueError, match="must have 5"):  # checked all the same
        fetch_model(size=5)


def test_where_a_module_of_the_client_is_gone(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: "somewhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub.file_download", None)
    assert str(fetch_model()) == "somewhere"
    assert hub.begins == []
