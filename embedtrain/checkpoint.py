"""The result folder: written so that it is there complete or not at all, and read back.

=================== ===================================================================================================
``embedding.pt``    ``{"weight": float32 (V, D)}`` and nothing else: the state_dict of ``torch.nn.Embedding(V, D)``
                    (float16 or bfloat16, if the vectors were read so)
``vocab.txt``       line n is the token of row n, UTF-8, ended by ``\\n`` only (split it at ``\\n``, not by splitlines:
                    a token may hold any other character)
``missing.txt``     the tokens that the source of the vectors had nothing for, like ``vocab.txt``; only if there are any
``vocab.tsv``       ``token<TAB>count`` per row (split at the last tab); only if the counts are known
``config.json``     V, D, pad and unk row, and how the embeddings were made
``metrics.jsonl``   one JSON object per report of the training run
``tokenizer.json``  if trained through a tokenizer
``classifier.pt``   state_dict of the layers above the embeddings, if a classifier was trained on them
``curve.svg``       the loss during training, and evaluations if there were any; only if trained
``frequencies.svg`` how often words occur; only if the counts are known
``README.md``       model card
``checkpoints/``    what a training goes on from (:mod:`embedtrain.training_state`): while it trains the last two
                    checkpoints, and nothing else is in the folder; in a result the last one, for more epochs
=================== ===================================================================================================

Importing this module does not import torch, so that a bad output folder is refused at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from embedtrain import plots, training_state
from embedtrain.card import PICTURES, model_card, with_evaluation
from embedtrain.errors import EmbedtrainError
from embedtrain.files import exchange, explained, make_partial, remove_partials, replace_file, sync, write_text
from embedtrain.formats import FILES, batches, check_export, write_export
from embedtrain.interrupt import HeldSignals

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings

CHECKPOINTS = "checkpoints"

FORMAT = "embedtrain"
FORMAT_VERSION = 1

# Keys of config.json that this module writes and reads; all others are the caller's.
_OWN_KEYS = (
    "format",
    "format_version",
    "vocab_size",
    "dim",
    "pad_index",
    "unk_index",
    # What model2vec looks for in the config.json of a static embedding.
    "embedding_dtype",
    "normalize",
)
# Everything that may be deleted with an old result.
_OWN_FILES = frozenset(
    {"embedding.pt", "vocab.txt", "vocab.tsv", "missing.txt", "config.json", "metrics.jsonl", "tokenizer.json"}.union(
        {"README.md", "classifier.pt"}, PICTURES, *FILES.values()
    )
)


class OutputFolder:
    """A result folder in the making. Checks and reserves the place at once, before hours of training.

    Everything is written into a temporary folder beside the target; :meth:`commit` fsyncs it and renames it to the
    target, so that at every moment the target is absent, the old result or the new one. Leaving the ``with`` block
    without a commit (an exception, Ctrl-C) removes what was written.

        with OutputFolder("out") as output:
            output.log({"epoch": 1, "loss": 0.25})      # as often as wanted: metrics.jsonl, to look at meanwhile
            output.commit(embeddings, export=["npy"])

    What a run that was killed left beside the target is removed by the next one.

    :param folder: the target. Missing parents are made. It must not exist or be empty, unless ``overwrite``.
    :param overwrite: replace a folder that holds an embedtrain result or checkpoints, and nothing else.
    :raises EmbedtrainError: if the target cannot be written or replaced.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._metrics: TextIO | None = None
        self._made_parents: list[Path] = []
        with explained(f"output folder {self.folder}"):
            # Through links, so that the temporary folder is on the file system of the target.
            self._target = self.folder.resolve()
            self._check_target()
            self._make_parents()
            try:
                remove_partials(self._target.parent, re.escape(self._target.name))
                self._temporary, self._lock = make_partial(self._target)
            except OSError:
                self._remove_made_parents()
                raise
        self._finished = False

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
        self._remove_made_parents()  # again: checkpoints may have been in the target until now

    @property
    def checkpoints(self) -> Path:
        """Where a training keeps its checkpoints meanwhile: in the target itself."""
        return self.folder / CHECKPOINTS

    def path(self, name: str) -> Path:
        """Return where to write one of the files that belong to a result and are not made by :meth:`commit`."""
        assert name in _OWN_FILES
        return self._temporary / name

    @property
    def metrics_path(self) -> Path:
        """Where the reports can be watched during training."""
        return self._temporary / "metrics.jsonl"

    def log(self, report: Mapping[str, Any]) -> None:
        """Append a report to ``metrics.jsonl`` for those who watch. :meth:`commit` writes the file anew."""
        # A report that cannot be written now (a full disk, say) is no reason to end the training.
        with contextlib.suppress(OSError):
            if self._metrics is None:
                self._metrics = self.metrics_path.open("w", buffering=1, encoding="utf-8")
            self._metrics.write(_json_line(report))

    def commit(self, embeddings: Embeddings, export: Sequence[str] = (), checkpoint: Path | None = None) -> None:
        """Write everything and put it in place, as the last thing.

        :param embeddings: the result, its metrics included.
        :param export: names out of :data:`embedtrain.formats.EXPORTS`.
        :param checkpoint: that of :attr:`checkpoints` to keep in the result; the others go.
        :raises EmbedtrainError: if a token cannot be written or the disk fails; nothing is left behind then. Only if
            the complete result could not be moved to its place, it is left beside it and the message says where.
        """
        try:
            with explained(f"output folder {self.folder}"):
                self._close_metrics()
                _write(self._temporary, embeddings, export)
                if checkpoint is not None:
                    _keep(checkpoint, self._temporary / CHECKPOINTS)
                with HeldSignals():
                    _sync(self._temporary)
        except BaseException:
            self.discard()
            raise
        self._finished = True
        with HeldSignals():  # or the old result could be left beside the new one
            self._replace(own_checkpoints=checkpoint is not None)

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._finished:
            return
        self._finished = True
        with contextlib.suppress(OSError):
            self._close_metrics()
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._unlock()
        self._remove_made_parents()

    def _check_target(self, own_checkpoints: bool = False) -> None:
        """Refuse to replace what is there.

        :param own_checkpoints: checkpoints in the folder are of the training whose result this is.
        """
        target, shown = self._target, self.folder
        if not target.exists():
            return
        if not target.is_dir():
            raise EmbedtrainError(f"output folder {shown} is a file; choose another folder")
        if Path.cwd().is_relative_to(target):
            raise EmbedtrainError(
                f"output folder {shown} is the folder you are in, or above it; choose a new one in it"
            )
        if target.is_mount():
            raise EmbedtrainError(f"output folder {shown} is a mount point; choose a folder in it, as {shown / 'out'}")
        entries = {path.name for path in target.iterdir()}
        checkpoints = 0
        if (target / CHECKPOINTS).is_dir():
            inner = {path.name for path in (target / CHECKPOINTS).iterdir()}
            checkpoints = sum(map(training_state.is_checkpoint, inner))
            if not own_checkpoints and (locked := training_state.lock_checkpoints(shown / CHECKPOINTS)) is not None:
                os.close(locked)  # nobody trains there
            entries.discard(CHECKPOINTS)
            entries |= {f"{CHECKPOINTS}/{name}" for name in inner if not training_state.is_own(name)}
        if not entries and (own_checkpoints or not checkpoints):
            return
        if not self._overwrite:
            if not entries:
                raise EmbedtrainError(
                    f"output folder {shown} holds the checkpoints of a training: go on with it (python -m "
                    f"embedtrain.fit --resume {shown}), choose another folder, or overwrite it (--overwrite)"
                )
            raise EmbedtrainError(
                f"output folder {shown} is not empty; choose another folder, or overwrite it (--overwrite)"
            )
        if entries and not is_result(target):
            raise EmbedtrainError(f"output folder {shown} is not an embedtrain result, so it is not overwritten")
        if foreign := sorted(entries - _OWN_FILES):
            raise EmbedtrainError(
                f"output folder {shown} also holds {', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}, "
                "not made by embedtrain, so it is not overwritten; move it away or choose another folder"
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_parents(self) -> None:
        missing = [parent for parent in self._target.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made_parents.insert(0, parent)

    def _remove_made_parents(self) -> None:
        with contextlib.suppress(OSError):  # not empty: someone else uses it now
            for parent in self._made_parents:
                parent.rmdir()

    def _replace(self, own_checkpoints: bool) -> None:
        """Put the complete result in its place, and remove what was there."""
        try:
            with explained(f"output folder {self.folder}"):
                old = self._put_in_place(own_checkpoints)
        except EmbedtrainError as error:
            complete = self._temporary.with_name(f"{self._target.name}.complete-{secrets.token_hex(4)}")
            with contextlib.suppress(OSError):  # to a name that the next run does not take for a leftover
                self._temporary.rename(complete)
                self._temporary = complete
            raise EmbedtrainError(f"{error}; the complete result is in {self._temporary}: move it yourself") from error
        finally:
            self._unlock()
        with explained(f"output folder {self.folder}"):
            sync(self._target.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def _put_in_place(self, own_checkpoints: bool) -> Path | None:
        """Rename the temporary folder to the target; return where what was there is now, if there was something."""
        # Again: hours may have passed.
        self._check_target(own_checkpoints)
        if not (self._target.exists() and any(self._target.iterdir())):
            self._temporary.rename(self._target)
            return None
        if exchange(self._temporary, self._target):
            return self._temporary
        old = self._target.with_name(f"{self._target.name}.old-{secrets.token_hex(4)}")
        self._target.rename(old)
        try:
            self._temporary.rename(self._target)
        except BaseException:
            old.rename(self._target)
            raise
        return old

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def load(folder: str | Path) -> Embeddings:
    """Read a result folder.

    :raises EmbedtrainError: naming the file that is missing, broken or does not fit the others.
    """
    from embedtrain.embeddings import Embeddings

    folder = Path(folder)
    if not folder.is_dir():
        raise EmbedtrainError(f"{folder} is not a folder; give the output folder of a training run")
    config = _read_config(folder / "config.json")
    weight = _read_weight(folder / "embedding.pt")
    words = _read_lines(folder / "vocab.txt")
    if weight.shape != (config["vocab_size"], config["dim"]):
        raise EmbedtrainError(
            f"{folder / 'embedding.pt'} holds a table {tuple(weight.shape)}, but config.json says "
            f"({config['vocab_size']}, {config['dim']})"
        )
    if len(words) != len(weight):
        raise EmbedtrainError(f"{folder / 'vocab.txt'} has {len(words)} lines, but embedding.pt has {len(weight)} rows")
    counts_file, metrics_file, tokenizer_file, missing_file = (
        folder / name for name in ("vocab.tsv", "metrics.jsonl", "tokenizer.json", "missing.txt")
    )
    return Embeddings(
        weight,
        words,
        counts=_read_counts(counts_file, words) if counts_file.exists() else None,
        pad_index=config["pad_index"],
        unk_index=config["unk_index"],
        config={key: value for key, value in config.items() if key not in _OWN_KEYS},
        metrics=[_parse(line, metrics_file) for line in _read_lines(metrics_file)] if metrics_file.exists() else (),
        tokenizer_json=_read_text(tokenizer_file) if tokenizer_file.exists() else None,
        missing=_read_missing(missing_file, words) if missing_file.exists() else None,
    )


def is_result(folder: Path) -> bool:
    """Say whether a path is an embedtrain folder."""
    try:
        return bool(_read_config(folder / "config.json"))
    except EmbedtrainError:
        return False


def add_evaluation(folder: Path, evaluation: Mapping[str, Any]) -> None:
    """Put what was measured into ``config.json`` and the model card of a result, in the place of what was there.

    The rest of the card stays as it is, edited by hand or not. Each of the files is replaced at once.

    :param evaluation: :meth:`embedtrain.evaluation.Evaluation.to_dict`.
    :raises EmbedtrainError: if the folder is not an embedtrain result, or cannot be written.
    """
    config = _read_config(folder / "config.json")
    try:
        card = with_evaluation(_read_text(folder / "README.md"), evaluation)
    except ValueError as error:
        raise EmbedtrainError(f"{folder / 'README.md'}: {error}") from error
    replace_file(folder / "config.json", _json({**config, "evaluation": evaluation}))
    replace_file(folder / "README.md", card)


def load_arrays(
    folder: Path,
) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.int64] | None, set[int | None]]:
    """Read words, weight (V, D), counts and special rows of a result folder; as a rule without importing torch.

    :raises EmbedtrainError: as :func:`load`.
    """
    config, words, counts_file = (
        _read_config(folder / "config.json"),
        _read_lines(folder / "vocab.txt"),
        folder / "vocab.tsv",
    )
    weight = _read_zip(folder / "embedding.pt", (config["vocab_size"], config["dim"]))
    if weight is None or len(words) != len(weight):
        embeddings = load(folder)  # which says what is wrong, if something is
        words, weight = embeddings.words, embeddings.weight.float().numpy()
    counts = _read_counts(counts_file, words) if counts_file.exists() else None
    return words, weight, counts, {config["pad_index"], config["unk_index"]}


def _read_zip(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Read the one tensor of a file of torch.save, which is a zip with its bytes as they are; None if it is not so."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile),
        zipfile.ZipFile(path) as file,
    ):
        if file.read("archive/byteorder") == sys.byteorder.encode():
            return np.frombuffer(file.read("archive/data/0"), np.float32).reshape(shape)
    return None


# ---- writing


def _write(folder: Path, embeddings: Embeddings, export: Sequence[str]) -> None:
    import torch

    words = embeddings.words
    check_export(export, words, unk_index=embeddings.unk_index, tokenizer_json=embeddings.tokenizer_json)
    own = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vocab_size": len(embeddings),
        "dim": embeddings.dim,
        "pad_index": embeddings.pad_index,
        "unk_index": embeddings.unk_index,
        "embedding_dtype": str(embeddings.weight.dtype).removeprefix("torch."),
        "normalize": False,
    }
    config = {**own, **embeddings.config, **own}

    weight = embeddings.weight
    if weight.untyped_storage().nbytes() != weight.nbytes:
        weight = weight.clone()  # torch.save would write all of the storage that a view looks at
    # Given a path, torch.save would put the name of the file into it.
    with (folder / "embedding.pt").open("wb") as file:
        torch.save({"weight": weight}, file)
    with (folder / "vocab.txt").open("wb") as file:
        file.writelines("\n".join([*batch, ""]).encode() for batch in batches(words))
    if embeddings.missing is not None:
        with (folder / "missing.txt").open("wb") as file:
            file.writelines(words[row].encode() + b"\n" for row in np.flatnonzero(embeddings.missing))
    if embeddings.counts is not None:
        with (folder / "vocab.tsv").open("wb") as file:
            for batch, counts in zip(batches(words), batches(embeddings.counts), strict=True):
                file.write("".join(map("{}\t{}\n".format, batch, counts.tolist())).encode())
    write_text(folder / "config.json", _json(config))
    write_text(folder / "metrics.jsonl", "".join(map(_json_line, embeddings.metrics)))
    if embeddings.tokenizer_json is not None:
        write_text(folder / "tokenizer.json", embeddings.tokenizer_json)
    drawn = {
        "curve.svg": plots.curve(embeddings.metrics),
        "frequencies.svg": None if embeddings.counts is None else plots.frequencies(words, embeddings.counts),
    }
    pictures = {name: picture for name, picture in drawn.items() if picture is not None}
    for name, picture in pictures.items():
        write_text(folder / name, picture)
    write_text(folder / "README.md", model_card(embeddings, export, list(pictures)))
    for name in export:
        write_export(name, folder, embeddings)  # type: ignore[arg-type]  # check_export made sure


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(_finite(config), indent=2, ensure_ascii=False) + "\n"


