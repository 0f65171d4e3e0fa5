"""Peak memory of exporting a large model: python -m benchmarks.export_memory vit_large_patch16_384.

The weights are random, which changes neither sizes nor time; nothing is fetched. One image is compared.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.pack import write_pack
from heartvit_edge.model.zoo import DenseModel, _preprocessing, _shape
from heartvit_edge.spec.model import ModelSource

UNKNOWN = "0" * 64  # of weights that are nobody's


def peak_gb() -> float:
    """Return the most memory that this process has held, in GB of 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Export a model and print what its weights and the process took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="vit_large_patch16_384")
    name = parser.parse_args().model
    imports = peak_gb()
    torch.manual_seed(0)
    module = timm.create_model(name).eval().requires_grad_(False)
    shape = _shape(module)
    dense = DenseModel(
        module, shape, ModelSource(name=name, weights_sha256=UNKNOWN), _preprocessing(module, shape.img_size)
    )
    size = (1, shape.in_chans, shape.img_size, shape.img_size)
    image = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        entries = planned_entries(dense, [], "attention-received")
        out = Path(folder) / "pack"
        pack = write_pack(dense, entries, out, batches=[image], classes=(), calibration=None, external_data=True)
        stored = (out / str(pack.weights)).stat().st_size / 1e9
    print(
        f"{name}: {stored:.2f} GB of weights; peak {peak_gb():.2f} GB, of which Python and its packages {imports:.2f}; "
        f"{time.perf_counter() - started:.0f} s, one image compared"
    )


if __name__ == "__main__":
    main()
