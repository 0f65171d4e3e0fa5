"""A pack, the double of a TensorRT release, and engines built with it."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
from fakes.cuda_double import FakeCuda
from fakes.machines import orin
from fakes.tensorrt_double import Script, make_tensorrt
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines import build
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.engine import BatchRange, EngineManifest


class Board:
    """One board with one release; its TensorRT is imported for as long as the test's monkeypatch lasts."""

    def __init__(self, tmp_path, monkeypatch, version, surface=None, make_pack=make_tiny_pack):
        self.script = Script()
        self.version = version
        self.engines = tmp_path / "engines"
        self.folder = tmp_path / "pack"
        self.pack = make_pack(self.folder)
        self.trt = make_tensorrt(version, self.script, surface)
        self.cuda = FakeCuda(self.script.device)
        self.scratch = Scratch(self.cuda)
        self.told = []
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)

    def build(self, precision="fp32", *, entry="macs-0.5", batch=None, machine=None, force=True, **more):
        """Return manifest and folder of an engine for 1 to 4 images, tuned for 2."""
        folder = build.build_engine(
            self.folder,
            self.pack,
            entry,
            "tensorrt",
            precision,
            batch or BatchRange(min=1, opt=2, max=4),
            self.engines,
            machine or orin(self.version),
            force=force,
            memory=lambda _: (2 << 30, 8 << 30),
            tell=self.told.append,
            **more,
        )
        return EngineManifest.read(folder / "manifest.json"), folder

    def runner(self, precision="fp32", *, entry="macs-0.5", use_graphs=True, **changes):
        """Return a runner of a fresh engine, whose manifest is changed as told."""
        manifest, folder = self.build(precision, entry=entry)
        manifest = manifest.model_copy(update=changes)
        return TensorRTRunner(manifest, folder, self.cuda, self.scratch, use_graphs=use_graphs)

    def expected(self, images, entry="macs-0.5"):
        """Return the outputs of the pack's graph on ONNX Runtime, by name."""
        names = [info.name for info in self.pack.entry(entry).outputs]
        graph = self.folder / self.pack.entry(entry).onnx
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        counts = {f"num_keep_{site}": np.array(count) for site, count in self.pack.entry(entry).num_keep.items()}
        return dict(zip(names, session.run(names, {"images": images} | counts), strict=True))


def noise(batch, seed=0):
    """Return a seeded batch of noise."""
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32), dtype=np.float32)
