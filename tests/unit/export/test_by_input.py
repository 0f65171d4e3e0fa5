"""Stems and tails: each image gets the tokens that it needs, and the answers are those of the model that keeps them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fakes.adaptive_pack import SITES, make_adaptive_pack
from fakes.tiny_vit import images, make_vit, plan_of

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.routed import Stem, token_worth
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.model.zoo import _shape
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.spec.pack import BudgetPack

NUM_PATCHES = 16


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def learned_gates():
    plans = {0.8: (13, 9), 0.6: (9, 5)}
    torch.manual_seed(0)
    shape = _shape(make_vit())
    return {
        f"macs-{limit}": make_token_gate(plan_of(shape, dict(zip(SITES, counts, strict=True)), limit=limit)).eval()
        for limit, counts in plans.items()
    }


@pytest.fixture(scope="module", params=["drop", "fuse", "merge", "learned", "joined"])
def made(request, tmp_path_factory):
    """Return folder and manifest of a pack, and its reduction."""
    folder = tmp_path_factory.mktemp("made") / "pack"
    reduction = {"learned": "drop", "joined": "join"}.get(request.param, request.param)
    gate = learned_gates() if request.param in ("learned", "joined") else "class-attention"
    return folder, make_adaptive_pack(folder, "adaptive-input", gate, reduction), reduction


def test_the_pack_opens_and_every_graph_has_constant_counts_and_shares_weights(made):
    folder, pack, _ = made
    assert BudgetPack.open(folder) == pack
    entry = pack.entries[1]
    names = [entry.onnx, *(tail.onnx for tail in entry.routing.tails)]
    assert names[0] == "macs-0.8.stem.onnx"
    places = []
    for name in names:
        graph = onnx.load(folder / name, load_external_data=False).graph
        assert not {node.op_type for node in graph.node} & {"NonZero", "If", "Loop", "ScatterND", "CumSum"}
        places.append(
            {
                tensor.name: {pair.key: pair.value for pair in tensor.external_data}["offset"]
                for tensor in graph.initializer
                if tensor.data_location == onnx.TensorProto.EXTERNAL
            }
        )
    assert len(set(map(frozenset, (found.items() for found in places[1:])))) == 1  # tails have the same tensors


def test_each_image_is_answered_as_the_model_that_keeps_its_buckets_counts(made):
    folder, pack, reduction = made
    entry = pack.entry("macs-0.6")
    stem = session(folder / entry.onnx)
    batch = images(7, seed=5).numpy()
    names = [info.name for info in entry.routing.outputs]
    state = dict(zip(names, stem.run(names, {"images": batch}), strict=True))
    needed = state.pop("num_keep")
    assert needed.dtype == np.int32
    dense = make_vit()
    gate = None if reduction == "merge" else "class-attention"
    if entry.gate == "learned":
        gate = learned_gates()[entry.name]
    for tail in entry.routing.tails:
        counts = tail.num_keep
        logits, *kept = session(folder / tail.onnx).run(None, state)
        plan = plan_of(_shape(dense), {site: 1 + count for site, count in counts.items() if count < NUM_PATCHES})
        if set(plan.sites) == set(SITES):
            expected, *expected_kept = GatedViT(dense, plan, gate, reduction).eval()(torch.from_numpy(batch))
            assert abs(logits - expected.detach().numpy()).max() <= 1e-4 * abs(logits).max()
            assert [found.tolist() for found in kept] == [found.tolist() for found in expected_kept]


@pytest.mark.parametrize(("reduction", "learned"), [("drop", False), ("drop", True), ("merge", False)])
def test_an_image_needs_the_fewest_tokens_such_that_the_others_are_worth_no_more_than_the_threshold(reduction, learned):
    dense = make_vit()
    plan = plan_of(_shape(dense), {1: 13, 3: 9})
    torch.manual_seed(0)
    gate = make_token_gate(plan) if learned else "class-attention"
    model = GatedViT(dense, plan, None if reduction == "merge" else gate, reduction).eval()
    with torch.no_grad():
        tokens, scores = model.run_stem(images(6))
        worth = token_worth(model, tokens, scores).double().numpy()
        threshold = float(np.median(worth.sum(axis=1)) / 3)
        needed = Stem(model, threshold, (1, NUM_PATCHES)).eval()(images(6))[-1].numpy()
    if reduction == "merge":
        patches = tokens[:, 1:].double()
        for row, found in enumerate(patches):
            cosines = torch.nn.functional.cosine_similarity(found[:, None], found[None], dim=2)
            likest = cosines.fill_diagonal_(-2).max(dim=1).values.numpy()
            np.testing.assert_allclose(worth[row], (1 - likest).clip(0), atol=1e-6)
    elif learned:
        nats = np.exp(scores.double().numpy())
        np.testing.assert_allclose(worth, nats / nats.sum(axis=1, keepdims=True), rtol=1e-5)
    else:
        np.testing.assert_allclose(worth.sum(axis=1), 1, rtol=1e-6)
    for row, count in zip(worth, needed, strict=True):
        spent = [np.sort(row)[:gone].sum() for gone in range(NUM_PATCHES)]
        assert count == NUM_PATCHES - max(gone for gone, cost in enumerate(spent) if cost <= threshold)
    assert len(set(needed.tolist())) > 1


def test_the_manifest_says_what_was_measured(made):
    _, pack, reduction = made
    for entry in pack.entries[1:]:
        routing = entry.routing
        assert sum(count for _, count in routing.counts) == 24
        assert sum(tail.share for tail in routing.tails) == pytest.approx(1)
        assert [tail.num_keep[1] for tail in routing.tails] == list(routing.buckets)
        mean = sum(tail.share * tail.macs for tail in routing.tails)
        assert entry.macs == routing.mean_macs == round(mean)
        assert mean - (entry.gate_macs or 0) * 1.6 <= entry.plan.macs
        assert {info.name: info.shape[1] for info in entry.outputs[1:]} == {
            f"kept_{site}": count - (reduction == "fuse") for site, count in routing.tails[-1].num_keep.items()
        }
        assert routing.check.images.num_images == 8
        dense, batch = make_vit(), images(8, seed=2)
        if entry.gate == "learned":
            continue
        gate = None if reduction == "merge" else "class-attention"
        plan = plan_of(_shape(dense), {site: block.num_tokens for site, block in enumerate(entry.plan.blocks)})
        static = kl_to_dense(dense(batch), GatedViT(dense, plan, gate, reduction).eval()(batch)[0])
        assert routing.check.static_loss_nats == pytest.approx(static.mean().item(), rel=1e-4)
        assert sum(routing.check.shares) == pytest.approx(1)
