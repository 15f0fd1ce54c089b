"""A small stand-in for the hub: what huggingface_hub asks of it, on 127.0.0.1, from directories on disk.

Answers /api/models/ID[/revision/REV], /api/models/ID/tree/REV and HEAD or GET of /ID/resolve/REV/FILE, with
the headers that huggingface_hub reads. Every request is noted as (method, path, token).
"""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` (id -> directory). `gated` and `private` ids want the token "secret".

    `breaks_off`: file name -> bytes after which its first transfer ends early.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.breaks_off: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {path.split("/resolve/", 1)[1].split("/", 1)[1]
                for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def log_message(self, *arguments):
        pass

    def _answer(self, with_body: bool):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.server.requests.append((self.command, path, token))
        is_api = path.startswith("/api/models/")
        name, kind, rest = _parsed(path.removeprefix("/api/models/").strip("/"))
        directory = self.server.repositories.get(name)
        if directory is None or (name in self.server.private and token != "secret"):
            return self._refuse(401, "RepoNotFound", with_body)
        revision, _, file = rest.partition("/")
        if revision not in ("", "main", COMMIT):
            return self._refuse(404, "RevisionNotFound", with_body)
        if is_api:
            files = sorted(
                str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file()
            )
            sizes = {each: (directory / each).stat().st_size for each in files}
            tree = [{"type": "file", "oid": _etag(directory / each), "size": sizes[each], "path": each}
                    for each in files]  # fmt: skip
            info = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
                    "siblings": [{"rfilename": each} for each in files]}  # fmt: skip
            return self._send(200, json.dumps(tree if kind == "tree" else info).encode(), with_body)
        if name in self.server.gated and token != "secret":
            return self._refuse(403, "GatedRepo", with_body)
        if not (directory / file).is_file():
            return self._refuse(404, "EntryNotFound", with_body)
        return self._send_file(directory / file, with_body)

    def _send_file(self, path: Path, with_body: bool):
        content = path.read_bytes()
        start, code = 0, 200
        if asked := self.headers.get("Range"):
            start, code = int(asked.removeprefix("bytes=").split("-")[0]), 206
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if code == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        cut = (
            self.server.breaks_off.pop(path.name, None)
            if with_body and path.name in self.server.breaks_off
            else None
        )
        self._send(code, body, with_body, headers, cut)

    def _refuse(self, code: int, reason: str, with_body: bool):
        self._send(code, b"{}", with_body, {"X-Error-Code": reason, "X-Error-Message": reason})

    def _send(self, code: int, body: bytes, with_body: bool, headers=(), cut: int | None = None):
        self.send_response(code)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _parsed(path: str) -> tuple[str, str, str]:
    """(repository, what is asked, the rest) of a path."""
    for kind in ("resolve", "revision", "tree"):
        if f"/{kind}/" in path:
            name, rest = path.split(f"/{kind}/", 1)
            return name, kind, rest
    return path, "", ""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
