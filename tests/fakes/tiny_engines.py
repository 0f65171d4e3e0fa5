"""Engines of the tiny pack for ONNX Runtime's CPU provider, built once for a test module."""

from __future__ import annotations

from pathlib import Path

from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.pack import BudgetPack


def make_tiny_engines(folder: Path) -> BudgetPack:
    """Write the tiny pack to ``folder/pack``, build both engines into ``folder/engines``, and return the manifest."""
    pack = make_tiny_pack(folder / "pack")
    build_all(folder, pack)
    return pack


def build_all(folder: Path, pack: BudgetPack) -> None:
    """Build an engine of every entry of the pack at ``folder/pack`` into ``folder/engines``."""
    for entry in pack.entries:
        build_engine(
            folder / "pack",
            pack,
            entry.name,
            "onnxruntime",
            "fp32",
            BatchRange(min=1, opt=1, max=8),
            folder / "engines",
            detect_machine(),
            force=False,
        )
