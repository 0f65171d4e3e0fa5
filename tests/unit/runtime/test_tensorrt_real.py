"""The same build and run as on the double, on a real TensorRT."""

from __future__ import annotations

import pytest
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines.build import build_engine, pick_backend
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.engines.store import load_engine
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.engine import BatchRange


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("entry", ["dense", "macs-0.5"])
def test_an_engine_is_built_loaded_and_answers_as_its_graph(tmp_path, entry, precision):
    machine, pack = detect_machine(), make_tiny_pack(tmp_path / "pack")
    assert pick_backend(None)[0] == "tensorrt"
    folder = build_engine(
        tmp_path / "pack",
        pack,
        entry,
        "tensorrt",
        precision,
        BatchRange(min=1, opt=2, max=4),
        tmp_path / "engines",
        machine,
        force=False,
        verify=verify_engine,
    )
    verify_engine(load_engine(folder, machine), folder, tmp_path / "pack" / pack.entry(entry).onnx)
