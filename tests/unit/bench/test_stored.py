from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes.tiny_engines import make_tiny_engines

from heartvit_edge.bench.stored import check_batch_sizes, find_engines, processor_of, read_layers
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.engine_name import Kind, engine_folder
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.layers import EngineLayer, EngineLayers

ENTRIES = ("dense", "macs-0.5")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return folder, make_tiny_engines(folder)


@pytest.fixture
def store(built, tmp_path):
    """Return the pack, its manifest and a copy of the engines that a test may spoil."""
    folder, pack = built
    shutil.copytree(folder / "engines", tmp_path / "engines")
    return folder / "pack", pack, tmp_path / "engines"


def find(store, entries=ENTRIES, backend=None, precision=None, machine=None, variant=None):
    folder, pack, engines = store
    machine = machine or detect_machine()
    return find_engines(folder, pack, entries, engines, backend, precision, machine, variant=variant)


def test_the_one_kind_that_was_built_is_found_in_the_order_of_the_entries(store):
    found = find(store)
    assert [engine.manifest.entry for engine in found] == ["dense", "macs-0.5"]
    assert {engine.kind for engine in found} == {Kind("onnxruntime", "fp32")}


def test_without_engines_the_hint_is_the_command_that_builds_them(store):
    folder, pack, engines = store
    with pytest.raises(InputError, match=r"holds no engine of .* for dense, macs-0\.5") as caught:
        find((folder, pack, engines / "other"))
    assert caught.value.hint == f"build them with: heartvit-edge build-engine {folder} --engines {engines / 'other'}"


def test_a_kind_that_was_not_built_is_named_with_the_command_that_builds_it(store):
    folder, _, engines = store
    with pytest.raises(InputError, match="holds no onnxruntime fp16 engine") as caught:
        find(store, backend="onnxruntime", precision="fp16")
    assert caught.value.hint == (
        f"build them with: heartvit-edge build-engine {folder} --backend onnxruntime --precision fp16 "
        f"--engines {engines}"
    )


def test_two_kinds_need_a_choice(store):
    _, pack, engines = store
    engine_folder(engines, pack, "dense", Kind("onnxruntime", "fp16")).mkdir()
    with pytest.raises(InputError, match="several kinds: onnxruntime fp32, onnxruntime fp16") as caught:
        find(store)
    assert caught.value.hint == "add --backend onnxruntime --precision fp32"
    assert len(find(store, precision="fp32")) == 2


def test_two_variants_need_a_choice_and_each_is_found_by_its_name(store):
    folder, pack, engines = store
    for entry in ENTRIES:
        build_engine(
            folder,
            pack,
            entry,
            "onnxruntime",
            "fp32",
            BatchRange(min=4, opt=4, max=4),
            engines,
            detect_machine(),
            force=False,
        )
    with pytest.raises(InputError, match="several kinds: onnxruntime fp32, onnxruntime fp32 batch4; ") as caught:
        find(store)
    assert caught.value.hint == "add --backend onnxruntime --precision fp32 --variant default"
    assert {engine.manifest.batch.max for engine in find(store, variant="default")} == {8}
    found = find(store, variant="batch4")
    assert {engine.manifest.batch.max for engine in found} == {4}
    assert {engine.kind for engine in found} == {Kind("onnxruntime", "fp32", "batch4")}


def test_a_variant_that_was_not_built_is_told_with_those_that_were_and_the_command(store):
    folder, _, engines = store
    with pytest.raises(InputError, match=r"holds no batch2\.4\.8 engine of .*; it holds onnxruntime fp32$") as caught:
        find(store, variant="batch2.4.8")
    assert (
        caught.value.hint
        == f"build them with: heartvit-edge build-engine {folder} --batch-size 2:4:8 --engines {engines}"
    )


def test_what_is_no_variants_name_is_told_where_to_find_one(store):
    with pytest.raises(InputError, match="holds no fast engine of") as caught:
        find(store, variant="fast")
    assert "heartvit-edge engines list" in caught.value.hint


def test_an_entry_without_an_engine_is_named(store):
    _, pack, engines = store
    shutil.rmtree(engine_folder(engines, pack, "macs-0.5", Kind("onnxruntime", "fp32")))
    with pytest.raises(InputError, match=r"holds no onnxruntime fp32 engine of .* for macs-0\.5"):
        find(store)
    assert len(find(store, entries=("dense",))) == 1


def test_an_altered_engine_fails_its_check(store):
    _, pack, engines = store
    with (engine_folder(engines, pack, "dense", Kind("onnxruntime", "fp32")) / "engine.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckError, match="was altered"):
        find(store)


def test_an_engine_of_another_machine_is_refused(store):
    machine = detect_machine().model_copy(update={"cpu": "another"})
    with pytest.raises(MachineError, match="built on another machine"):
        find(store, machine=machine)


def test_an_engine_of_another_graph_is_refused(store):
    folder, pack, engines = store
    places = [engine_folder(engines, pack, entry, Kind("onnxruntime", "fp32")) for entry in ENTRIES]
    shutil.rmtree(places[1])
    shutil.copytree(places[0], places[1])
    with pytest.raises(InputError, match="built from another graph") as caught:
        find(store)
    assert caught.value.hint.endswith(f"--backend onnxruntime --precision fp32 --engines {engines} --force")
    assert str(folder) in caught.value.hint


def test_batch_sizes_within_the_engines_range_pass(store):
    check_batch_sizes(Path("pack"), Path("engines"), find(store), [1, 8])


def test_a_batch_size_that_an_engine_does_not_serve_is_named_with_the_command_that_builds_for_it(store):
    with pytest.raises(InputError, match="dense serves batch sizes 1 to 8, found 16") as caught:
        check_batch_sizes(Path("pack"), Path("engines"), find(store), [1, 16])
    assert caught.value.hint == (
        "build others: heartvit-edge build-engine pack --backend onnxruntime --precision fp32 --batch-size 1:1:16 "
        "--engines engines; then add --variant batch1.1.16"
    )


def test_an_engine_runs_on_the_gpu_unless_it_was_built_for_the_cpu_provider(store):
    manifest = find(store)[0].manifest
    assert processor_of(manifest) == "cpu"
    assert processor_of(manifest.model_copy(update={"options": (("provider", "CUDAExecutionProvider"),)})) == "gpu"
    assert processor_of(manifest.model_copy(update={"backend": "tensorrt", "options": ()})) == "gpu"


def write_layers(engine, sha256):
    layer = EngineLayer(name="a", kind="gemm", tactic="", precision="fp16", nodes=())
    table = EngineLayers(engine_sha256=sha256, layers=(layer,), num_fused_attention=0)
    table.write(engine.folder / "layers.json")
    return table


def test_layer_tables_are_read_where_the_builder_wrote_one(store):
    dense, pruned = find(store)
    table = write_layers(pruned, pruned.manifest.sha256)
    told = []
    assert read_layers((dense, pruned), told.append) == (table,)
    assert told == []


def test_a_layer_table_of_another_engine_or_that_is_broken_is_told_and_left_out(store):
    dense, pruned = find(store)
    write_layers(dense, "9" * 64)
    (pruned.folder / "layers.json").write_text("{")
    told = []
    assert read_layers((dense, pruned), told.append) == ()
    assert told[0].endswith("is of another engine")
    assert "layer table of macs-0.5 is left out" in told[1]
    assert "is not JSON" in told[1]
