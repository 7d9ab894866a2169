"""A hub on the loopback whose answers can be spoilt; `hostile_hub` has the ways to spoil them.

It prepares the true answer to each request, as huggingface.co gives it: JSON about a repository and
its tree, small files directly, weights by a redirect to a store.  A behaviour then changes the
status, a header or the body, or replaces the whole by bytes of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from urllib.parse import unquote, urlsplit

REPO = "o/x"
COMMIT = hashlib.sha1(b"main").hexdigest()
WEIGHTS = bytes(range(256)) * 512  # 128 KiB that stand for a model
GOOD = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"model": {}}',
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """The name that git gives a file's contents: the ETag of files that are not in a store."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def blob_name(file: str) -> str:
    """The name of one of GOOD's files in the cache of `huggingface_hub`."""
    return (sha256 if file.endswith(".safetensors") else git_oid)(GOOD[file])


@dataclass
class Ask:
    """A request. kind: "api", "tree", "file" or "store"; nth: how many came before for the same."""

    kind: str
    method: str
    file: str
    nth: int
    token: str | None
    repo: str
    path: str


@dataclass
class Answer:
    """The answer; `raw` replaces all of it, headers included; `reset` breaks the connection."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Iterator[bytes] = b""
    raw: Iterator[bytes] | None = None
    reset: bool = False

    def set(self, name: str, *values: object) -> None:
        """Replace a header; with no value it is left out, with two it is there twice."""
        others = [item for item in self.headers if item[0].lower() != name.lower()]
        self.headers = others + [(name, str(value)) for value in values]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def fill(self, body: bytes) -> None:
        """Another body with the right Content-Length."""
        self.body = body
        self.set("Content-Length", len(body))

    def head(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} Status",
            *(f"{key}: {value}" for key, value in self.headers),
        ]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


Behaviour = Callable[["LoopbackHub", Ask, Answer], None]


def tell_the_truth(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """The good hub."""


@dataclass
class LoopbackHub:
    """One repository, REPO unless another is given, and what was asked of it and sent."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(GOOD))
    behave: Behaviour = tell_the_truth
    repo: str = REPO
    commit: str = COMMIT
    store: str = ""  # where weights are redirected to: another hub, or this one by another name
    url: str = ""
    asked: list[Ask] = field(default_factory=list)
    sent: int = 0  # bytes
    closing: threading.Event = field(default_factory=threading.Event)

    def hold(self, seconds: float | None = None) -> None:
        """Wait, for ever if no time is given; the end of the hub ends it."""
        if self.closing.wait(seconds):
            raise ConnectionAbortedError

    def truth(self, kind: str, file: str, start: int) -> Answer:
        """The true answer to a request for a file's bytes from `start`, or about all files."""
        if kind in ("api", "tree"):
            facts = self.tree() if kind == "tree" else self.about()
            answer = Answer(headers=[("Content-Type", "application/json")])
            answer.fill(json.dumps(facts).encode())
            return answer
        data = self.files.get(file)
        if data is None:
            return Answer(404, [("X-Error-Code", "EntryNotFound"), ("Content-Length", "0")])
        stored = file.endswith(".safetensors")
        if kind == "file" and stored:
            return Answer(
                302,
                [
                    (
                        "Location",
                        f"{self.store or self.url.replace('127.0.0.1', 'localhost')}/store/{file}",
                    ),
                    ("X-Repo-Commit", self.commit),
                    ("X-Linked-Size", str(len(data))),
                    ("X-Linked-ETag", f'"{sha256(data)}"'),
                    ("ETag", f'"{git_oid(data)}"'),
                    ("Content-Length", "0"),
                ],
            )
        answer = Answer(206 if start else 200, [("Accept-Ranges", "bytes")])
        if start:
            answer.set("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        answer.set("ETag", f'"{hashlib.md5(data).hexdigest() if stored else git_oid(data)}"')
        if not stored:
            answer.set("X-Repo-Commit", self.commit)
        answer.fill(data[start:])
        return answer

    def about(self) -> dict:
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": git_oid(data)}
            | ({"lfs": self.stored(data, "sha256")} if name.endswith(".safetensors") else {})
            for name, data in self.files.items()
        ]
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "siblings": siblings}

    def tree(self) -> list:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
            | ({"lfs": self.stored(data, "oid")} if name.endswith(".safetensors") else {})
            for name, data in self.files.items()
        ]

    @staticmethod
    def stored(data: bytes, key: str) -> dict:
        return {key: sha256(data), "size": len(data), "pointerSize": 134}


PATHS = re.compile(
    r"/api/models/(?P<about>[^/]+/[^/]+)(?P<revision>/revision/[^/]+)?"
    r"|/api/models/[^/]+/[^/]+/(?P<tree>tree)/.+"
    r"|/store/(?P<stored>.+)|/(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)"
)


class Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = PATHS.fullmatch(unquote(urlsplit(self.path).path))
        groups = found.groupdict() if found else {}
        kind = "api" if groups.get("about") else "tree" if groups.get("tree") else "file"
        kind = "store" if groups.get("stored") else kind
        file = groups.get("stored") or groups.get("file") or ""
        nth = sum((ask.kind, ask.file) == (kind, file) for ask in self.hub.asked)
        repo = groups.get("about") or groups.get("repo") or ""
        ask = Ask(kind, self.command, file, nth, self.headers["Authorization"], repo, self.path)
        self.hub.asked.append(ask)
        start = re.match(r"bytes=(\d+)-", self.headers["Range"] or "")
        answer = self.hub.truth(kind, file, int(start[1]) if start else 0)
        self.close_connection = True
        self.hub.behave(self.hub, ask, answer)
        with suppress(OSError):
            self.send(answer)

    def send(self, answer: Answer) -> None:
        if answer.reset:
            linger = struct.pack("ii", 1, 0)  # close by RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        body = [answer.body] if isinstance(answer.body, bytes) else answer.body
        whole = chain([answer.head()], body if self.command == "GET" else [])
        for part in whole if answer.raw is None else answer.raw:
            self.connection.sendall(part)
            self.hub.sent += len(part)


@contextmanager
def serving(hub: LoopbackHub) -> Iterator[LoopbackHub]:
    """Run a hub on a free port of the loopback."""
    listening = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub})
    )
    listening.handle_error = lambda *_: None  # a client that hangs up is no news
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{listening.server_port}"
    try:
        yield hub
    finally:
        hub.closing.set()
        listening.shutdown()
        listening.server_close()
        thread.join()
