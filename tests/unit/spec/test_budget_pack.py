"""A pack is opened only where every file is the one that its manifest names."""

from __future__ import annotations

import json

import pytest
from fakes.learned import GATE_MACS, with_learned_gate
from fakes.small_plans import SHAPE as OTHER_SHAPE
from fakes.small_plans import make_table
from fakes.tiny_pack import make_tiny_pack
from pydantic import ValidationError

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import MANIFEST, BudgetPack


@pytest.fixture
def pack(tmp_path):
    """Return a tiny pack, which lies in ``tmp_path``."""
    return make_tiny_pack(tmp_path)


def test_a_pack_opens_as_it_was_written(tmp_path, pack):
    assert BudgetPack.open(tmp_path) == pack


def test_an_altered_graph_is_found_and_named(tmp_path, pack):
    graph = tmp_path / pack.entry("macs-0.5").onnx
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(CheckError) as caught:
        BudgetPack.open(tmp_path)
    assert str(caught.value) == (
        f"{graph} was altered: SHA-256 is {sha256_file(graph)}, its manifest says {pack.entry('macs-0.5').onnx_sha256}"
    )
    assert caught.value.exit_code == 5
    assert caught.value.hint == "export the pack again"


def test_a_missing_graph_is_named(tmp_path, pack):
    graph = tmp_path / pack.entry("dense").onnx
    graph.unlink()
    with pytest.raises(InputError, match=f"cannot read {graph}: No such file"):
        BudgetPack.open(tmp_path)


def test_a_folder_without_a_manifest_is_no_pack(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} is not a budget pack: it has no {MANIFEST}") as caught:
        BudgetPack.open(tmp_path)
    assert caught.value.hint.startswith("make one with: heartvit-edge export")


def test_a_pack_that_is_not_there_is_no_pack(tmp_path):
    with pytest.raises(InputError, match="is not a budget pack"):
        BudgetPack.open(tmp_path / "nowhere")


def test_an_entry_is_found_by_its_name(pack):
    assert pack.entry("macs-0.5").gate == "tiny"
    assert pack.entry("dense").plan.is_dense


def test_an_entry_that_is_not_there_is_told_those_that_are(pack):
    with pytest.raises(InputError) as caught:
        pack.entry("macs-0.7")
    assert str(caught.value) == "the pack has no entry 'macs-0.7', only dense, macs-0.5"


@pytest.mark.parametrize("order", [(), (1,), (1, 0)], ids=["no entry", "no dense entry", "dense last"])
def test_the_first_entry_is_the_dense_model(pack, order):
    fields = pack.model_dump() | {"entries": tuple(pack.entries[index] for index in order)}
    with pytest.raises(ValidationError, match="the first entry must be the dense model"):
        BudgetPack.model_validate(fields)


def test_an_entry_that_is_called_dense_and_is_not_is_refused(pack):
    false = pack.entries[1].model_copy(update={"name": "dense"})
    with pytest.raises(ValidationError, match="the first entry must be the dense model"):
        BudgetPack.model_validate(pack.model_dump() | {"entries": (false,)})


def test_entries_have_different_names(pack):
    with pytest.raises(ValidationError, match="entries must have different names"):
        BudgetPack.model_validate(pack.model_dump() | {"entries": (*pack.entries, pack.entries[1])})


def compared(pack, **fields):
    """Return the pack with a copy of its pruned entry that has these fields."""
    twin = pack.entries[1].model_dump() | {"name": "macs-0.5.twin", "role": "baseline", "compares_with": "macs-0.5"}
    return BudgetPack.model_validate(pack.model_dump() | {"entries": (*pack.entries, twin | fields)})


def test_a_pack_from_before_there_were_roles_opens_with_those_that_its_entries_had(tmp_path, pack):
    content = json.loads((tmp_path / MANIFEST).read_text())
    for entry in content["entries"]:
        for field in ("role", "compares_with", "reduction"):
            del entry[field]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert BudgetPack.open(tmp_path) == pack
    assert [(entry.role, entry.reduction) for entry in pack.entries] == [("dense", "drop"), ("pruned", "drop")]


