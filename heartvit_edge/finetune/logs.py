"""What TensorBoard shows of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from heartvit_edge.spec.finetune import Answers


class Logs:
    """Scalars by step; none are written where another process writes them."""

    def __init__(self, writer: SummaryWriter | None) -> None:
        """Take the writer, or None to write nothing."""
        self._writer = writer

    @classmethod
    @contextmanager
    def open(cls, folder: Path, step: int, *, enabled: bool) -> Iterator[Logs]:
        """Give logs in ``folder`` after ``step``; what an earlier run logged past it is hidden."""
        if not enabled:
            yield cls(None)
            return
        with SummaryWriter(str(folder), purge_step=step + 1) as writer:
            yield cls(writer)

    def terms(self, step: int, terms: Mapping[str, Tensor], learning_rate: float) -> None:
        """Write the terms of the loss of this process's last step, their sum, and the learning rate."""
        self._write(step, {f"train/{name}": value.item() for name, value in terms.items()})
        self._write(step, {"train/loss": sum(value.item() for value in terms.values()), "train/lr": learning_rate})

    def answers(self, step: int, answers: Answers) -> None:
        """Write the held-out answers."""
        count = answers.num_images
        self._write(step, {"held_out/kl_nats": answers.kl_nats, "held_out/agreement": answers.num_agreeing / count})
        if answers.num_correct is not None:
            self._write(step, {"held_out/top1": answers.num_correct / count})

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
