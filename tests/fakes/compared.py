"""The pack and the runs of ``fakes.runs`` with a baseline of macs-0.5, and the dense model trained on as a control."""

from __future__ import annotations

from fakes.runs import make_evaluation, make_measurement, make_pack

from heartvit_edge.report.runs import Run
from heartvit_edge.spec.pack import BudgetPack

BASELINE = "macs-0.5.random"
CONTROL = "control"


def compared_pack() -> BudgetPack:
    """Return the pack of ``dense``, ``macs-0.5``, its baseline at random, and the control of ``dense``."""
    pack = make_pack()
    dense, pruned = pack.entries
    baseline = {"name": BASELINE, "gate": "random", "role": "baseline", "compares_with": "macs-0.5"}
    control = {"name": CONTROL, "role": "control", "compares_with": "dense"}
    entries = (pruned.model_copy(update=baseline), dense.model_copy(update=control))
    return BudgetPack.model_validate(pack.model_dump() | {"entries": (*pack.entries, *entries)})


def compared_run() -> Run:
    """Return a run of all four: the baseline is right on images 30 to 99, the control on 0 to 95."""
    pack = compared_pack()
    latency_ms = {"dense": [2.0] * 3, "macs-0.5": [1.0] * 3, BASELINE: [1.0] * 3, CONTROL: [2.0] * 3}
    evaluation = make_evaluation(pack=pack)
    right = {BASELINE: range(30, 100), CONTROL: range(96)}
    entries = evaluation.entries
    for name, images in right.items():
        answers = {"entry": name, "top1_correct": len(images), "correct": tuple(i in images for i in range(100))}
        entries = (*entries, evaluation.entries[1].model_copy(update=answers))
    return Run(
        "run",
        make_measurement(latency_ms, pack=pack),
        evaluation.model_copy(update={"entries": entries}),
        pack,
    )
