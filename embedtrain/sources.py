"""Opens the files of a corpus, decompresses them and reads ahead, beside the work on what has been read."""

from __future__ import annotations

import bz2
import contextlib
import importlib
import io
import lzma
import queue
import stat
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from embedtrain import remote
from embedtrain.errors import EmbedtrainError

STANDARD_INPUT = "standard input"

OnBytes = Callable[[int, "int | None"], None]
Kind = Literal["text", "parquet", "arrow", "npy", "npz"]
Rows = Callable[["Source"], Iterator["tuple[Any, int]"]]

# name, magic bytes
_MAGIC = (
    ("gzip", b"\x1f\x8b\x08"),
    ("bz2", b"BZh"),
    ("xz", b"\xfd7zXZ\x00"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
    ("zstd", b"\x50\x2a\x4d\x18"),  # a skippable frame, which pzstd starts with
)
_HEAD_BYTES = 10
_COMPRESSED_BYTES = 256 << 10  # read and decompressed at a time
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError, zlib.error)
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # of a file with content and of one without


@dataclass(frozen=True)
class Source:
    """A part of the corpus: what was read."""

    name: str
    size: int | None
    """Bytes as stored (compressed, if it is), None when unknown."""
    member: str | None = None
    """The file inside a .zip archive; ``name`` is the archive then."""
    kind: Kind = "text"
    plain: bool = False
    """Whether it is known not to be compressed."""
    version: str | None = None
    """What changes whenever the file does: times and inode, or the tags of a URL. None when unknown, as of pipes."""
    begin: int = 0
    end: int | None = None
    """If not None, only the bytes [begin, end) of a plain file are read, like a file, and ``size`` is theirs."""

    def __str__(self) -> str:
        return self.name if self.member is None else f"{self.name}, {self.member}"


