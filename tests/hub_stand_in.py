# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A small Hub over HTTP, in memory: repositories, commits, large files, downloads by revision.

`HF_ENDPOINT` leads huggingface_hub here. Like the Hub it takes large files first and apart from the commit that names
them, and it answers with the headers from which the cache learns commit, size and content of a file.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


LARGE_SUFFIXES = (".bin", ".png", ".safetensors")


@dataclass
class Repository:
    """Commits by their names, each with all of its files, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({}, "main")

    def commit(self, files: dict[str, bytes], branch: str) -> str:
        sha = hashlib.sha1(repr((len(self.commits), branch, sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass
class HubStandIn:
    """The state of the stand-in, for tests to look at."""

    url: str = ""
    token: str = ""
    refuse: str | None = None  # a pattern of "METHOD /path": such requests are refused
    cuts: int = 0  # so many downloads of large files end in the middle, as when a connection breaks
    repositories: dict[str, Repository] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, folder: Path) -> str:
        """Commits a folder without a request, and returns the commit."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories.setdefault(repo, Repository()).commit(files, "main")

    def environment(self, cache: Path, *, token: str | None = None) -> dict[str, str]:
        """The variables of a process that knows this Hub alone and has nothing cached but what is in `cache`."""
        hidden = ("HF_", "HUGGING", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        environment |= {"HF_HOME": str(cache), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        return environment if token is None else {**environment, "HF_TOKEN": token}


@contextmanager
def serve(token: str = "hf_standin") -> Iterator[HubStandIn]:
    """Runs a stand-in, to which `token` may write."""
    hub = HubStandIn(token=token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        if self.hub.refuse is not None and re.search(self.hub.refuse, request):
            return self._answer({"error": "refused"}, status=403)
        for pattern, action, writes in ROUTES:
            match = re.fullmatch(pattern, request)
            if match:
                if writes and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                    return self._answer({"error": "Invalid credentials"}, status=401)
                return action(self, **match.groupdict())
        return self._missing("EntryNotFound")

    def _answer(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer({"error": code}, status=404, headers={"X-Error-Code": code, **(headers or {})})

    # Reading

    def info(self, repo: str, revision: str = "main") -> None:
        repository = self.hub.repositories.get(repo)
        sha = None if repository is None else repository.resolve(revision)
        if repository is None or sha is None:
            return self._missing("RepoNotFound" if repository is None else "RevisionNotFound")
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        return self._answer({"id": repo, "modelId": repo, "sha": sha, "private": False, "siblings": siblings})

    def tree(self, repo: str, revision: str, folder: str | None) -> None:
        repository = self.hub.repositories.get(repo)
        sha = None if repository is None else repository.resolve(revision)
        if repository is None or sha is None:
            return self._missing("RepoNotFound" if repository is None else "RevisionNotFound")
        files = {path: data for path, data in repository.commits[sha].items() if path.startswith(folder or "")}
        if folder and not files:
            return self._missing("EntryNotFound")
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        return self._answer(entries)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get(repo)
        sha = None if repository is None else repository.resolve(revision)
        if repository is None or sha is None:
            return self._missing("RepoNotFound" if repository is None else "RevisionNotFound")
        headers = {"X-Repo-Commit": sha}
        data = repository.commits[sha].get(path)
        if data is None:
            return self._missing("EntryNotFound", headers)
        etag = hashlib.sha256(data).hexdigest()
        headers |= {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start is not None:  # the rest of a download that was cut
            headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            data = data[int(start[1]) :]
        if self.command == "GET" and path.endswith(LARGE_SUFFIXES) and self.hub.cuts > 0:
            self.hub.cuts -= 1
            headers["Content-Length"] = str(len(data))
            self.close_connection = True
            data = data[: len(data) // 2]
        return self._answer(data, status=200 if start is None else 206, headers=headers)

    # Writing

    def create(self) -> None:
        request = json.loads(self.body)
        repo = f"{request['organization']}/{request['name']}"
        exists = repo in self.hub.repositories
        if not exists:
            self.hub.repositories[repo] = Repository()
        self._answer({"url": f"{self.hub.url}/{repo}", "name": repo}, status=409 if exists else 200)

    def branch(self, repo: str, branch: str) -> None:
        branches = self.hub.repositories[repo].branches
        exists = branch in branches
        branches.setdefault(branch, branches["main"])
        self._answer({}, status=409 if exists else 201)

    def preupload(self, repo: str, revision: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._answer({"files": files})

    def batch(self, repo: str) -> None:
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            if wanted["oid"] not in self.hub.large_files:
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/large-files/{wanted['oid']}"}}
            objects.append(wanted)
        self._answer({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        # The address itself is the permission, as on the Hub
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._answer({"error": "content differs"}, status=400)
        self.hub.large_files[oid] = self.body
        return self._answer({})

    def commit(self, repo: str, revision: str) -> None:
        repository = self.hub.repositories[repo]
        files = dict(repository.commits[repository.branches[revision]])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        self._answer({"commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def validate(self) -> None:
        self._answer({"errors": [], "warnings": []})


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[\w.-]+)"
# The request, what answers it, and whether it takes the token.
ROUTES: list[tuple[str, Any, bool]] = [
    (rf"GET /api/models/{_REPO}", _Handler.info, False),
    (rf"GET /api/models/{_REPO}/revision/{_REVISION}", _Handler.info, False),
    (rf"GET /api/models/{_REPO}/tree/{_REVISION}(/(?P<folder>.+))?", _Handler.tree, False),
    (rf"(GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve, False),
    (r"POST /api/repos/create", _Handler.create, True),
    (rf"POST /api/models/{_REPO}/branch/(?P<branch>[\w.-]+)", _Handler.branch, True),
    (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload, True),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch, True),
    (r"PUT /large-files/(?P<oid>[0-9a-f]{64})", _Handler.upload, False),
    (rf"POST /api/models/{_REPO}/commit/{_REVISION}", _Handler.commit, True),
    (r"POST /api/validate-yaml", _Handler.validate, False),
]
