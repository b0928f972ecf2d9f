"""The numbers of every epoch for TensorBoard, as an extra: RUN/tensorboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnestkit.extras import require
from resnestkit.tasks.base import Result
from resnestkit.training.observers import Observer
from resnestkit.training.run import Record
from resnestkit.training.state import Position

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Raise UserError, naming the extra, if TensorBoard is not installed."""
    require("tensorboard", "tensorboard")


class Board(Observer[Result]):
    """Writes each record's numbers as scalars, with the epoch as their step.

    Args:
        folder: for TensorBoard to read; a run that goes on adds a file to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def _open(self, epoch: int) -> SummaryWriter:
        """Begin a file that takes back what an earlier process wrote from this epoch on."""
        # It takes seconds to load, and few ask for it.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an extra)

        return SummaryWriter(str(self._folder), purge_step=epoch)

    def see(self, position: Position, records: list[Record], _result: Result) -> None:
        """Write the last record, down to the disk."""
        record = records[-1]
        self._writer = self._writer or self._open(position.epoch)
        for name, value in record.items():
            if name != "epoch":
                self._writer.add_scalar(_tag(name), value, int(record["epoch"]))
        self._writer.flush()

    def leave(self, *, stopped: bool) -> None:  # noqa: ARG002  (closed either way)
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _tag(name: str) -> str:
    """``val/top1`` of ``val_top1``: TensorBoard shows what has a prefix together."""
    split, _, rest = name.partition("_")
    return f"{split}/{rest}" if split in {"train", "val"} else name
