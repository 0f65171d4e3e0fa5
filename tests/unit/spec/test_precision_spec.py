"""What a pack says of its graphs in other precisions cannot contradict itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heartvit_edge.spec.precision import Fidelity, PrecisionGraph, Quantization

CLOSE = {
    "num_images": 4,
    "cosine": 1,
    "same_tokens_cosine": None,
    "kl_nats": 0,
    "num_agreeing": 3,
    "num_other_tokens": 4,
    "kept_overlap": 0.5,
}
MADE = Quantization(calibration="minmax", num_images=8, limit_nats=0.01, loss_nats=0.002, num_quantized=3, left_out=())


def test_agreement_is_the_share_of_images():
    assert Fidelity(**CLOSE).agreement == 0.75


@pytest.mark.parametrize("field", ["num_agreeing", "num_other_tokens"])
def test_no_more_images_differ_or_agree_than_there_are(field):
    with pytest.raises(ValidationError, match="of 4"):
        Fidelity(**CLOSE | {field: 5})


@pytest.mark.parametrize(("precision", "made"), [("int8", None), ("fp16", MADE)])
def test_an_int8_graph_says_how_it_was_made_and_no_other_does(precision, made):
    fields = {"onnx": "m.onnx", "onnx_sha256": "0" * 64, "fidelity": Fidelity(**CLOSE)}
    with pytest.raises(ValidationError, match=f"is {precision}, with quantization"):
        PrecisionGraph(precision=precision, quantization=made, **fields)


def test_an_entry_has_one_graph_a_precision(tmp_path):
    from fakes.precise_pack import make_precise_pack

    entry = make_precise_pack(tmp_path / "pack").entry("dense")
    assert entry.other("int8").precision == "int8"
    assert entry.other("fp32") is None
    with pytest.raises(ValidationError, match="expected each precision once"):
        type(entry).model_validate(entry.model_dump() | {"others": (*entry.others, entry.others[0])})
