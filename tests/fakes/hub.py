"""A small Hugging Face hub: real HTTP, the hub's wire format, repositories from folders or bytes.

What it says and how was read off huggingface_hub 2.4 (hf_api, file_download, utils/_http) and
https://huggingface.co/docs/hub/api; the real client is run against it in
`tests/inference/test_hub_fake.py`.

    with FakeHub() as hub:
        hub.add("acme/tiny", tiny_model())
        hub.add("acme/gated", tiny_model(), gated=True)
        hub.tokens["hf_alice"] = {"acme/gated"}      # a token and what its owner has accepted
        snapshot_download("acme/tiny", endpoint=hub.url, …)
"""

import hashlib
import json
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")
PIECE = 64 * 1024


def safetensors(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A file in safetensors format with these tensors (format and shape), all zeros."""
    widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = widths[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def tiny_model(**config: object) -> dict[str, bytes]:
    """The files of a Llama of 3,072 parameters, BF16; `config` adds to config.json."""
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
    }
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\nTiny.\n",
        "config.json": json.dumps(said | config).encode(),
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(
            {"embed.weight": ("BF16", [32, 64]), "norm.weight": ("BF16", [1024])}
        ),
    }


def tiny_adapter(width: int = 64, layer: int = 1, **config: object) -> dict[str, bytes]:
    """The files of a LoRA adapter for `tiny_model`, rank 4; `config` adds to its configuration."""
    said = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "acme/tiny",
        "bias": "none",
    }
    name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
    tensors = {f"{name}A.weight": ("F32", [4, width]), f"{name}B.weight": ("F32", [width, 4])}
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\nTiny.\n",
        "adapter_config.json": json.dumps(said | config).encode(),
        "adapter_model.safetensors": safetensors(tensors),
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as `add` takes them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Repository:
    id: str
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    licence: str = "apache-2.0"
    pipeline_tag: str = "text-generation"
    downloads: int = 100
    parameters: dict[str, int] | None = None  # as the hub says; None: read from the headers
    says_parameters: bool = True  # mirrors often do not
    gguf: dict[str, Any] | None = None  # what the hub has read in its GGUF files
    claimed: dict[str, int] = field(default_factory=dict)  # sizes that the list says instead
    commit: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + content)
        self.commit = digest.hexdigest()

    def json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.files.get(name, b"{}"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def info(self, blobs: bool) -> dict[str, Any]:
        config = self.json("config.json")
        said: dict[str, Any] = {
            "_id": self.commit[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.split("/")[0],
            "sha": self.commit,
            "lastModified": "2026-11-01T12:00:00.000Z",
            "createdAt": "2026-10-01T12:00:00.000Z",
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": self.downloads,
            "likes": 1,
            "library_name": "transformers",
            "pipeline_tag": self.pipeline_tag,
            "tags": self.tags(),
            "cardData": {"license": self.licence} if self.licence else {},
            "config": {
                key: config[key]
                for key in ("architectures", "model_type", "auto_map", "quantization_config")
                if key in config
            },
            "siblings": [self.sibling(name, blobs) for name in self.files],
        }
        counts = self.counts() if self.says_parameters else {}
        if counts:
            said["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
        if self.gguf is not None:
            said["gguf"] = self.gguf
        return said

    def tags(self) -> list[str]:
        tags = ["transformers", self.pipeline_tag]
        if any(name.endswith(".safetensors") for name in self.files):
            tags.append("safetensors")
        if any(name.endswith(".gguf") for name in self.files):
            tags.append("gguf")
        return [*tags, f"license:{self.licence}"] if self.licence else tags

    def counts(self) -> dict[str, int]:
        if self.parameters is not None:
            return self.parameters
        counts: dict[str, int] = {}
        for name, content in self.files.items():
            if name.endswith(".safetensors"):
                (length,) = struct.unpack("<Q", content[:8])
                for tensor in json.loads(content[8 : 8 + length]).values():
                    if "shape" in tensor:
                        size = 1
                        for side in tensor["shape"]:
                            size *= side
                        counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
        return counts

    def sibling(self, name: str, blobs: bool) -> dict[str, Any]:
        if not blobs:
            return {"rfilename": name}
        content = self.files[name]
        said: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": oid(content)}
        if name.endswith(LFS_SUFFIXES):
            sha = hashlib.sha256(content).hexdigest()
            said["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 134}
        return said

    def tree(self, below: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{below}/" if below else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            if not name.startswith(prefix):
                continue
            folder, slash, _ = name.removeprefix(prefix).partition("/")
            if slash:
                path = prefix + folder
                entries[path] = {"type": "directory", "oid": oid(path.encode()), "path": path}
                entries[path]["size"] = 0
                if not recursive:
                    continue
            entries[name] = self.tree_file(name, content)
        return list(entries.values())

    def tree_file(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file",
            "oid": oid(content),
            "size": self.claimed.get(name, len(content)),
            "path": name,
        }
        if name.endswith(LFS_SUFFIXES):
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        return entry


def oid(content: bytes) -> str:
    """Git's name of a blob."""
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


class FakeHub:
    """Start it as a context manager; `url` is what HF_ENDPOINT would be."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, set[str]] = {}  # token → gated and private ids it may read
        self.requests: list[tuple[str, str]] = []  # method and path, in order
        self.delay = 0.0  # seconds before each answer
        self.down: HTTPStatus | None = None  # answer everything with this status
        self.page: bytes | None = None  # answer everything with this page, as a captive portal does
        self.bytes_per_second = 0  # of file contents; 0: as fast as it goes
        self.cut_after = 0  # bytes after which the next big file's connection breaks, once
        self.spoiled: Counter[str] = Counter()  # files and how often they still come with a flip
        self.sent: Counter[str] = Counter()  # bytes of each file's content that went out
        self.sending: set[int] = set()  # threads that are sending content
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, id: str, files: dict[str, bytes], **facts: Any) -> Repository:
        repository = self.repositories[id] = Repository(id, files, **facts)
        return repository

    @property
    def busy(self) -> bool:
        """Whether content is still on its way to somebody."""
        return bool(self.sending)

    def asked(self, part: str) -> int:
        """How many requests had this in their path."""
        return sum(part in path for _, path in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str, commit: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message, commit


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    _sending = ""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._sending = ""
        self.hub.requests.append((self.command, self.path))
        time.sleep(self.hub.delay)
        if self.hub.down:
            return self._json({"error": "down"}, self.hub.down)
        if self.hub.page is not None:
            return self._send(self.hub.page, {"Content-Type": "text/html"})
        try:
            self._route()
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            if refused.commit:
                headers["X-Repo-Commit"] = refused.commit
            self._json({"error": refused.message}, refused.status, headers)

    do_HEAD = do_GET

    def _route(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            if len(parts) == 2:
                return self._search()
            return self._api("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        if parts[0] == "cdn":
            return self._cdn(parts[1])
        raise _Refused(HTTPStatus.NOT_FOUND, "", "Not found")

    def _search(self) -> None:
        self._token()
        words = self.query.get("search", [""])[0].lower().split()
        wanted = self.query.get("filter", []) + self.query.get("pipeline_tag", [])
        found = [
            repository
            for repository in self.hub.repositories.values()
            if self._visible(repository)
            and all(word in repository.id.lower() for word in words)
            and all(tag in repository.tags() for tag in wanted)
        ]
        found.sort(key=lambda repository: -repository.downloads)
        rows = [r.info(blobs=False) for r in found[: int(self.query.get("limit", ["1000"])[0])]]
        expand = self.query.get("expand")
        if expand:
            rows = [{k: v for k, v in row.items() if k in {"_id", "id", *expand}} for row in rows]
        self._json(rows)

    def _api(self, id: str, rest: list[str]) -> None:
        repository = self._repository(id)
        if not rest:
            return self._json(repository.info("blobs" in self.query))
        self._revision(repository, rest[1])
        if rest[0] == "revision":
            return self._json(repository.info("blobs" in self.query))
        if rest[0] == "tree":
            self._gate(repository)
            recursive = self.query.get("recursive", [""])[0].lower() in {"true", "1"}
            return self._json(repository.tree("/".join(rest[2:]), recursive))
        raise _Refused(HTTPStatus.NOT_FOUND, "", "Not found")

    def _resolve(self, id: str, revision: str, name: str) -> None:
        repository = self._repository(id)
        self._gate(repository)
        self._revision(repository, revision)
        content = repository.files.get(name)
        if content is None:
            raise _Refused(
                HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found", repository.commit
            )
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if not name.endswith(LFS_SUFFIXES):
            return self._send_file(name, content, headers | {"ETag": f'"{oid(content)}"'})
        sha = hashlib.sha256(content).hexdigest()
        headers |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{sha}"',
            # Another host by name, as the hub's storage is: the client must not send the token on.
            "Location": f"{self.hub.url}/cdn/{sha}".replace("127.0.0.1", "localhost"),
        }
        self._send(b"", headers, HTTPStatus.FOUND)

    def _cdn(self, sha: str) -> None:
        if "Authorization" in self.headers:  # as S3 answers a second authorization
            raise _Refused(HTTPStatus.BAD_REQUEST, "", "Only one auth mechanism allowed")
        for repository in self.hub.repositories.values():
            for name, content in repository.files.items():
                if hashlib.sha256(content).hexdigest() == sha:
                    cut, self.hub.cut_after = self.hub.cut_after, 0
                    return self._send_file(name, content, {"ETag": f'"{sha}"'}, cut)
        raise _Refused(HTTPStatus.NOT_FOUND, "", "Not found")

    def _send_file(self, name: str, content: bytes, headers: dict[str, str], cut: int = 0) -> None:
        if self.command == "GET" and self.hub.spoiled[name]:
            self.hub.spoiled[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._sending = name
        self._send(content, headers, cut=cut)

    def _token(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            message = "Invalid credentials in Authorization header"
            raise _Refused(HTTPStatus.UNAUTHORIZED, "", message)
        return token

    def _visible(self, repository: Repository) -> bool:
        allowed = self.hub.tokens.get(self._token(), set())
        return not repository.private or repository.id in allowed

    def _repository(self, id: str) -> Repository:
        token = self._token()
        repository = self.hub.repositories.get(id)
        if repository is None or not self._visible(repository):
            # The hub does not tell a stranger a missing repository from a private one.
            status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            raise _Refused(status, "RepoNotFound", "Repository not found")
        return repository

    def _gate(self, repository: Repository) -> None:
        token = self._token()
        if repository.gated and repository.id not in self.hub.tokens.get(token, set()):
            status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
            message = f"Access to model {repository.id} is restricted."
            raise _Refused(status, "GatedRepo", message)

    def _revision(self, repository: Repository, revision: str) -> None:
        if revision not in {"main", repository.commit}:
            message = f"Invalid rev id: {revision}"
            raise _Refused(HTTPStatus.NOT_FOUND, "RevisionNotFound", message)

    def _json(
        self,
        value: object,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
    ) -> None:
        headers = {"Content-Type": "application/json; charset=utf-8"} | (headers or {})
        self._send(json.dumps(value).encode(), headers, status)

    def _send(
        self,
        content: bytes,
        headers: dict[str, str],
        status: HTTPStatus = HTTPStatus.OK,
        cut: int = 0,
    ) -> None:
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and status is HTTPStatus.OK:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or len(content) - 1), len(content) - 1)
            if first >= len(content):
                status, content = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b""
            else:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                status, content = HTTPStatus.PARTIAL_CONTENT, content[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self._body(content, cut)

    def _body(self, content: bytes, cut: int) -> None:
        thread = threading.get_ident()
        self.hub.sending.add(thread)
        try:
            for start in range(0, min(len(content), cut or len(content)), PIECE):
                piece = content[start : min(start + PIECE, cut or len(content))]
                if self._sending:
                    self.hub.sent[self._sending] += len(piece)
                self.wfile.write(piece)
                if self.hub.bytes_per_second:
                    time.sleep(len(piece) / self.hub.bytes_per_second)
        except (BrokenPipeError, ConnectionResetError):  # the client has what it wanted
            self.close_connection = True
        finally:
            self.hub.sending.discard(thread)
        if cut and cut < len(content):
            self.close_connection = True
