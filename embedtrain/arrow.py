"""Columns of Parquet and Arrow files, of pyarrow tables and of Hugging Face datasets, as text.

A column of strings is text: a row is a line, or several. A column of lists of strings holds tokens, one of lists of
integers ids, a row being a sentence. The buffers of Arrow are taken as they are; no row becomes a Python object.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedtrain import remote
from embedtrain.errors import EmbedtrainError
from embedtrain.sources import Source

Category = Literal["text", "tokens", "ids"]
"""What a corpus consists of."""

_ROWS = 1024  # of a Parquet file, read at a time
_PIECE_BYTES = 4 << 20


def is_table(corpus: object) -> bool:
    """Say whether this is a table of pyarrow or a dataset of the datasets library, without importing them."""
    return type(corpus).__module__.partition(".")[0] in ("pyarrow", "datasets")


def batches(source: Source, table: Any, column: str | None) -> Iterator[tuple[Category, Any, int]]:
    """Read a column.

    :param table: what to read instead of the file.
    :param column: its name; None takes the only one that can be trained on.
    :return: what it holds, a part of it as a ``pyarrow.Array``, and the stored bytes read so far.
    :raises EmbedtrainError: if the file is damaged or has no such column.
    """
    _pyarrow(source=source)
    if table is not None:
        yield from _of_table(source, table, column)
    elif source.kind == "parquet":
        yield from _of_parquet(source, column)
    else:
        yield from _of_ipc(source, column)


def checked(array: Any) -> Any:
    """Return an array whose offsets have been looked at, with bytes in the place of strings.

    :raises ValueError: if its buffers are too short or its offsets lead out of them.
    """
    # As bytes, because what is no UTF-8 text is for others to say, or to mend.
    array = array.view(_as_bytes(array.type))
    array.validate(full=True)
    return array


def pieces(array: Any) -> Iterator[Any]:
    """Cut an array so that each piece has a few megabytes, or is a single row."""
    step = max(1, int(len(array) * _PIECE_BYTES / max(array.nbytes, 1)))
    for begin in range(0, len(array), step):
        yield array.slice(begin, step)


def strings(array: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of strings, and where each begins and the last ends in them, int64 (n + 1,), from 0.

    :param array: n strings of any of Arrow's types, :func:`checked`, none is null.
    """
    pa = _pyarrow()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    array = array.cast(pa.large_binary())
    if len(array) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


def without_null(array: Any) -> Any:
    """Return an array without what is null in it."""
    pa = _pyarrow()
    if pa.types.is_binary_view(array.type):  # which Arrow cannot filter
        array = array.cast(pa.large_binary())
    return array.drop_null()


