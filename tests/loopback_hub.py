"""A Hugging Face Hub on this machine: repositories in a directory, served by the routes that the libraries ask."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The one commit of every repository, which `main` names."""
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
ACCESS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/auth-check")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Serves `root/models/OWNER/NAME` and `root/datasets/OWNER/NAME`, each of one commit."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.gated: set[str] = set()
        """Repositories that are described to everyone, and whose files nobody gets."""
        self.broken: set[str] = set()
        """Repositories of which every request fails with status 500."""
        self.silent: set[str] = set()
        """Repositories about which nothing is answered."""
        self.closing = Event()
        self.asked: list[str] = []
        """The paths asked for, in order."""

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """Give a Hub of the repositories in `root`, until the block ends."""
    hub = Hub(root)
    Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if any(f"/{name}" in path for name in self.server.silent):
            self.server.closing.wait()
        elif path == "/":
            self._send(b"")
        elif found := ACCESS.fullmatch(path):
            if self._repository(found[1], found[2], None, files=True):
                self._send(b"")
        elif found := API.fullmatch(path):
            kind, name, route, revision, rest = found.groups()
            if repository := self._repository(kind, name, revision):
                self._describe(repository, name, route, rest or "", sent)
        elif found := FILE.fullmatch(path):
            repository = self._repository("datasets" if found[1] else "models", found[2], found[3], files=True)
            if repository and (file := repository / found[4]).is_file():
                content = file.read_bytes()
                self._send(content, ETag=f'"{sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
            elif repository:
                self._send(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self._send(b"", 404)

    def _repository(self, kind: str, name: str, revision: str | None, *, files: bool = False) -> Path | None:
        """Return the directory of a repository; otherwise answer as the Hub does, and return None."""
        directory = self.server.root / kind / name
        if name in self.server.broken:
            self._send(b"", 500)
        elif name in self.server.gated and files:
            self._send(b"", 403, X_Error_Code="GatedRepo")
        elif not directory.is_dir():
            self._send(b"", 401, X_Error_Code="RepoNotFound")  # to who is not logged in, what is private is not there
        elif revision not in (None, "main", COMMIT):
            self._send(b"", 404, X_Error_Code="RevisionNotFound")
        else:
            return directory
        return None

    def _describe(self, repository: Path, name: str, route: str | None, under: str, sent: bytes) -> None:
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        if route in (None, "revision"):
            siblings = [{"rfilename": str(file.relative_to(repository))} for file in files]
            gated = "manual" if name in self.server.gated else False
            self._send_json({"id": name, "sha": COMMIT, "private": False, "gated": gated, "siblings": siblings})
            return
        if route == "paths-info":
            wanted = [repository / path for path in json.loads(sent)["paths"]]
        else:
            start = repository / under
            wanted = sorted(start.rglob("*") if "recursive=" in self.path.lower() else start.glob("*"))
        self._send_json([_entry(path, repository) for path in wanted if path.exists()])

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), Content_Type="application/json")

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and status == 200:
            status, whole = 206, len(content)
            content = content[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
            headers["Content_Range"] = f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{whole}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: Path, repository: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": str(path.relative_to(repository))}
    content = path.read_bytes()
    return {
        "type": "file",
        "oid": sha1(content).hexdigest(),
        "size": len(content),
        "path": str(path.relative_to(repository)),
    }
