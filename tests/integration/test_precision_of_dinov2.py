"""FP16 and INT8 graphs of a real model on real images: DINOv2 ViT-S/14 with a CIFAR-10 head."""

from __future__ import annotations

import pytest
from fakes.other_precisions import write_precisions
from fakes.written_graph import write_graph

from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.data.images import load_images
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.export.precision import Precisions
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.zoo import load_dense


@pytest.mark.shared_data
def test_fp16_and_int8_of_dinov2_answer_as_fp32(shared_data, tmp_path):
    files = [shared_data / f"{name}.safetensors" for name in ("dinov2_vits14_fp16", "cifar10_head_112px")]
    dense = load_dense("vit_small_patch14_dinov2", weights=files, img_size=112)
    compared, calibration = (
        [
            {"images": batch}
            for batch in preprocess(load_images(shared_data / name, num_images=count, seed=0), dense.preprocessing, 16)
        ]
        for name, count in (("cifar10_eval.npz", 64), ("cifar10_train.npz", 16))
    )
    write_graph(
        GatedViT(dense.module, dense_plan(dense.source, dense.shape), None).eval(), dense.shape, tmp_path / "m.onnx"
    )
    asked = Precisions(("fp16", "int8"), "minmax", 0.02, calibration)
    half, byte = write_precisions(tmp_path / "m.onnx", dense.shape, asked, compared)
    assert half.fidelity.cosine >= 0.9999
    assert half.fidelity.num_agreeing >= 63
    assert byte.fidelity.num_agreeing >= 60
    assert byte.quantization.num_quantized + len(byte.quantization.left_out) == 50  # four a block, patches and head
    assert byte.quantization.num_quantized >= 40
