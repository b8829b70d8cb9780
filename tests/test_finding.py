"""What the paths of a corpus stand for: files, globs, folders, saved datasets, URLs over a real server."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedtrain import finding
from embedtrain.corpus import encode
from embedtrain.errors import EmbedtrainError
from embedtrain.finding import find
from embedtrain.options import Options

ALL = Options(min_count=1)
PARTS = ["one two\nthree\n", "two three four\n", "four one\n"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a folder as people have them."""
    folder = tmp_path / "data"
    (folder / "sub" / ".git").mkdir(parents=True)
    (folder / "b.txt").write_text(PARTS[1])
    (folder / "a.txt.gz").write_bytes(gzip.compress(PARTS[0].encode()))
    (folder / "sub" / "c").write_text(PARTS[2])
    (folder / ".hidden").write_text("no\n")
    (folder / "sub" / ".git" / "x").write_text("no\n")
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> str:
    """Return the fingerprint of the same text in one file."""
    path = tmp_path / "whole"
    path.write_text("".join(PARTS))
    return encode(path, ALL).fingerprint


def names(path: str | Path) -> list[str]:
    return [Path(file.name).name for file in find(path).files]


def test_a_folder_is_all_its_files_in_order(data: Path, whole: str) -> None:
    assert names(data) == names(f"{data}/") == ["a.txt.gz", "b.txt", "c"]
    lines: list[str] = []
    corpus = encode(data, ALL, note=lines.append)
    assert corpus.fingerprint == whole
    assert lines == [f"{data}: 3 files; left out: hidden folders (1), hidden files (1)"]
    assert [(each.name, each.size) for each in corpus.sources] == [
        (str(data), sum(file.stat().st_size for file in (data / "a.txt.gz", data / "b.txt", data / "sub" / "c")))
    ]


def test_links_of_a_folder_do_not_lead_out_of_it(data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d").write_text("five\n")
    (data / "folder").symlink_to(outside)
    (data / "loop").symlink_to(data)
    (data / "file").symlink_to(outside / "d")  # as the hub's cache has them
    (data / "gone").symlink_to(outside / "none")
    os.mkfifo(data / "pipe")
    found = find(data)
    assert [Path(file.name).name for file in found.files] == ["a.txt.gz", "b.txt", "file", "c"]
    assert found.left_out == {
        "hidden folders": 1,
        "links to folders": 2,
        "hidden files": 1,
        "broken links": 1,
        "pipes, sockets and devices": 1,
    }


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("no")
    with pytest.raises(EmbedtrainError, match=r"there are no files in this folder; left out: hidden files \(1\)"):
        find(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_in_it_that_cannot_be_read(data: Path) -> None:
    (data / "sub").chmod(0)
    try:
        with pytest.raises(EmbedtrainError, match="sub: cannot be read"):
            find(data)
    finally:
        (data / "sub").chmod(0o700)


def test_globs(data: Path, whole: str) -> None:
    assert names(data / "*.txt*") == ["a.txt.gz", "b.txt"]
    assert names(data / "[ab].*") == ["a.txt.gz", "b.txt"]
    assert names(data / "*") == ["a.txt.gz", "b.txt"]
    assert find(data / "*").left_out == {"folders": 1}
    assert names(data / "**") == ["a.txt.gz", "b.txt", "c"]
    assert encode([data / "?.txt*", data / "sub" / "c*"], ALL).fingerprint == whole
    with pytest.raises(EmbedtrainError, match=r"\*\.md: no file matches"):
        find(data / "*.md")
    (data / "x[1].txt").write_text("a name with brackets\n")
    assert names(data / "x[1].txt") == ["x[1].txt"]


@pytest.mark.parametrize(("path", "why"), [("", "is empty"), ("no/such", "no such file"), ("nul\0", "cannot be read")])
def test_names_that_are_none(path: str, why: str) -> None:
    with pytest.raises(EmbedtrainError, match=why):
        find(path)


def test_kinds_are_known_by_the_first_bytes(tmp_path: Path) -> None:
    for kind, magic in [("parquet", b"PAR1"), ("arrow", b"ARROW1\0\0"), ("npy", b"\x93NUMPY\1\0"), ("text", b"PARIS")]:
        path = tmp_path / "file"
        path.write_bytes(magic)
        assert find(path).files[0].kind == kind
        path.write_bytes(bz2.compress(magic))
        if kind in ("parquet", "arrow"):
            with pytest.raises(EmbedtrainError, match=f"decompress this {kind} file first"):
                find(path)
        else:
            assert find(path).files[0].kind == kind


def saved_dataset(folder: Path, files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(files if isinstance(files, str) else json.dumps({"_data_files": files}))
    return folder


def test_a_saved_dataset_is_its_arrow_files(tmp_path: Path) -> None:
    for name in ("data-1.arrow", "data-0.arrow", "cache-1.arrow"):
        (tmp_path / name).write_bytes(b"\xff\xff\xff\xff")
    folder = saved_dataset(tmp_path, [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}])
    assert names(folder) == ["data-0.arrow", "data-1.arrow"]
    assert {file.kind for file in find(folder).files} == {"arrow"}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([{"filename": "../secret.arrow"}], "does not say which files"),
        ([{"filename": "/etc/passwd"}], "does not say which files"),
        ([{"filename": ".."}], "does not say which files"),
        ([{"filename": 3}], "does not say which files"),
        ([{"file": "x"}], "does not say which files"),
        ("[1", "does not say which files"),
        ("[]", "does not say which files"),
        ("\x00", "does not say which files"),
        ([], "the dataset is empty"),
        ([{"filename": "gone.arrow"}], "no such file"),
    ],
)
def test_a_dataset_that_is_damaged_or_leads_out_of_its_folder(tmp_path: Path, files: Any, why: str) -> None:
    (tmp_path / "secret.arrow").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(EmbedtrainError, match=why):
        find(saved_dataset(tmp_path / "dataset", files))


