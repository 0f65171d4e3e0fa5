"""Engines of different builds lie side by side, and a folder's name says which build it is."""

from __future__ import annotations

import re

import pytest
from fakes.tiny_pack import make_tiny_pack
from hypothesis import given
from hypothesis import strategies as st

from heartvit_edge.cli.build_engine import parse_batch
from heartvit_edge.engines.engine_name import (
    ENGINE_NAME,
    Kind,
    engine_folder,
    folder_of_pack,
    stored_kinds,
    variant_name,
    variant_options,
)
from heartvit_edge.errors import InputError
from heartvit_edge.spec.engine import BatchRange, BuildSettings


@pytest.fixture
def pack(tmp_path):
    """Return a tiny pack."""
    return make_tiny_pack(tmp_path / "pack")


def test_an_engine_lies_below_its_model_and_the_digest_of_its_pack(tmp_path, pack):
    assert engine_folder(tmp_path, pack, "macs-0.5", Kind("tensorrt", "fp16")) == (
        tmp_path / f"tiny_vit-{pack.digest()[:12]}" / "macs-0.5-tensorrt-fp16"
    )


def test_a_model_name_with_a_slash_stays_one_folder(tmp_path, pack):
    hub = pack.model_copy(update={"source": pack.source.model_copy(update={"name": "hf_hub:timm/vit.x"})})
    assert engine_folder(tmp_path, hub, "dense", Kind("tensorrt", "fp16")).parent.name.startswith("hf_hub_timm_vit.x-")


def test_an_entry_that_the_pack_lacks_has_no_folder(tmp_path, pack):
    with pytest.raises(InputError, match=r"no entry 'macs-0\.7', only dense, macs-0\.5"):
        engine_folder(tmp_path, pack, "macs-0.7", Kind("tensorrt", "fp16"))


@pytest.mark.parametrize(
    ("batch", "settings", "name"),
    [
        (BatchRange(), BuildSettings(), "default"),
        (BatchRange(min=8, opt=8, max=8), BuildSettings(), "batch8"),
        (BatchRange(min=1, opt=4, max=16), BuildSettings(), "batch1.4.16"),
        (BatchRange(), BuildSettings(optimization_level=5), "level5"),
        (BatchRange(min=2, opt=2, max=2), BuildSettings(optimization_level=0, sparse=True), "batch2-level0-sparse"),
    ],
)
def test_a_variant_is_called_by_what_is_not_default(batch, settings, name):
    assert variant_name(batch, settings) == name


@given(
    st.tuples(*3 * [st.integers(1, 99)]).map(sorted),
    st.integers(0, 5),
    st.booleans(),
)
def test_no_two_builds_share_a_name_and_its_options_build_the_same_again(sizes, level, sparse):
    batch = BatchRange(min=sizes[0], opt=sizes[1], max=sizes[2])
    settings = BuildSettings(optimization_level=level, sparse=sparse)
    words = variant_options(variant_name(batch, settings))
    again = dict(zip(words[::2], words[1::2], strict=False))
    assert parse_batch(again.get("--batch-size", "1:1:8")) == batch
    assert int(again.get("--optimization-level", 3)) == level
    assert ("--sparse" in words) == sparse


@pytest.mark.parametrize("text", ["batch", "batch1.2", "level6", "sparse-batch8", "fast", "batch8-", ""])
def test_what_is_no_variant_has_no_options(text):
    assert variant_options(text) is None


def test_the_kinds_in_a_store_come_in_a_lasting_order_and_other_folders_are_none(tmp_path, pack):
    kinds = [
        Kind("onnxruntime", "fp32"),
        Kind("tensorrt", "fp32", "batch8"),
        Kind("tensorrt", "fp16"),
        Kind("tensorrt", "fp16", "batch8-sparse"),
    ]
    for kind in reversed(kinds):
        engine_folder(tmp_path, pack, "dense", kind).mkdir(parents=True)
    for name in ("dense-tensorrt-fp16-fast", "dense-tensorrt", ".dense-tensorrt-int8.ab12cd34", "other-tensorrt-int8"):
        (folder_of_pack(tmp_path, pack) / name).mkdir()
    assert stored_kinds(tmp_path, pack, ["dense", "macs-0.5"]) == kinds
    assert stored_kinds(tmp_path, pack, ["macs-0.5"]) == []
    assert [str(kind) for kind in kinds][1:3] == ["tensorrt fp32 batch8", "tensorrt fp16"]
    assert re.fullmatch(ENGINE_NAME, "macs-0.5-random-tensorrt-int8-batch1.2.4")["entry"] == "macs-0.5-random"
