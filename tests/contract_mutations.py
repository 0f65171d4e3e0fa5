"""Rename each used member of each TensorRT release in turn, and see that the contract's check fails each time.

    python tests/contract_mutations.py                 every member of every release
    python tests/contract_mutations.py 10.3.0 8.6.1    of these releases

``tests/unit/engines/test_tensorrt_contract.py`` does the same; this prints the figures.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

import typer
from fakes.tensorrt_contract import survivors
from fakes.tensorrt_surface import VERSIONS


def main(versions: list[str]) -> int:
    """Print a line a release; return 1 if a renaming went unnoticed."""
    logging.disable()
    total, left = 0, []
    for version in versions or VERSIONS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            count, unnoticed = survivors(version, Path(folder))
        total += count
        left += [f"{version} {name}" for name in unnoticed]
        seconds = time.perf_counter() - began
        typer.echo(f"{version:<12} renamed {count}, noticed {count - len(unnoticed)}, {seconds:.1f} s")
    typer.echo(f"in all       renamed {total}, noticed {total - len(left)}")
    for name in left:
        typer.echo(f"unnoticed: {name}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