def test_a_dataset_of_several_splits(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        saved_dataset(tmp_path / split, [])
    with pytest.raises(EmbedtrainError, match="several splits; give one of the folders test, train"):
        find(tmp_path)


# --- URLs ----------------------------------------------------------------------------------------------------------

fsspec = pytest.importorskip("fsspec")


class Handler(BaseHTTPRequestHandler):
    """Serves what is in ``files``, ranges of it too. Names ask for trouble: cut, missing, slow."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    requests: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.requests.append(self.command)
        name = self.path.lstrip("/")
        data = self.files.get(name)
        if data is None:
            self.send_error(404)
            return
        begin, end = 0, len(data)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            begin, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        if "untagged" not in name:
            self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if body:
            self.wfile.write(data[begin:end] if "cut" not in name else data[begin : (begin + end) // 2])
        if "cut" in name:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    class Own(Handler):
        pass

    Own.files, Own.requests = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", Own
        running.shutdown()
        thread.join()


@pytest.fixture
def http() -> None:
    pytest.importorskip("aiohttp")


@pytest.mark.usefixtures("http")
def test_a_web_server(server: tuple[str, type[Handler]], whole: str, tmp_path: Path) -> None:
    url, handler = server
    handler.files = {"a.txt": PARTS[0].encode(), "b.txt.gz?x=*": gzip.compress("".join(PARTS[1:]).encode())}
    seen: list[tuple[int, int | None]] = []
    corpus = encode([f"{url}/a.txt", f"{url}/b.txt.gz?x=*"], ALL, lambda done, total: seen.append((done, total)))
    assert corpus.fingerprint == whole
    assert [each.name for each in corpus.sources] == [f"{url}/a.txt", f"{url}/b.txt.gz?x=*"]
    assert seen[-1] == (sum(map(len, handler.files.values())),) * 2


@pytest.mark.usefixtures("http")
def test_large_files_come_in_one_piece(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    url, handler = server
    text = "".join(f"{number} {number % 91}\n" for number in range(600_000)).encode()
    handler.files = {"large": text}
    (tmp_path / "large").write_bytes(text)
    assert encode(f"{url}/large", ALL).fingerprint == encode(tmp_path / "large", ALL).fingerprint
    assert handler.requests.count("GET") == 1


@pytest.mark.usefixtures("http")
def test_troubles_of_the_web(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    handler.files = {"cut": b"some words\n" * 100_000, "cut.gz": gzip.compress(os.urandom(100_000).hex().encode())}
    with pytest.raises(EmbedtrainError, match=f"^{url}/none: no such file$"):
        encode(f"{url}/none", ALL)
    for name in handler.files:
        with pytest.raises(EmbedtrainError, match=f"^{url}/{name}: (cannot be read|the gz)") as caught:
            encode(f"{url}/{name}", ALL)
        assert "\n" not in str(caught.value)
    with pytest.raises(EmbedtrainError, match=r"cannot be read|no such file"):
        encode("http://127.0.0.1:1/nobody-listens", ALL)


@pytest.mark.usefixtures("http")
def test_what_is_behind_a_url_is_cached_if_it_has_a_tag(
    server: tuple[str, type[Handler]], tmp_path: Path, whole: str
) -> None:
    url, handler = server
    handler.files = {"tagged": "".join(PARTS).encode(), "untagged": "".join(PARTS).encode()}
    options = Options(min_count=1, cache_dir=tmp_path / "cache")
    for name, kept in (("tagged", 1), ("untagged", 1)):
        assert encode(f"{url}/{name}", options).fingerprint == whole
        assert len(list((tmp_path / "cache").iterdir())) == kept
    lines: list[str] = []
    handler.requests.clear()
    assert encode(f"{url}/tagged", options, note=lines.append).fingerprint == whole
    assert lines[0].startswith("using the encoded corpus in ")
    assert "GET" not in handler.requests
    handler.files["tagged"] = b"another text another text\n"
    assert encode(f"{url}/tagged", options).fingerprint != whole


def test_memory_globs_and_folders(whole: str) -> None:
    system = fsspec.filesystem("memory")
    for name, part in zip(("a.txt", "b.txt", "sub/c"), PARTS, strict=True):
        system.pipe(f"/corpus/{name}", part.encode())
    system.pipe("/corpus/.hidden", b"no")
    try:
        assert encode("memory://corpus", ALL).fingerprint == whole
        assert encode(["memory://corpus/*.txt", "memory://corpus/sub/c"], ALL).fingerprint == whole
        with pytest.raises(EmbedtrainError, match=r"memory://corpus/\*\.md: no file matches"):
            find("memory://corpus/*.md")
        with pytest.raises(EmbedtrainError, match="memory://corpus/none: no such file"):
            find("memory://corpus/none")
    finally:
        system.rm("/corpus", recursive=True)


def test_what_is_missing_for_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbedtrainError, match=r"nonsense://x: cannot be read \(Protocol not known: nonsense\)"):
        find("nonsense://x")
    for package in ("s3fs", "aiobotocore"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EmbedtrainError, match=r"s3://x/y: the package for this protocol is missing \(Install s3fs"):
        find("s3://x/y")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(EmbedtrainError, match=r"https://x/y: to read URLs, install fsspec"):
        find("https://x/y")


def test_the_line_about_what_was_taken(data: Path) -> None:
    assert finding.describe(find(data / "b.txt")) is None
    assert finding.describe(find(data / "*.txt*")) == f"{data}/*.txt*: 2 files"


@pytest.mark.usefixtures("http")
def test_tables_and_ids_behind_urls(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    url, handler = server
    handler.files = {}
    table = pa.table({"text": ["1 2", "3 1"], "other": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pa.ipc.new_file(tmp_path / "t.feather", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    np.save(tmp_path / "t.npy", np.array([[1, 2], [3, 1]]))
    np.savez(tmp_path / "t.npz", ids=np.array([1, 2, 3, 1]), offsets=np.array([0, 2, 4]))
    (tmp_path / "text").write_text("1 2\n3 1\n")
    expected = encode(tmp_path / "text", ALL).fingerprint
    for name in ("t.parquet", "t.feather", "t.arrow", "t.npy", "t.npz"):
        handler.files = {name: (tmp_path / name).read_bytes(), f"cut-{name}": (tmp_path / name).read_bytes()}
        assert encode(f"{url}/{name}", ALL).fingerprint == expected
        with pytest.raises(EmbedtrainError, match=f"^{url}/cut-{name}") as caught:
            encode(f"{url}/cut-{name}", ALL)
        assert "\n" not in str(caught.value)
