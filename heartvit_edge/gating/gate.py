"""Forward-only gates: what says, inside the engine, which tokens stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heartvit_edge.errors import InputError
from heartvit_edge.spec.model import ModelShape

GateName = Literal["class-attention", "attention-received"]


def class_attention(weights: Tensor, num_prefix: int) -> Tensor:
    """Return the class token's attention to each patch token, mean over heads.

    Args:
        weights: Attention weights of the block before the site, shape (B, heads, N, N).
        num_prefix: Leading tokens, the class token first; at least one.

    Returns:
        Shape (B, N - num_prefix); higher is kept.

    Source:
        Liang et al. (2022), "Not All Patches are What You Need" (EViT), section 3.1.
    """
    return weights[:, :, 0, num_prefix:].mean(dim=1)


def attention_received(weights: Tensor, num_prefix: int) -> Tensor:
    """Return the attention that each patch token receives, mean over heads and queries.

    Args:
        weights: Attention weights of the block before the site, shape (B, heads, N, N).
        num_prefix: Leading tokens that are never dropped.

    Returns:
        Shape (B, N - num_prefix); higher is kept.
    """
    return weights[:, :, :, num_prefix:].mean(dim=(1, 2))


GATES: dict[GateName, Callable[[Tensor, int], Tensor]] = {
    "class-attention": class_attention,
    "attention-received": attention_received,
}


class AttentionGate(nn.Module):
    """A gate without weights of its own, which reads the attention of the block before its site.

    Every gate is a module of this form, so that one with weights takes its place in the gated model, in fine-tuning
    and in the exported graph.
    """

    def __init__(self, name: GateName, model: VisionTransformer) -> None:
        """Take the gate of that name for the model.

        Raises:
            InputError: If the gate reads the class token and the model has none.
        """
        super().__init__()
        check_gate(name, model)
        self._function, self._num_prefix = GATES[name], model.num_prefix_tokens

    def forward(self, _site: int, _tokens: Tensor, weights: Tensor) -> Tensor:
        """Return what each patch token is worth, shape (B, N - num_prefix); higher is kept.

        Args:
            _site: Block before which tokens go.
            _tokens: What enters it, shape (B, N, C).
            weights: Attention weights of the block before, shape (B, heads, N, N).
        """
        return self._function(weights, self._num_prefix)


def default_gate(shape: ModelShape) -> GateName:
    """Return the class token's attention where the classifier reads that token, else the attention received."""
    return "class-attention" if shape.pool.startswith("token") else "attention-received"


def check_gate(gate: GateName, model: VisionTransformer) -> None:
    """Return only if the model has what the gate reads.

    Raises:
        InputError: If the gate reads the class token and the model has none.
    """
    if gate == "class-attention" and model.cls_token is None:
        raise InputError(
            "gate class-attention reads a class token, the model has none", hint="--gate attention-received"
        )
