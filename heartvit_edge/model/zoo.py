"""Dense timm models: made by name, loaded from the user's files, refused where they are not a plain ViT."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.layers import Attention, GluMlp, LayerScale, Mlp, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.model.checkpoint import head_classes, load_weights, read_tensors, state_sha256
from heartvit_edge.spec.model import ModelShape, ModelSource, Pool, Preprocessing


@dataclass(frozen=True)
class DenseModel:
    """A loaded dense model and what is known of it.

    Attributes:
        module: In evaluation mode, float32, on the CPU, without gradients on its weights.
        shape: Its dimensions.
        source: Its name and the hash of its weights.
        preprocessing: timm's data config for it at its image size.
    """

    module: VisionTransformer
    shape: ModelShape
    source: ModelSource
    preprocessing: Preprocessing


def parse_model_kwargs(pairs: Sequence[str]) -> dict[str, object]:
    """Return ``KEY=VALUE`` pairs as arguments for ``timm.create_model``, values read as Python literals where they are.

    Raises:
        InputError: If a pair has no ``=`` or names an argument that has an option of its own.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.isidentifier():
            raise InputError(f"--model-kwargs {pair!r} is not KEY=VALUE", hint="--model-kwargs patch_size=8")
        if key in ("img_size", "pretrained", "checkpoint_path", "num_classes"):
            option = "--img-size" if key == "img_size" else "--weights"
            raise InputError(f"--model-kwargs cannot set {key}", hint=f"use {option}")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def load_dense(
    name: str, *, weights: Sequence[Path] = (), img_size: int | None = None, model_kwargs: Sequence[str] = ()
) -> DenseModel:
    """Return the named timm model with the user's weights, or timm's pretrained weights where none are given.

    Args:
        name: Any timm ViT with plain blocks, such as ``deit_small_patch16_224``.
        weights: safetensors files, or checkpoints that ``torch.load(weights_only=True)`` reads; later files add or
            replace tensors. The number of classes is taken from the classifier in them.
        img_size: Side of the square input in pixels, a multiple of the patch size; None for the model's own.
        model_kwargs: ``KEY=VALUE`` arguments for ``timm.create_model``.

    Raises:
        InputError: If the name is unknown, the model is not a plain ViT, the size does not fit its patches, or the
            weights do not fit the model.
        MachineError: If pretrained weights cannot be fetched.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = (
            f"close names: {', '.join(close)}"
            if close
            else "python -c 'import timm; print(timm.list_models(\"vit*\"))'"
        )
        raise InputError(f"timm {timm.__version__} has no model {name!r}", hint=hint)
    kwargs = parse_model_kwargs(model_kwargs)
    tensors = [read_tensors(path) for path in weights]
    num_classes = head_classes(tensors)
    probe = _create(name, kwargs, num_classes=num_classes, img_size=None, pretrained=False, device="meta")
    _refuse_unless_plain(name, probe)
    patch = probe.patch_embed.patch_size[0]
    size = img_size if img_size is not None else probe.patch_embed.img_size[0]
    if size <= 0 or size % patch:
        lower = max(size // patch, 1) * patch
        raise InputError(
            f"image size {size} is not a multiple of the patch size {patch} of {name}",
            hint=f"use --img-size {lower} or --img-size {lower + patch}",
        )
    module = _create(name, kwargs, num_classes=num_classes, img_size=size, pretrained=not weights, device="cpu")
    if weights:
        filtered = [_timm_names(found, module, path.name) for found, path in zip(tensors, weights, strict=True)]
        load_weights(module, filtered, ", ".join(path.name for path in weights))
    if not isinstance(module.head, nn.Linear):
        raise InputError(
            f"{name} has no classifier: a loss needs logits",
            hint="add a file with head.weight and head.bias: --weights BACKBONE --weights HEAD",
        )
    module.eval().requires_grad_(False)
    return DenseModel(
        module=module,
        shape=_shape(module),
        source=ModelSource(
            name=name,
            model_kwargs=tuple((key, repr(value)) for key, value in kwargs.items()),
            weights=tuple(path.name for path in weights),
            weights_sha256=state_sha256(module.state_dict()),
        ),
        preprocessing=_preprocessing(module, size),
    )


def _create(
    name: str,
    kwargs: Mapping[str, object],
    *,
    num_classes: int | None,
    img_size: int | None,
    pretrained: bool,
    device: Literal["cpu", "meta"],
) -> VisionTransformer:
    """Make the timm model; None leaves an argument to timm."""
    given = dict(kwargs)
    if num_classes is not None:
        given["num_classes"] = num_classes
    if img_size is not None:
        given["img_size"] = img_size
    try:
        with torch.device(device):
            return timm.create_model(name, pretrained=pretrained, **given)
    except OSError as err:
        if not pretrained:
            raise
        raise MachineError(
            f"cannot fetch timm's pretrained weights of {name}: {_first_line(err)}",
            hint="give the weights as a file: --weights FILE",
        ) from err
    except RuntimeError as err:
        if pretrained:
            raise InputError(
                f"timm's pretrained weights of {name} cannot be used with {given}: {_first_line(err)}",
                hint="give the weights as a file: --weights FILE",
            ) from err
        raise _cannot_make(name, given, err) from err
    except (TypeError, AssertionError, ValueError, KeyError, ZeroDivisionError) as err:
        raise _cannot_make(name, given, err) from err


def _cannot_make(name: str, given: Mapping[str, object], err: Exception) -> InputError:
    return InputError(f"timm cannot make {name} with {given}: {_first_line(err)}", hint="check --model-kwargs")


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0] or type(err).__name__


def _timm_names(found: Mapping[str, Tensor], model: VisionTransformer, label: str) -> dict[str, Tensor]:
    """Return a file's tensors under timm's names, the position embedding resampled to the model's grid.

    timm would also resample patch kernels of another side, so that the weights of a model with other patches load
    without a word; they are refused.

    Raises:
        InputError: If the patches have another side, or the tensors cannot be converted.
    """
    names = ("patch_embed.proj.weight", "pos_embed")
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name in names}
    wrong = [
        f"{name} is {tuple(found[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    message = f"the weights in {label} do not fit the model; wrong shape: {', '.join(wrong)}"
    kernel = found.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.shape[2:] != model.patch_embed.proj.weight.shape[2:]:
        raise InputError(message, hint=f"--model-kwargs patch_size={kernel.shape[-1]}")
    try:
        return checkpoint_filter_fn(found, model, adapt_layer_scale=True)
    except (RuntimeError, ValueError, IndexError, AttributeError, AssertionError, KeyError) as err:
        if wrong:
            raise InputError(message) from err
        raise InputError(f"the weights in {label} are in no form that timm converts: {_first_line(err)}") from err


def _refuse_unless_plain(name: str, model: nn.Module) -> None:
    """Raise InputError with every reason why the model is not a plain ViT; return if it is one."""
    if not isinstance(model, VisionTransformer):
        raise InputError(
            f"{name} is a {type(model).__name__}, not a plain VisionTransformer",
            hint="plain ViTs are deit_*, vit_* and vit_*_dinov2, with or without registers or distillation token",
        )
    reasons = []
    if type(model.patch_embed) is not PatchEmbed:
        reasons.append(f"patch embedding is {type(model.patch_embed).__name__}, expected PatchEmbed")
    elif len(set(model.patch_embed.patch_size)) > 1 or len(set(model.patch_embed.img_size)) > 1:
        reasons.append(f"patches {model.patch_embed.patch_size} or image {model.patch_embed.img_size} are not square")
    if model.patch_embed.proj.in_channels != 3:
        reasons.append(f"input has {model.patch_embed.proj.in_channels} channels, expected 3")
    if model.attn_pool is not None or model.global_pool not in ("token", "avg"):
        reasons.append(f"pooling is {model.global_pool!r}, expected 'token' or 'avg'")
    elif model.pool_include_prefix:
        reasons.append("pooling includes the prefix tokens, expected the patches alone")
    for block in model.blocks:
        reasons += _block_reasons(block)
    if reasons:
        listed = "; ".join(dict.fromkeys(reasons))
        raise InputError(
            f"{name} is not a plain ViT: {listed}",
            hint="plain ViTs are deit_*, vit_* and vit_*_dinov2, with or without registers or distillation token",
        )


def _block_reasons(block: Block) -> list[str]:
    """Return why a block's forward is not LayerNorm, attention, LayerNorm, MLP with residuals."""
    if type(block) is not Block:
        return [f"a block is {type(block).__name__}, expected Block"]
    reasons = []
    if type(block.attn) is not Attention:
        reasons.append(f"attention is {type(block.attn).__name__}, expected Attention")
    elif not isinstance(block.attn.norm, nn.Identity) or getattr(block.attn, "gate", None) is not None:
        reasons.append("attention has a norm or gate over all heads, so heads cannot be removed one by one")
    if type(block.mlp) not in (Mlp, GluMlp):
        reasons.append(f"MLP is {type(block.mlp).__name__}, expected Mlp or GluMlp")
    elif not isinstance(block.mlp.norm, nn.Identity):
        reasons.append("MLP has a norm over its hidden units, so they cannot be removed one by one")
    reasons += [
        f"{scale} is {type(getattr(block, scale)).__name__}, expected LayerScale or none"
        for scale in ("ls1", "ls2")
        if not isinstance(getattr(block, scale), nn.Identity | LayerScale)
    ]
    return reasons


def _shape(model: VisionTransformer) -> ModelShape:
    """Read a plain ViT's dimensions off its modules."""
    block = model.blocks[0]
    pool: Pool = model.global_pool
    if isinstance(model, VisionTransformerDistilled):
        pool = "token+distillation"
    return ModelShape(
        img_size=model.patch_embed.img_size[0],
        patch_size=model.patch_embed.patch_size[0],
        in_chans=model.patch_embed.proj.in_channels,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        head_dim=block.attn.head_dim,
        mlp_in_dim=block.mlp.fc1.out_features,
        mlp_hidden_dim=block.mlp.fc2.in_features,
        num_classes=model.num_classes,
        num_prefix_tokens=model.num_prefix_tokens,
        pool=pool,
    )


def _preprocessing(model: VisionTransformer, img_size: int) -> Preprocessing:
    """Return timm's data config of the model at the given image size."""
    config = timm.data.resolve_data_config({"input_size": (3, img_size, img_size)}, model=model)
    return Preprocessing(
        img_size=img_size,
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
