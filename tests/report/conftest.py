"""A realistic run to report, and a headless Chromium that is driven through the Chrome DevTools protocol."""

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablationlens import zoo
from ablationlens.adapters.dispatch import adapt
from ablationlens.data import Batch, batch
from ablationlens.evaluate import Scores, agreement
from ablationlens.masked_model import MaskedModel
from ablationlens.report import report
from ablationlens.results import Attribution, attribution

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


HOSTILE = "</script><script>document.title = 'taken'</script> &lt; <img src=x onerror=alert(1)> <!-- "
"""A text that would break the page if it were not escaped."""


@dataclass(frozen=True)
class Run:
    """Everything that a section of a report is made from."""

    model: MaskedModel
    attributions: dict[str, Attribution]
    scores: Scores


@dataclass(frozen=True)
class World:
    """One model, its data and two runs, as the demo has them."""

    data: Batch
    rows: Run
    heads: Run


@pytest.fixture(scope="session")
def world() -> World:
    """4,608 rows and 16 heads of a real model; weights are made up, so that nothing has to run."""
    loaded = zoo.load("domains")
    adapter = adapt(loaded.model)
    texts = [
        "def f(x):\n    return x + 1\n",
        HOSTILE,
        "import os, sys",
        "for i in range(10): print(i)",
        'class A:\n\t"""Doc."""',
    ]
    data = batch(texts, tokenizer=loaded.tokenizer)
    return World(
        data,
        _run(MaskedModel(adapter, adapter.registry("row")), data, 0.05, [0.02, 0.05, 0.1], seed=0),
        _run(MaskedModel(adapter, adapter.registry("head")), data, 0.25, [0.125, 0.25], seed=1),
    )


def _run(model: MaskedModel, data: Batch, alpha: float, alphas: list[float], seed: int) -> Run:
    random, size, names = np.random.default_rng(seed), len(model.registry), data.names()
    base = random.standard_t(3, size) * (1 + model.registry.frame()["layer"].to_numpy())
    described = {**model.describe(), "data": {"fingerprint": data.fingerprint()}, "packages": {"torch": "2.7"}}
    masks = {"design": "bernoulli", "alpha": alpha, "draws": 15_000, "seed": 0, "stream": "fit", "components": size}
    fitted = {"method": "COAR", "alpha": alpha, "draws": 15_000, "rank": size, "condition": 33.4, "masks": masks}
    made = {
        name: attribution(
            name,
            base + random.normal(0, noise, (len(data), size)),
            random.normal(size=len(data)),
            model.registry,
            names,
            provenance={**provenance, **described, "full_output": [1.5] * len(data)},
        )
        for name, noise, provenance in (
            ("COAR", 0.5, fitted),
            ("leave-one-out", 1.5, {"method": "leave-one-out", "masks": {"design": "leave_one_out"}}),
        )
    }
    made["COAR"].provenance["quarantined_outputs"] = 3
    made["COAR"] = replace(made["COAR"], unidentified=np.arange(size) < 2)
    true, predicted, rows = {}, {}, []
    for share in alphas:
        kept = random.random((200, size)) > share
        true[share] = made["COAR"].predict(kept)
        true[share] = true[share] + random.normal(0, true[share].std(axis=0), true[share].shape)
        for name, each in made.items():
            predicted[name, share] = each.predict(kept)
            columns = agreement(true[share], predicted[name, share])
            for place, example in enumerate(names):
                values = {key: column[place] for key, column in columns.items()}
                rows.append({"method": name, "alpha": share, "example": example, **values})
    scores = Scores(pd.DataFrame(rows), true, predicted, dict.fromkeys(alphas, 0), 200, described)
    return Run(model, made, scores)


@pytest.fixture(scope="session")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both runs."""
    return report(
        tmp_path_factory.mktemp("page") / "report.html",
        [world.rows.model, world.heads.model],
        world.data,
        attributions={"Rows": world.rows.attributions, "Heads": world.heads.attributions},
        scores={"Rows": world.rows.scores, "Heads": world.heads.scores},
    )


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
    yield from _tab(browser)


@pytest.fixture(scope="module")
def shared(browser: str, written: Path) -> Iterator[Tab]:
    """The page, opened once."""
    for opened in _tab(browser):
        opened.open(written)
        yield opened


@pytest.fixture
def page(shared: Tab) -> Tab:
    """The page, for tests that leave it as it is: loading and drawing it takes seconds."""
    # A tab behind another one draws nothing.
    shared.send("Page.bringToFront")
    return shared


def _tab(browser: str) -> Iterator[Tab]:
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
