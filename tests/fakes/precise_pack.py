"""The pack of ``fakes.tiny_pack`` whose entries have FP16 and INT8 graphs too, made as ``export`` makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes.tiny_pack import SHAPE, make_tiny_pack

from heartvit_edge.spec.pack import MANIFEST, BudgetPack


def make_precise_pack(folder: Path) -> BudgetPack:
    """Write the pack of two entries in three precisions into ``folder``, and return its manifest."""
    from fakes.other_precisions import write_precisions

    from heartvit_edge.export.precision import Precisions

    pack = make_tiny_pack(folder)
    random = np.random.default_rng(0)
    feeds = [{"images": random.standard_normal((8, 3, 32, 32), dtype=np.float32)}]
    asked = Precisions(("fp16", "int8"), "minmax", 1.0, feeds)
    entries = tuple(
        entry.model_copy(update={"others": write_precisions(folder / entry.onnx, SHAPE, asked, feeds)})
        for entry in pack.entries
    )
    pack = pack.model_copy(update={"entries": entries})
    pack.write(folder / MANIFEST, force=True)
    return pack
