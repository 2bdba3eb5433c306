"""A headless Chromium that is driven through the Chrome DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]

MISSING = "no Chromium for the browser tests: `apt-get install chromium`, or set CHROMIUM=/path/to/a/browser"

START_SECONDS = 30.0


class Tab:
    """One tab of the browser.

    Attributes:
        events: everything that the browser reported since the tab was made.
    """

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.sent = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.sent:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def run(self, script: str) -> Any:
        """Value of an expression in the page; promises are awaited."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def size(self, width: int, height: int = 900) -> None:
        """Look at the page through a window of this size; narrow ones are phones."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 640,
        )

    def dark(self, on: bool) -> None:
        """Prefer dark colours, or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, path: Path) -> None:
        """Load a file and wait until its script has run and the figures have settled."""
        self.send("Page.navigate", url=path.as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")
        self.settle()

    def settle(self) -> None:
        """Wait until plotly has followed the last change of the window."""
        self.run("new Promise(done => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 150)), 250))")

    def until(self, condition: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}"
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def problems(self) -> list[str]:
        """Exceptions, and errors or warnings of the console."""
        found: list[str] = []
        for event in self.events:
            match event:
                case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                    found.append(json.dumps(details))
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error" | "warning", "args": args}}:
                    found.append(json.dumps(args))
                case {"method": "Log.entryAdded", "params": {"entry": {"level": "error" | "warning"} as entry}}:
                    found.append(json.dumps(entry))
                case _:
                    pass
        return found

    def requests(self) -> list[str]:
        """Addresses of everything that was loaded."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]


def chromium() -> str | None:
    """Path of a Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the browser's DevTools."""
    program = chromium()
    if program is None:
        pytest.skip(MISSING)
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        end = time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert process.poll() is None, f"{program} ended with exit code {process.returncode}"
            assert time.monotonic() < end, f"{program} did not open its DevTools in {START_SECONDS} s"
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().split()[0]}"
    finally:
        # The group is our own (start_new_session): the browser's helpers end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def tab(browser: str) -> Iterator[Tab]:
    """A fresh tab, light and as wide as a desktop."""
    websocket = pytest.importorskip("websocket", reason="pip install websocket-client")
    request = urllib.request.Request(f"http://{browser}/json/new?about:blank", method="PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        target = json.load(reply)
    socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60, http_no_proxy=["127.0.0.1"])
    try:
        fresh = Tab(socket)
        fresh.dark(False)
        fresh.size(1280)
        yield fresh
    finally:
        socket.close()
