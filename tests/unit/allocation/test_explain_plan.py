"""A plan as text: each figure computed by hand."""

from __future__ import annotations

from fakes.small_plans import SHAPE, SOURCE

from heartvit_edge.allocation.explain import explain_plan
from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.spec.budget import parse_joint
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.plan import BlockPlan, PlanCheck

IMAGES = ImageSetRef(name="shapes", num_images=64, sha256="7" * 64, labelled=True)
# Four blocks of width 24, three heads of width 8, an MLP of width 48, 17 tokens, 3 x 8 x 8 pixels a patch, 5 classes.
# A head has 4 x 24 x 8 = 768 weights, an MLP 2 x 24 x 48 = 2304; the embedding 192 x 24 = 4608, the classifier 120.
# MACs of n tokens and h heads: n x 768 h + 2 x n x n x 8 h for attention and n x 2304 for a whole MLP.
#   17, 3: 39168 + 13872 + 39168 = 92208        8, 1, half an MLP: 6144 + 1024 + 9216 = 16384, 17.8 %
#   8, 3: 18432 + 3072 + 18432 = 39936, 43.3 %
# All: 16 x 4608 + 120 = 73848 fixed; 442680 dense; 73848 + 92208 + 92208 + 39936 + 16384 = 314584, 71.1 %.
# Weights: 4728 + 4 x 4608 = 23160 dense; 4728 + 3 x 4608 + 768 + 1152 = 20472, 88.4 %, of 4 or 2 bytes.
BLOCKS = (
    BlockPlan(kept_heads=(0, 1, 2), num_tokens=17),
    BlockPlan(kept_heads=(0, 1, 2), num_tokens=17, kept_units=(0, 1, 2, 3)),
    BlockPlan(kept_heads=(0, 1, 2), num_tokens=8),
    BlockPlan(kept_heads=(1,), num_tokens=8, kept_units=(1, 3)),
)
TABLE = """\
  block  tokens      heads     units   MACs of a dense block
      0    17 of 17     3 of 3     100%  100.0%
      1    17 of 17     3 of 3     100%  100.0%
      2     8 of 17     3 of 3     100%   43.3%
      3     8 of 17     1 of 3      50%   17.8%
  MACs 0.0003146 G, 71.1% of the dense model's
  weights 0.02047 M, 88.4% of the dense model's: 0.08189 MB in FP32, 0.04094 MB in FP16
"""


def _plan(**changes):
    fields = {
        "blocks": BLOCKS,
        "budgets": parse_joint("macs=0.72,params=0.9"),
        "macs": 314_584,
        "unit_groups": 4,
        "predicted_loss_nats": 0.0625,
        "predicted_loss_stderr_nats": 0.0021,
        "scorer": "removal-gate",
        "sensitivity_sha256": "1" * 64,
    }
    return dense_plan(SOURCE, SHAPE).model_copy(update=fields | changes)


def test_a_plan_of_scores_alone_is_told_block_by_block():
    assert explain_plan(_plan(binding=("macs",), nats_per_percent=0.0049)) == (
        TABLE
        + """\
  predicted loss 0.0625 ± 0.0021 nats (from scores alone)
  budgets: macs 0.72 (binds), params 0.9
  one more percent of the dense MACs would save about 0.0049 nats"""
    )


def test_a_measured_plan_is_told_with_its_check_and_the_device_table():
    plan = _plan(
        refined_on=IMAGES,
        check=PlanCheck(
            images=IMAGES.model_copy(update={"num_images": 128}),
            loss_nats=0.0712,
            loss_stderr_nats=0.0034,
            num_agreeing=120,
            num_tightenings=2,
        ),
        device="onnxruntime fp32 on a desk",
        device_batch_size=8,
        latency_ms=3.25,
        energy_mj=41.5,
        extrapolated=True,
        budgets=parse_joint("latency-ms=3.5,loss-nats=0.1"),
        binding=("latency-ms",),
    )
    assert explain_plan(plan) == (
        TABLE
        + """\
  one inference of 8 images, onnxruntime fp32 on a desk: latency 3.25 ms, energy 41.5 mJ, read outside of what the \
device table measured
  predicted loss 0.0625 ± 0.0021 nats (measured on 64 of the images it was made from)
  measured loss 0.0712 ± 0.0034 nats on 128 other images, 93.8% agree with the dense model
  these images tightened the loss budget 2 times
  budgets: latency-ms 3.5 (binds), loss-nats 0.1"""
    )


def test_what_is_not_known_is_not_told():
    plan = _plan(
        predicted_loss_nats=None,
        predicted_loss_stderr_nats=None,
        latency_ms=3.25,
        device="tensorrt fp16 on a board",
        device_batch_size=1,
    )
    assert explain_plan(plan) == (
        TABLE
        + """\
  one inference of 1 image, tensorrt fp16 on a board: latency 3.25 ms
  budgets: macs 0.72, params 0.9"""
    )


def test_the_dense_plan_has_no_budget_and_loses_nothing():
    assert explain_plan(dense_plan(SOURCE, SHAPE)).splitlines()[5:] == [
        "  MACs 0.0004427 G, 100.0% of the dense model's",
        "  weights 0.02316 M, 100.0% of the dense model's: 0.09264 MB in FP32, 0.04632 MB in FP16",
        "  predicted loss 0 nats (from scores alone)",
        "  budgets: none",
    ]
