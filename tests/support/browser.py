"""A headless Chromium, spoken to through its debugging pipe, so that no package is needed."""

import itertools
import json
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
)
KEYS = {"Backspace": 8, "Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40}


def find_browser():
    """Where a Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in a browser of its own; `messages` are what its console said, `requests` what it asked for."""

    def __init__(self, folder):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        command = [find_browser(), *QUIET, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        # The browser reads from 3 and writes to 4.
        shell = 'exec "$@" 3<&"$POSE2ID_READ" 4>&"$POSE2ID_WRITE"'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "browser", *command],
            env={**os.environ, "POSE2ID_READ": str(read), "POSE2ID_WRITE": str(write)},
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._numbers, self._rest = itertools.count(1), b""
        self.messages, self.requests, self.loaded = [], [], 0
        self._saving, self._saved = "", []
        self._session = None
        self._open_tab()

    def _open_tab(self):
        target = self._ask("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", {})

    def open_tab(self, path):
        """Load a file in a new tab, and turn to it; the tab before, for `turn_to`."""
        before = self._session
        self._open_tab()
        self.open(path)
        return before

    def turn_to(self, tab):
        """Speak to another tab; the one before."""
        before, self._session = self._session, tab
        return before

    def close_tab(self):
        """Close this tab; turn to another one next."""
        self._ask("Page.close", {})

    def begin_with(self, code):
        """Run JavaScript at the beginning of every page from now on."""
        self._ask("Page.addScriptToEvaluateOnNewDocument", {"source": code})

    def open(self, path):
        """Load a file, wait until it is loaded."""
        before = self.loaded
        self._ask("Page.navigate", {"url": path.resolve().as_uri()})
        while self.loaded == before:
            self._take()

    def run(self, code):
        """The value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", {"expression": code, "returnByValue": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def download(self, code, folder):
        """The file that a JavaScript expression saves, in a folder."""
        options = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self._ask("Browser.setDownloadBehavior", options, None)
        before = len(self._saved)
        self.run(code)
        while len(self._saved) == before:
            self._take()
        return folder / self._saving

    def press(self, key, held=0):
        """Press a key: one of KEYS, or a letter; `held` until it was repeated so often."""
        names = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        text = {"text": "\r"} if key == "Enter" else {} if key in KEYS else {"text": key}
        for repeat in range(1 + held):
            self._ask("Input.dispatchKeyEvent", {"type": "keyDown", **names, **text, "autoRepeat": repeat > 0})
        self._ask("Input.dispatchKeyEvent", {"type": "keyUp", **names})

    def resize(self, width, height, media="screen", dark=False):
        """Show the page so large, on this medium."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})

    def picture(self, path, width=1200, height=1600, dark=False):
        """A screenshot, as PNG."""
        import base64

        self.resize(width, height, dark=dark)
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", {})["data"]))

    def close(self):
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _ask(self, method, parameters, session=""):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        session = self._session if session == "" else session
        message |= {} if session is None else {"sessionId": session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._take()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _take(self):
        """The next message; what it tells of the console, the network and loading is kept."""
        while b"\0" not in self._rest:
            part = os.read(self._in, 2**20)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        kind, told = message.get("method"), message.get("params", {})
        if kind == "Page.loadEventFired":
            self.loaded += 1
        elif kind == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif kind == "Browser.downloadWillBegin":
            self._saving = told["suggestedFilename"]
        elif kind == "Browser.downloadProgress" and told["state"] == "completed":
            self._saved.append(self._saving)
        elif kind == "Log.entryAdded":
            self.messages.append(told["entry"]["text"])
        elif kind == "Runtime.exceptionThrown":
            self.messages.append(told["exceptionDetails"]["text"])
        elif kind == "Runtime.consoleAPICalled":
            self.messages.append(str(told["args"]))
        return message
