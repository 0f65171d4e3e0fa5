"""The loss foreseen from logits linearised on the way to a removal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense
from fakes.tiny_vit import images

from heartvit_edge.model.forward import RemovalGates, continue_forward
from heartvit_edge.sensitivity.calibrate import predict_token_sets
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.measure import token_losses, trace_dense
from heartvit_edge.sensitivity.path import path_cost

IMAGE = images(1, seed=2, dtype=DOUBLE)
REMOVED = torch.rand(5, 16, generator=torch.Generator().manual_seed(3)) < 0.4


@pytest.mark.parametrize("way", [0.0, 0.7])
def test_the_path_cost_is_the_kl_of_logits_moved_by_their_central_difference(way):
    dense = double_dense()
    trace = trace_dense(dense.module, IMAGE)
    step = 1e-5

    def logits(t):
        gates = RemovalGates(tokens={1: 1 - t * REMOVED.to(DOUBLE)})
        return continue_forward(dense.module, trace.entering[1].expand(5, -1, -1), 1, gates)

    with torch.no_grad():
        change = (logits(way + step) - logits(way - step)) / (2 * step)
    expected = kl_to_dense(trace.logits, trace.logits + change)
    np.testing.assert_allclose(path_cost(dense, trace, 1, REMOVED, way), expected, rtol=1e-6)


def test_at_the_dense_model_a_small_part_of_the_path_costs_what_the_hessian_vector_product_says():
    dense = double_dense()
    trace = trace_dense(dense.module, IMAGE)
    layout = GateLayout(dense.shape, (1,))
    single = torch.eye(16, dtype=torch.bool)
    quadratic = predict_token_sets(dense, trace, IMAGE, layout, 0, single)
    weakest = quadratic.argsort()[:4]
    np.testing.assert_allclose(path_cost(dense, trace, 1, single[weakest], 0.0), quadratic[weakest], rtol=0.2)


def test_on_the_way_the_prediction_comes_closer_to_the_truth_than_at_the_dense_model():
    dense = double_dense()
    trace = trace_dense(dense.module, IMAGE)
    truth = token_losses(dense.module, trace, 1, REMOVED)
    errors = [(path_cost(dense, trace, 1, REMOVED, way) / truth).log().abs().mean() for way in (0.0, 0.5)]
    assert errors[1] < errors[0]
