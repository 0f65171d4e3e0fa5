"""What models answer on images that nothing was trained on."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from heartvit_edge.data.images import ImageSet
from heartvit_edge.finetune.data import TrainingImages, make_loader
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.spec.finetune import Answers
from heartvit_edge.spec.model import Preprocessing


class HeldOut:
    """Held-out images with the dense model's answers; each process runs its share of them, in float32."""

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        dense: GatedViT,
        accelerator: Accelerator,
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        """Run the dense model.

        Args:
            images: The held-out images, at least two.
            preprocessing: How they become inputs.
            dense: The dense model, on the accelerator's device.
            accelerator: The processes.
            batch_size: Images a forward.
            workers: Processes that prepare images.
        """
        self._accelerator = accelerator
        self._labelled = images.labels is not None
        keys = [(0, index) for index in range(accelerator.process_index, len(images), accelerator.num_processes)]
        batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        self._loader = make_loader(TrainingImages(images, preprocessing, "none", 0), batches, workers)
        self._dense: list[Tensor] = []
        self._dense = [logits for logits, _ in self._run(dense)]
        self.dense = self.answers(dense)

    @torch.no_grad()
    def _run(self, model: GatedViT) -> list[tuple[Tensor, Tensor]]:
        """Return logits (B, num_classes) and labels (B,) of each batch of this process."""
        device = self._accelerator.device
        model.eval()
        return [(model(inputs.to(device))[0], labels.to(device)) for inputs, labels in self._loader]

    def answers(self, model: GatedViT) -> Answers:
        """Return what a model answers, the same in every process."""
        found: list[tuple[float, bool, bool]] = []
        for (logits, labels), dense in zip(self._run(model), self._dense, strict=True):
            first = logits.argmax(dim=1)
            kl = kl_to_dense(dense, logits).double()
            found += zip(kl.tolist(), (first == dense.argmax(dim=1)).tolist(), (first == labels).tolist(), strict=True)
        every = gather_object(found)
        losses = torch.tensor([kl for kl, _, _ in every], dtype=torch.float64)
        return Answers(
            num_images=len(every),
            kl_nats=max(0.0, losses.mean().item()),  # rounding can leave it just below
            kl_stderr_nats=losses.std().item() / math.sqrt(len(every)),
            num_agreeing=sum(agrees for _, agrees, _ in every),
            num_correct=sum(correct for _, _, correct in every) if self._labelled else None,
        )