def test_an_entry_that_compares_has_the_plan_of_the_one_it_names(pack):
    assert compared(pack).entries[2].compares_with == "macs-0.5"
    for name in ("dense", "macs-0.7"):
        with pytest.raises(ValidationError, match=f"compares with {name}, which has another plan or is none"):
            compared(pack, compares_with=name)


@pytest.mark.parametrize(("role", "name"), [("baseline", None), ("pruned", "macs-0.5"), ("dense", "macs-0.5")])
def test_baselines_compare_and_dense_and_pruned_entries_do_not(pack, role, name):
    with pytest.raises(ValidationError, match=f"is {role} and compares with {name}"):
        compared(pack, role=role, compares_with=name)


def test_a_pack_carries_the_scores_of_its_own_model(tmp_path, pack):
    scores = make_table({}, shape=pack.shape, sites=(1,)).info
    scored = BudgetPack.model_validate(pack.model_dump() | {"sensitivity": scores})
    scored.write(tmp_path / MANIFEST, force=True)
    assert BudgetPack.open(tmp_path).sensitivity == scores


@pytest.mark.parametrize("other", ["weights", "shape"])
def test_the_scores_of_another_model_are_refused(pack, other):
    scores = make_table({}, shape=pack.shape if other == "weights" else OTHER_SHAPE, sites=(1,)).info
    if other == "weights":
        source = scores.source.model_copy(update={"weights_sha256": "f" * 64})
        scores = scores.model_copy(update={"source": source})
    with pytest.raises(ValidationError, match="the scores are of tiny_vit with other weights or another shape"):
        BudgetPack.model_validate(pack.model_dump() | {"sensitivity": scores})


def learned(folder, pack):
    """Store the pack with a learned gate in ``macs-0.5`` and return its manifest and the file of the gate's tensors."""
    weights = folder / "macs-0.5.gate.safetensors"
    weights.write_bytes(b"tensors")
    content = with_learned_gate(pack).model_dump()
    content["entries"][1]["gate_weights_sha256"] = sha256_file(weights)
    changed = BudgetPack.model_validate(content)
    changed.write(folder / MANIFEST, force=True)
    return changed, weights


def test_the_macs_of_an_entry_are_its_plans_and_its_gates(tmp_path, pack):
    entry = learned(tmp_path, pack)[0].entry("macs-0.5")
    assert (entry.plan.macs, entry.macs) == (20_000, 20_000 + GATE_MACS)
    assert entry.macs_fraction == pytest.approx(0.51)
    assert pack.entry("macs-0.5").macs == 20_000


def test_an_altered_gate_is_found_and_named(tmp_path, pack):
    changed, weights = learned(tmp_path, pack)
    assert BudgetPack.open(tmp_path) == changed
    weights.write_bytes(b"other tensors")
    with pytest.raises(CheckError, match=f"{weights} was altered") as caught:
        BudgetPack.open(tmp_path)
    assert caught.value.hint == "export the pack again"


@pytest.mark.parametrize(
    "fields", [{"gate": "tiny"}, {"gate_weights": None}, {"gate_weights_sha256": None}, {"gate_macs": None}], ids=str
)
def test_a_learned_gate_and_no_other_has_weights_their_hash_and_macs(pack, fields):
    content = with_learned_gate(pack).model_dump()
    content["entries"][1].update(fields)
    with pytest.raises(ValidationError, match="expected all of them for learned and no other"):
        BudgetPack.model_validate(content)


def test_a_pack_from_before_gates_learnt_opens(tmp_path, pack):
    content = json.loads((tmp_path / MANIFEST).read_text())
    for entry in content["entries"]:
        for field in ("gate_weights", "gate_weights_sha256", "gate_macs"):
            del entry[field]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert BudgetPack.open(tmp_path) == pack
