"""Packs are the same bytes whatever process writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from heartvit_edge.spec.files import sha256_file

REPOSITORY = Path(__file__).resolve().parents[3]
KINDS = {".onnx", ".bin", ".json", ".safetensors"}
PROGRAM = """
import sys
from pathlib import Path
from fakes.adaptive_pack import make_adaptive_pack
for form, reduction in (("static", "fuse"), ("adaptive-shape", "merge"), ("adaptive-input", "drop")):
    make_adaptive_pack(Path(sys.argv[1]) / form, form, reduction=reduction)
"""


def test_two_processes_write_the_same_bytes_in_every_form(tmp_path):
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
    running = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": str(number)}
        words = [sys.executable, "-c", PROGRAM, str(tmp_path / str(number))]
        running.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    first, second = (
        {path.relative_to(folder): sha256_file(path) for path in sorted(folder.rglob("*")) if path.suffix in KINDS}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert first == second
    assert {path.suffix for path in first} == KINDS
