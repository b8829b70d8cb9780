"""Reports of a training run for TensorBoard: ``tensorboard --logdir FOLDER`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from embedtrain.files import explained

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes reports as curves over the position.

    :param folder: where; None writes nothing.
    :param position: where the training goes on from; what was written beyond it before is not shown any more.
    """

    def __init__(self, folder: Path | None, position: int = 0) -> None:
        self._folder, self._position = folder, position
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with explained(f"for TensorBoard into {self._folder}"):
                self._writer.close()

    def log(self, report: Mapping[str, Any]) -> None:
        """Write a report, the line of ``metrics.jsonl``.

        :raises EmbedtrainError: if it cannot be written.
        """
        if self._folder is None:
            return
        with explained(f"for TensorBoard into {self._folder}"):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # not at the top: torch takes a second to import

                self._writer = SummaryWriter(str(self._folder), purge_step=self._position or None)
            for name in ("loss", "rate", "words_per_second"):
                self._writer.add_scalar(f"training/{name}", report[name], report["position"])
            for name, score in report.get("evaluation", {}).items():
                self._writer.add_scalar(f"evaluation/{name}", score, report["position"])