def lists(array: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return the items of lists, a ``pyarrow.Array``, and where each list begins and the last ends, int64 (n + 1,).

    :param array: n lists of any of Arrow's types, :func:`checked`, none is null.
    """
    lengths = _pyarrow(".compute").list_value_length(array).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return array.flatten(), offsets


def errors() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises for damaged data."""
    return (_pyarrow().ArrowException, OSError, ValueError, OverflowError)


def _pyarrow(part: str = "", source: Source | None = None) -> Any:
    try:
        return importlib.import_module(f"pyarrow{part}")
    except ImportError as error:
        raise EmbedtrainError(f"{source}: to read it, install pyarrow (pip install 'embedtrain[arrow]')") from error


def _of_table(source: Source, table: Any, column: str | None) -> Iterator[tuple[Category, Any, int]]:
    pa = _pyarrow()
    if not isinstance(table, pa.Table):
        if not hasattr(table, "iter"):  # a DatasetDict is a dict of datasets
            splits = f"; give one of its splits: {', '.join(map(str, table))}" if isinstance(table, dict) else ""
            raise EmbedtrainError(f"a {source} cannot be trained on{splits}")
        tables = table.with_format("arrow").iter(batch_size=_ROWS)
    else:
        tables = iter([table])
    done = 0
    for part in tables:
        name, category = _choose(part.schema, column, source)
        for array in part.column(name).chunks:
            done += array.nbytes
            yield category, array, done


def _of_parquet(source: Source, column: str | None) -> Iterator[tuple[Category, Any, int]]:
    parquet = _pyarrow(".parquet")
    with _refused(source), contextlib.ExitStack() as stack:
        place: Any = source.name
        if remote.is_url(source.name):
            place = stack.enter_context(remote.open_url(source.name, stream=False))
        # Not pre-buffered: that keeps a whole row group.
        file = stack.enter_context(parquet.ParquetFile(place, buffer_size=1 << 20, pre_buffer=False))
        name, category = _choose(file.schema_arrow, column, source)
        rows, total = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(_ROWS, columns=[name]):
            rows += len(batch)
            yield category, batch.column(name), (source.size or 0) * rows // total


def _of_ipc(source: Source, column: str | None) -> Iterator[tuple[Category, Any, int]]:
    pa = _pyarrow()
    ipc = _pyarrow(".ipc")
    with _refused(source), contextlib.ExitStack() as stack:
        if remote.is_url(source.name):
            file = stack.enter_context(pa.PythonFile(remote.open_url(source.name, stream=False), "r"))
        else:
            file = stack.enter_context(pa.memory_map(source.name))
        is_stream = file.read(6) != b"ARROW1"
        file.seek(0)
        open_file = ipc.open_stream if is_stream else ipc.open_file
        schema = open_file(file).schema
        name, category = _choose(schema, column, source)
        file.seek(0)
        only = ipc.IpcReadOptions(included_fields=[schema.get_field_index(name)])
        reader = open_file(file, options=only)
        if is_stream:
            for batch in reader:
                yield category, batch.column(name), file.tell()
        else:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield category, batch.column(name), (source.size or 0) * (number + 1) // reader.num_record_batches


@contextlib.contextmanager
def _refused(source: Source) -> Iterator[None]:
    kind = "Parquet" if source.kind == "parquet" else "Arrow"
    try:
        yield
    except errors() as error:
        raise EmbedtrainError(
            f"{source}: the {kind} file is damaged or cannot be read ({remote.first_line(error)})"
        ) from error


def _choose(schema: Any, column: str | None, source: Source) -> tuple[str, Category]:
    usable = {field.name: category for field in schema if (category := _category(field.type)) is not None}
    told = ", ".join(f"{name} ({category})" for name, category in usable.items()) or "none"
    if column is not None:
        if column not in schema.names:
            raise EmbedtrainError(f"{source}: there is no column {column!r}; those that can be trained on: {told}")
        if column not in usable:
            raise EmbedtrainError(
                f"{source}: column {column!r} is of type {schema.field(column).type}, neither text nor lists of tokens "
                f"or ids; those that can be trained on: {told}"
            )
    elif len(usable) != 1:
        if not usable:
            raise EmbedtrainError(f"{source}: no column holds text, or lists of tokens or ids")
        raise EmbedtrainError(f"{source}: choose one of the columns with --column: {told}")
    else:
        column = next(iter(usable))
    if schema.names.count(column) != 1:
        raise EmbedtrainError(f"{source}: there are several columns {column!r}")
    return column, usable[column]


def _category(kind: Any) -> Category | None:
    """Say what a column of this type holds, None if it cannot be trained on."""
    if _is_string(kind):
        return "text"
    if not _is_list(kind):
        return None
    if _is_string(kind.value_type):
        return "tokens"
    return "ids" if _pyarrow().types.is_integer(kind.value_type) else None


def _is_string(kind: Any) -> bool:
    if _pyarrow().types.is_dictionary(kind):
        kind = kind.value_type
    return kind in _bytes_of() or kind in _bytes_of().values()


def _is_list(kind: Any) -> bool:
    names = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(_pyarrow().types, f"is_{name}")(kind) for name in names)


def _bytes_of() -> dict[Any, Any]:
    pa = _pyarrow()
    return {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }


def _as_bytes(kind: Any) -> Any:
    """Return the type of the same layout that has bytes for strings."""
    pa = _pyarrow()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _as_bytes(kind.value_type), kind.ordered)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_as_bytes(kind.value_type), kind.list_size)
    for name in ("list", "large_list", "list_view", "large_list_view"):
        if getattr(pa.types, f"is_{name}")(kind):
            make = pa.list_ if name == "list" else getattr(pa, name)
            return make(_as_bytes(kind.value_type))
    return _bytes_of().get(kind, kind)
