"""The pack of ``fakes.runs`` whose plan was measured, timed by a device table, and loses MLP units too."""

from __future__ import annotations

from fakes.runs import make_pack

from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.plan import PlanCheck

PLANNED_ON = ImageSetRef(name="shapes.npz", num_images=1064, sha256="7" * 64, labelled=True, seed=0)
CHECK = PlanCheck(
    images=ImageSetRef(name="shapes.npz", num_images=1128, sha256="8" * 64, labelled=True, seed=0),
    loss_nats=0.0168,
    loss_stderr_nats=0.0021,
    num_agreeing=1072,
)
UNITS = ((0, 1, 2, 3), (1, 3), None)  # groups of 4 units that stay in each block, of 16 units


def pack_with(name: str = "tiny_vit", **fields: object) -> BudgetPack:
    """Return the pack with these fields in place of its pruned plan's own."""
    pack = make_pack(name)
    plan = pack.entries[1].plan.model_copy(update=fields)
    entries = (pack.entries[0], pack.entries[1].model_copy(update={"plan": plan}))
    return pack.model_copy(update={"entries": entries})


def planned_pack(name: str = "tiny_vit", **fields: object) -> BudgetPack:
    """Return the pack with everything known of its pruned plan; ``fields`` replace what is."""
    blocks = make_pack().entries[1].plan.blocks
    known = {
        "budgets": (
            Budget(limit=0.5),
            Budget(quantity="latency-ms", limit=4),
            Budget(quantity="loss-nats", limit=0.02),
        ),
        "binding": ("macs", "loss-nats"),
        "blocks": tuple(b.model_copy(update={"kept_units": kept}) for b, kept in zip(blocks, UNITS, strict=True)),
        "unit_groups": 4,
        "params": 30_000,
        "dense_params": 40_000,
        "predicted_loss_stderr_nats": 0.0015,
        "refined_on": PLANNED_ON,
        "chosen_by": "class-attention",
        "check": CHECK,
        "latency_ms": 3.25,
        "energy_mj": 41.5,
        "device_table_sha256": "6" * 64,
        "nats_per_percent": 0.00125,
    }
    return pack_with(name, **known | fields)
