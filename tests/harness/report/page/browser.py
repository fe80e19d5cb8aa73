"""A real browser for the page's tests: headless Chromium over its DevTools protocol, one tab, everything it says kept.

websockets comes with uvicorn, so this needs no package of its own; without a Chromium the tests are skipped.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 60.0
"""A loaded two-core machine takes seconds to start a browser; nothing here is timed."""
FLAGS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--no-sandbox", "--force-color-profile=srgb",
)  # fmt: skip
FAULTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One tab. `faults` holds what the page complained about, `requests` every address it asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = 0
        self.faults: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer of one DevTools command; events that come first are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE_S))
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._keep(message)

    def _keep(self, message: Any) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif method in FAULTS and facts.get("type") not in ("log", "info", "debug"):
            self.faults.append(json.dumps(facts)[:600])

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until its script has run to the end."""
        self.faults.clear()
        self.requests.clear()
        self.look(width=width, height=height, dark=dark)
        answer = self.call("Page.navigate", url=path.resolve().as_uri())
        assert "errorText" not in answer, answer
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Size of the window, the theme the system asks for, 'print' or the screen."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def wait(self, condition: str) -> None:
        """Until the expression is true. Raises AssertionError with what the page complained about."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self.js(condition):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {condition}; the page said {self.faults}")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page. Raises AssertionError when it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, code: int = 0, text: str = "") -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        made = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(made["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A tab of a fresh browser whose profile lives in `folder`; the browser is ended behind it."""
    program = chromium()
    assert program is not None, "no Chromium"
    log = (folder / "chromium.log").open("wb")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"], stdout=log, stderr=log
    )
    try:
        with connect(_address(folder / "profile", process), max_size=None, open_timeout=PATIENCE_S) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            tab.wait(
                "document.readyState === 'complete'"
            )  # a page asked for before the first one is there may get lost
            yield tab
            tab.call("Browser.close")
    finally:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The tab's own socket, once the browser has written down its port."""
    import urllib.request

    until = time.monotonic() + PATIENCE_S
    port_file = profile / "DevToolsActivePort"
    while time.monotonic() < until:
        assert process.poll() is None, "chromium ended at once; see chromium.log"
        if port_file.is_file() and (port := port_file.read_text().partition("\n")[0]):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as answer:
                pages = [one for one in json.load(answer) if one["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("chromium never opened its port")