def find(path: str | Path) -> Source:
    """Look up a file, "-" being standard input.

    :raises EmbedtrainError: if there is no such file, or it is a folder.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise EmbedtrainError(f"{STANDARD_INPUT} is closed; pipe text into it, or name a file")
        return Source(STANDARD_INPUT, None)
    try:
        info = Path(path).stat()
    except FileNotFoundError as error:
        hint = "; a list of strings is a list of files: give sentences as lists of words" if " " in str(path) else ""
        raise EmbedtrainError(f"{path}: no such file{hint}") from error
    except (OSError, ValueError) as error:
        raise EmbedtrainError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(info.st_mode):
        raise EmbedtrainError(f"{path}: is a folder; give the files in it, e.g. {path}/*.txt")
    if not stat.S_ISREG(info.st_mode):
        return Source(str(path), None)
    return Source(str(path), info.st_size, version=f"{info.st_mtime_ns}-{info.st_ctime_ns}-{info.st_ino}")


def is_plain(source: Source) -> bool:
    """Say whether the bytes of a source lie in a file just as they are, so that it can be mapped into memory."""
    if source.member is not None or source.size is None:
        return False
    with _Stored(source) as stored:
        return stored.compression is None


def zip_members(source: Source) -> list[Source] | None:
    """Return the files in a .zip archive, or None if the source is not one.

    :raises EmbedtrainError: if the archive is damaged or encrypted.
    """
    if source.name == STANDARD_INPUT:
        return None
    try:
        with _open_whole(source) as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                if file.read(4) == b"PK\x03\x04":
                    raise zipfile.BadZipFile("its directory at the end is missing")
                return None
            with zipfile.ZipFile(file) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
    except OSError as error:
        raise EmbedtrainError(f"{source}: cannot be read ({error.strerror or error})") from error
    except _ZIP_ERRORS as error:
        raise EmbedtrainError(f"{source}: the zip file is damaged or cut off ({error})") from error
    if locked := next((info for info in infos if info.flag_bits & 1), None):
        raise EmbedtrainError(f"{source}: {locked.filename} is encrypted; unpack it first")
    return [Source(source.name, info.file_size, info.filename) for info in infos]


def total_size(sources: Sequence[Source]) -> int | None:
    """Return the bytes of all sources as stored, None when unknown."""
    sizes = [source.size for source in sources if source.size is not None]
    return sum(sizes) if len(sizes) == len(sources) else None


def read(
    sources: Sequence[Source], on_bytes: OnBytes, chunk_bytes: int, rows: Rows | None = None
) -> Generator[tuple[Source, memoryview]]:
    """Yield the text of the sources in chunks, and after each source an empty chunk. A chunk is valid until the next.

    A thread of its own reads and decompresses ahead.

    :param on_bytes: called with the stored bytes read so far, and those of all sources (None: unknown).
    :param rows: reads a source that is no text, as chunks of the same text that a file could hold, each with the stored
        bytes that it took so far. Without it, all is read as text.
    :raises EmbedtrainError: what cannot be read or decompressed, when its turn comes.
    """
    total = total_size(sources)
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    for _ in range(3):  # one being filled, one waiting, one being worked on
        free.put(bytearray())
    filled: queue.SimpleQueue[tuple[Source, Any, bytearray, int, int] | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        done = 0
        try:
            for source in sources:
                if rows is not None and source.kind != "text":
                    chunk_done = 0
                    with contextlib.closing(_ended(rows(source))) as chunks:
                        for chunk, chunk_done in chunks:
                            buffer = free.get()
                            if buffer is None:
                                return
                            filled.put((source, chunk, buffer, len(chunk), done + chunk_done))
                    done += chunk_done
                    continue
                with _Stored(source) as stored, _decompressed(stored) as text:
                    size = -1
                    while size != 0:
                        buffer = free.get()
                        if buffer is None:
                            return
                        if not buffer:  # is made when it is needed
                            buffer = bytearray(chunk_bytes)
                        size = stored.fill(text, buffer)
                        filled.put((source, buffer, buffer, size, done + stored.done))
                    done += stored.done
            filled.put(None)
        except BaseException as error:
            filled.put(error)

    thread = threading.Thread(target=run, name="embedtrain-read", daemon=True)
    try:
        thread.start()
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            source, text, buffer, size, done = item
            with memoryview(text) as view, view[:size] as chunk:
                yield source, chunk
            free.put(buffer)
            on_bytes(done, total)
    finally:
        free.put(None)  # the thread ends when it is through with the buffers it has


def _ended(chunks: Iterator[tuple[Any, int]]) -> Generator[tuple[Any, int]]:
    """Put an empty chunk behind the others, none of which is empty."""
    done = 0
    for chunk, done in chunks:
        if len(chunk):
            yield chunk, done
    yield b"", done


class Stream:
    """The bytes of a source, decompressed, for one that reads them piece by piece."""

    def __init__(self, source: Source) -> None:
        self._stored = _Stored(source)
        self._text = _decompressed(self._stored)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stored.close()

    @property
    def done(self) -> int:
        """Stored bytes read so far."""
        return self._stored.done

    @property
    def compression(self) -> str | None:
        """How it is compressed, None: it is not."""
        return self._stored.compression

    def read(self, size: int) -> bytearray:
        """Return the next bytes: fewer than ``size`` only at the end.

        :raises EmbedtrainError: what cannot be read or decompressed.
        """
        buffer = bytearray(size)
        del buffer[self._stored.fill(self._text, buffer) :]
        return buffer


class _Stored(io.RawIOBase):
    """The bytes of a source as they are stored, counted."""

    def __init__(self, source: Source) -> None:
        self.name = str(source)
        self.done = 0
        self.compression: str | None = None
        self._closing = contextlib.ExitStack()
        self._head = b""
        try:
            self._file = _open(source, self._closing)
            # A pipe may give less than it is asked for.
            while len(self._head) < _HEAD_BYTES and (more := self._file.read(_HEAD_BYTES - len(self._head))):
                self._head += more
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._unreadable(error) from error
            if isinstance(error, _ZIP_ERRORS):
                raise EmbedtrainError(f"{self.name}: the zip file is damaged or cut off ({error})") from error
            raise
        for compression, magic in _MAGIC:
            if self._head.startswith(magic) and (compression != "bz2" or self._head[4:10] in _BZ2_BLOCKS):
                self.compression = compression

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            size = min(len(buffer), len(self._head))
            buffer[:size] = self._head[:size]
            self._head = self._head[size:]
        else:
            size = self._file.readinto(buffer) or 0
        self.done += size
        return size

    def fill(self, text: io.RawIOBase, buffer: bytearray) -> int:
        """Read from ``text``, this or its decompression, until the buffer is full or the text ends."""
        size = 0
        try:
            with memoryview(buffer) as view:
                while size < len(buffer):
                    with view[size:] as rest:
                        more = text.readinto(rest)
                    if not more:
                        break
                    size += more
        except (EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if self.compression is None or error.errno is not None:
                raise self._unreadable(error) from error
            raise self._damaged(error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # its module may not be there
                raise
            raise self._damaged(error) from error
        return size

    def close(self) -> None:
        self._closing.close()
        super().close()

    def _unreadable(self, error: OSError) -> EmbedtrainError:
        return EmbedtrainError(f"{self.name}: cannot be read ({error.strerror or error})")

    def _damaged(self, error: Exception) -> EmbedtrainError:
        return EmbedtrainError(f"{self.name}: the {self.compression or 'zip'} file is damaged or cut off ({error})")


class _Bytes(io.RawIOBase):
    """A part of a file."""

    def __init__(self, source: Source) -> None:
        assert source.end is not None
        self._file = io.FileIO(source.name)
        self._file.seek(source.begin)
        self._left = source.end - source.begin

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer) as view, view[: self._left] as wanted:
            size = self._file.readinto(wanted) or 0
        self._left -= size
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(source: Source, closing: contextlib.ExitStack) -> Any:
    """Open the stored bytes; what is to be closed afterwards is put on the stack."""
    if source.name == STANDARD_INPUT:
        return _standard_input()
    if source.end is not None:
        return closing.enter_context(_Bytes(source))
    if source.member is not None:
        archive = closing.enter_context(zipfile.ZipFile(closing.enter_context(_open_whole(source))))
        return closing.enter_context(archive.open(source.member))
    if remote.is_url(source.name):
        return closing.enter_context(remote.open_url(source.name, stream=True))
    return closing.enter_context(io.FileIO(source.name))


def _open_whole(source: Source) -> Any:
    """Open a file to read here and there in it."""
    if remote.is_url(source.name):
        return remote.open_url(source.name, stream=False)
    return Path(source.name).open("rb")


def _standard_input() -> Any:
    """Return standard input without its buffer: Python dies in its last moments if a thread waits in that for data."""
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


def _decompressed(stored: _Stored) -> io.RawIOBase:
    if stored.compression == "gzip":
        return _Decompressed(stored, _GzipDecompressor)
    if stored.compression == "bz2":
        return _Decompressed(stored, bz2.BZ2Decompressor)
    if stored.compression == "xz":
        return _Decompressed(stored, lzma.LZMADecompressor)
    if stored.compression == "zstd":
        return _Decompressed(stored, _zstd().ZstdDecompressor)
    return stored


class _Decompressor(Protocol):
    """Decompresses one gzip member, bz2 or xz stream, or zstd frame: what the classes of the standard library share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecompressor:
    """Gives zlib's decompression of a gzip member, its checksum included, the form of the others."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._member.decompress(data or self._member.unconsumed_tail, max_length)


class _Decompressed(io.RawIOBase):
    """The text of a compressed source: of all its members, streams or frames, one after the other.

    Takes larger bites than the file classes of the standard library, with which gzip takes a fifth more time; the
    decompressors release the interpreter lock, so the next chunk is decompressed while one is encoded.
    """

    def __init__(self, stored: _Stored, make: Callable[[], _Decompressor]) -> None:
        self._stored = stored
        self._make = make
        self._part = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer in part; 0 at the end.

        :raises EOFError: if the source ends within a member.
        """
        data = b""
        while True:
            if self._part.eof:
                data = self._part.unused_data
                while not (data := data.lstrip(b"\0")):  # zeros pad to whole blocks, on tapes and in xz
                    if not (data := self._stored.read(_COMPRESSED_BYTES) or b""):
                        return 0
                self._part = self._make()
            elif self._part.needs_input and not (data := self._stored.read(_COMPRESSED_BYTES) or b""):
                raise EOFError("it ends too early")
            text = self._part.decompress(data, len(buffer))
            data = b""
            if text:
                buffer[: len(text)] = text
                return len(text)


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise EmbedtrainError(
            "to read .zst files, install zstd support (pip install backports.zstd), "
            "or decompress them: zstd -dc FILE.zst | python -m embedtrain.fit -"
        ) from error