def _json_line(report: Mapping[str, Any]) -> str:
    return json.dumps(_finite(report)) + "\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep(checkpoint: Path, folder: Path) -> None:
    """Put a checkpoint into a result, without writing it again where the file system has links."""
    folder.mkdir()
    target = folder / checkpoint.name
    try:
        target.hardlink_to(checkpoint)
    except OSError:
        shutil.copyfile(checkpoint, target)
        sync(target)


def _sync(folder: Path) -> None:
    """Bring a folder and the files in it onto the disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


# ---- reading


def _read_config(path: Path) -> dict[str, Any]:
    config = _parse(_read_text(path), path)
    if config.get("format") != FORMAT:
        raise EmbedtrainError(f'{path} is not of an embedtrain result: it lacks "format": "{FORMAT}"')
    if config.get("format_version") != FORMAT_VERSION:
        raise EmbedtrainError(
            f"{path} has format version {config.get('format_version')}, this embedtrain reads {FORMAT_VERSION}; "
            "use the embedtrain that wrote it"
        )
    if missing := [key for key in ("vocab_size", "dim", "pad_index", "unk_index") if key not in config]:
        raise EmbedtrainError(f"{path} lacks {', '.join(missing)}")
    return config


def _read_weight(path: Path) -> Any:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # torch has many: zip, pickle, end of file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EmbedtrainError(f"{path} is broken: {reason}") from error
    weight = state.get("weight") if isinstance(state, dict) and len(state) == 1 else None
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    if not isinstance(weight, torch.Tensor) or weight.dtype not in dtypes or weight.ndim != 2:
        raise EmbedtrainError(f"{path} does not hold exactly {{'weight': float32 (V, D)}}")
    return weight


def _read_counts(path: Path, words: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    lines = _read_lines(path)
    if len(lines) != len(words):
        raise EmbedtrainError(f"{path} has {len(lines)} lines, but vocab.txt has {len(words)}")
    counts = np.zeros(len(words), dtype=np.int64)
    for row, (line, word) in enumerate(zip(lines, words, strict=True)):
        token, tab, count = line.rpartition("\t")
        if not tab or token != word or not (count.isascii() and count.isdecimal()):
            raise EmbedtrainError(f"{path}:{row + 1} is {line!r}, not {word!r}, a tab and a count")
        counts[row] = int(count)
    return counts


def _read_missing(path: Path, words: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    missing = set(_read_lines(path))
    mask = np.fromiter((word in missing for word in words), np.bool_, len(words))
    if mask.sum() != len(missing):
        raise EmbedtrainError(f"{path} names a token that is not in vocab.txt")
    return mask


def _read_lines(path: Path) -> list[str]:
    text = _read_text(path)
    if text and not text.endswith("\n"):
        raise EmbedtrainError(f"{path} is cut off: its last line has no end")
    return text.split("\n")[:-1]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise EmbedtrainError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EmbedtrainError(f"{path} is broken: not UTF-8 at byte {error.start}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise EmbedtrainError(f"{path} is broken: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EmbedtrainError(f"{path} is broken: not a JSON object")
    return value


def _missing(path: Path) -> EmbedtrainError:
    return EmbedtrainError(f"{path} is missing: {path.parent} is not a complete embedtrain result")
