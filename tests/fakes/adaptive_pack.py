"""Packs of tiny ViTs whose graphs adapt, exported as the command does."""

from __future__ import annotations

from pathlib import Path

from fakes.tiny_vit import images, load_tiny, plan_of

from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.pack import write_pack
from heartvit_edge.export.parity import parity_batches
from heartvit_edge.export.routing_images import RoutingImages
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import BudgetPack, Form

SITES = (1, 3)
HELD_OUT = ImageSetRef(name="noise", num_images=8, sha256="0" * 64, labelled=False)


def make_adaptive_pack(
    folder: Path,
    form: Form = "adaptive-shape",
    gate: object = "class-attention",
    reduction: str = "drop",
    buckets: int = 4,
    budgets: int = 2,
    **more: object,
) -> BudgetPack:
    """Write a pack of ``dense``, ``macs-0.8`` (12 and 8 patches of 16) and ``macs-0.6`` (8 and 4) into ``folder``.

    ``budgets`` of 1 leaves ``macs-0.6`` out, and ``buckets`` are the most tails. ``more`` goes to ``write_pack``; with
    ``batch`` the images come in batches of it.
    """
    dense = load_tiny(folder.parent)
    plans = [
        plan_of(dense.shape, dict(zip(SITES, counts, strict=True)), source=dense.source, limit=limit)
        for limit, counts in ((0.8, (13, 9)), (0.6, (9, 5)))[:budgets]
    ]
    entries = planned_entries(dense, plans, gate, reduction, form=form)
    batches = parity_batches(images(12).numpy(), (more["batch"],) if "batch" in more else (1, 2, 8))
    routing = RoutingImages([images(24, seed=1).numpy()], None, [images(8, seed=2).numpy()], HELD_OUT, buckets)
    given = {"batches": batches, "classes": (), "calibration": None, "routing": routing}
    return write_pack(dense, entries, folder, **given, **more)
