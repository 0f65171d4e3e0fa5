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

from benchmarks.untrained import load_untrained
from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.pack import write_pack


def peak_gb() -> float:
    """Return the most memory that this process has held, in GB of 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Export a model and print what its weights and the process took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="vit_large_patch16_384")
    name = parser.parse_args().model
    imports = peak_gb()
    with tempfile.TemporaryDirectory() as folder:
        dense = load_untrained(name, Path(folder))
        size = (1, dense.shape.in_chans, dense.shape.img_size, dense.shape.img_size)
        image = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
        started = time.perf_counter()
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
