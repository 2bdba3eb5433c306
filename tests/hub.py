"""A hub of models on this machine: the few answers of huggingface.co that a download needs, and ways to fail."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.runs.tiny_runs import environment

COMMIT = "a" * 40
CALLS = """
import contextlib, io, json, os, sys, time
from ablationlens import cli

for call in json.loads(sys.argv[1]):
    if call[0] == "remove":
        for path in call[1:]:
            os.remove(path)
        continue
    start, out, err = time.monotonic(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(call)
    print(json.dumps([code, out.getvalue(), err.getvalue(), time.monotonic() - start]))
"""


@dataclass(frozen=True)
class Called:
    """What one call of the command line did."""

    code: int
    out: str
    err: str
    seconds: float


def call(*calls: Sequence[str | Path], cache: Path, **variables: str) -> list[Called]:
    """Calls of the command line in one process of their own, with a cache of their own.

    Args:
        calls: the arguments of each; "remove" takes files away between them.
        cache: folder for what is downloaded.
        variables: of the environment.
    """
    asked = json.dumps([[str(word) for word in one] for one in calls])
    env = {**environment(), "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **variables}
    done = subprocess.run([sys.executable, "-c", CALLS, asked], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Called(*json.loads(line)) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def serving(name: str, folder: Path, *, gated: bool = False) -> Iterator[str]:
    """The address of a hub that has one model, whose files it may give to nobody."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, paths = self.path.partition("?")[0], sorted(folder.iterdir())
            file = folder / path.rpartition("/")[2]
            if path == f"/api/models/{name}":
                files = [{"rfilename": one.name} for one in paths]
                about = {"id": name, "sha": COMMIT, "siblings": files, "tags": [], "private": False, "gated": gated}
                self.answer(200, json.dumps(about).encode())
            elif path == f"/api/models/{name}/tree/main":
                tree = [{"type": "file", "path": one.name, "oid": COMMIT, "size": one.stat().st_size} for one in paths]
                self.answer(200, json.dumps(tree).encode())
            elif path.startswith(f"/{name}/resolve/") and gated:
                self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            elif path.startswith(f"/{name}/resolve/") and file.is_file():
                content = file.read_bytes()
                self.answer(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
            else:
                missing = "EntryNotFound" if name in path else "RepoNotFound"
                self.answer(404, b"", {"X-Error-Code": missing, "X-Repo-Commit": COMMIT})

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for header, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name of the base class)
            """Nothing: a test's error stream is the command's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a hub that takes calls and never answers, as a network that drops packets does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
