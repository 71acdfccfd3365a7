"""A stand-in for the Hugging Face Hub on this device: real client code, no network.

    root/models/bert-base-cased/config.json           (or models/<owner>/<name>/)
    root/datasets/tner/bionlp2004/main/dataset/label.json
    root/datasets/tner/bionlp2004/refs--convert--parquet/bionlp2004/train/0000.parquet

    with Hub(root) as hub:
        subprocess.run([sys.executable, "script.py"], env=hub.env(cache))

The clients read HF_* when they are imported, hence the subprocess. Tests break the hub by setting
`hub.mode`, for all requests or for those with `hub.only` in their path, for ever or `hub.times`
times. They read `hub.requests`, and `hub.broken`: a test of a failure asserts that it was served.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
import time
import urllib.parse

REPO = r"(?P<repo>[^/]+(?:/[^/]+)??)"
FILE_URL = re.compile(rf"/(?P<kind>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API_URL = re.compile(
    rf"/api/(?P<kind>models|datasets)/{REPO}"
    r"(?:/(?P<what>revision|tree|paths-info)(?:/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?)?"
)
LARGE = (".bin", ".safetensors", ".parquet")  # known by their SHA-256, the rest as git blobs


class Hub:
    """Serve the repositories under `root`; folders may be added and changed while it runs.

    mode: "ok"; "503": every answer is 503; "gated": access was not granted; "silent": accepts and
    never answers, until the mode changes; "cut": files break off in the middle; "stall": nothing
    comes after a file's middle, until the mode changes.
    requests: (method, raw path) in order of arrival; broken: those that the mode was applied to.
    """

    def __init__(self, root):
        self.root, self.requests, self.broken = pathlib.Path(root), [], []
        self.lock = threading.Lock()
        self.reset()
        handler = functools.partial(_Handler, self)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reset(self):
        """In order again, with no request noted."""
        self.mode, self.only, self.times = "ok", "", None
        self.requests.clear()
        self.broken.clear()

    def breaks(self, request) -> str:
        """The mode for this request, which is noted."""
        with self.lock:
            self.requests.append(request)
            mode = self.mode if self.only in request[1] and self.times != 0 else "ok"
            if mode in ("cut", "stall") and (request[0] != "GET" or "/resolve/" not in request[1]):
                mode = "ok"
            if mode != "ok":
                self.broken.append(request)
                self.times = self.times and self.times - 1
            return mode

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.mode = "ok"  # answers who still waits for a silent hub
        self.server.shutdown()
        self.server.server_close()

    def env(self, cache_dir, **extra) -> dict[str, str]:
        """The environment of a process that knows only this hub and caches under `cache_dir`."""
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache_dir),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",  # wins over a proxy the device may need
            "no_proxy": "127.0.0.1",
            **extra,
        }

    def revisions(self, kind, repo) -> dict[str, pathlib.Path]:
        """Folder of each revision, by name and by commit; empty if there is no such repository."""
        folder = self.root / kind / repo
        if kind == "models":
            found = {"main": folder} if any(p.is_file() for p in folder.glob("*")) else {}
        else:
            found = {p.name.replace("--", "/"): p for p in folder.glob("*") if p.is_dir()}
        return found | {_commit(path): path for path in found.values()}


def _commit(folder) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha1(repr(state).encode()).hexdigest()


def _entry(path, name) -> dict:
    """A file or folder as the tree and paths-info endpoints describe it."""
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": _commit(path)}
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "path": name, "size": len(data), "oid": oid}
    if path.suffix in LARGE:
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 134}
    return entry


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub, *args):
        self.hub = hub
        super().__init__(*args)

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that gave up
            super().handle()

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.mode = self.hub.breaks((self.command, self.path))
        if self.mode == "silent":
            self.wait()
        if self.mode == "503":
            return self.reply(503, b"unavailable")
        if self.mode == "gated":
            return self.error("GatedRepo", "Access to this repository is restricted", 403)
        url = urllib.parse.urlsplit(self.path)
        match = FILE_URL.fullmatch(url.path) or API_URL.fullmatch(url.path)
        if not match:
            return self.error("", "Not found")
        part = {k: urllib.parse.unquote(v or "") for k, v in match.groupdict().items()}
        kind = part["kind"].strip("/") or "models"
        revisions = self.hub.revisions(kind, part["repo"])
        if not revisions:
            return self.error("RepoNotFound", "Repository not found")
        folder = revisions.get(part["revision"] or "main")
        if not folder:
            return self.error("RevisionNotFound", f"Invalid rev id: {part['revision']}")
        if match.re is FILE_URL:
            return self.file(folder, part["path"])
        return self.api(part, folder, urllib.parse.parse_qs(url.query))

    do_HEAD = do_POST = do_GET

    def api(self, part, folder, query):
        names = {p: p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*"))}
        if part["what"] == "paths-info":
            wanted = urllib.parse.parse_qs(self.body).get("paths", [])
            return self.json([_entry(p, name) for p, name in names.items() if name in wanted])
        if part["what"] == "tree":
            top = folder / part["path"]
            if not top.is_dir():
                return self.error("EntryNotFound", f"{part['path']} does not exist")
            deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            listed = [p for p in names if top in p.parents and (deep or p.parent == top)]
            return self.json([_entry(p, names[p]) for p in listed])
        files = [{"rfilename": name} for p, name in names.items() if p.is_file()]
        self.json({"id": part["repo"], "sha": _commit(folder), "siblings": files, "tags": []})

    def file(self, folder, name):
        commit = {"X-Repo-Commit": _commit(folder)}
        if not (folder / name).is_file():
            return self.error("EntryNotFound", f"{name} does not exist", headers=commit)
        data = (folder / name).read_bytes()
        entry = _entry(folder / name, name)
        headers = commit | {"ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers["ETag"] = headers["X-Linked-ETag"] = f'"{entry["lfs"]["oid"]}"'
            headers["X-Linked-Size"] = len(data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.reply(200, data, headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self.reply(206, data[start:stop], headers)

    def json(self, content):
        self.reply(200, json.dumps(content).encode())

    def error(self, code, message, status=404, headers=None):
        headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self.reply(status, b"", headers)

    def reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.mode in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def wait(self):
        """As long as the hub is to say nothing; a "cut" waits for nothing."""
        while self.hub.mode in ("silent", "stall"):
            time.sleep(0.05)
