"""One row per run, entry and batch size: every figure, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.accuracy_figures import accuracy_figures
from heartvit_edge.bench.energy_figures import energy_figures, energy_ratio, inverse
from heartvit_edge.bench.figures import DENSE, Figure, latency_figures, ratio_figures
from heartvit_edge.bench.floors import floors
from heartvit_edge.bench.statistics import wilson
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement
from heartvit_edge.spec.pack import PackEntry, Role
from heartvit_edge.spec.plan import PruningPlan

PLAN_KEYS = (
    "macs_fraction",
    "gmacs",
    "params_fraction",
    "tokens_share",
    "heads_share",
    "predicted_loss_nats",
    "held_out_nats",
    "held_out_agreement",
    "table_latency_ms",
    "table_energy_mj",
    "nats_per_percent",
)
ANSWER_KEYS = ("kl_nats", "agreement", "top1", "mcnemar_p", "top5")
LOSS_KEYS = ("predicted_loss_nats", "held_out_nats", "held_out_agreement", "nats_per_percent")
LATENCY_KEYS = (
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "mean_ms",
    "speed_up",
    "images_per_s",
    "host_overhead_us",
    "waiting_ms",
    "weights_floor_ms",
    "arithmetic_floor_ms",
)
ENERGY_KEYS = (
    "mj_per_inference",
    "net_mj_per_inference",
    "mj_per_image",
    "inferences_per_j",
    "energy_delay_mj_ms",
    "energy_ratio",
    "mean_mw",
    "peak_mw",
    "idle_mw",
)

NO_LIMIT = "not known of this machine or plan: bench takes --bandwidth and --peak"

NO_TABLE = "the plan was made without a device table"

Z_95 = 1.96
"""Standard errors to each side of a mean that 95 % of normal means lie within."""

MOST_COUNTS = 4
"""A plan with more token counts than these shows only the first and the last in the table."""


@dataclass(frozen=True)
class Row:
    """One line of the summary table.

    Attributes:
        run: Label of the run.
        entry: Name of the pack's entry.
        batch_size: Images an inference; None where the entry was not measured.
        role: What the entry is for; None where the run has no pack.
        compares_with: Name of the entry with the same plan; None for a dense or pruned entry, or without a pack.
        figures: Key of each column to its figure.
        details: Key of some columns to what stands under the number in place of an interval.
    """

    run: str
    entry: str
    batch_size: int | None
    role: Role | None
    compares_with: str | None
    figures: dict[str, Figure]
    details: dict[str, str]

    @property
    def is_dense(self) -> bool:
        """Whether this is the model that every other is compared with."""
        return self.entry == DENSE


def rows_of(runs: Sequence[Run]) -> tuple[Row, ...]:
    """Return the rows of all runs: by batch size within a run, in the pack's order within a batch size."""
    return tuple(row for run in runs for row in _rows_of_run(run))


def _rows_of_run(run: Run) -> tuple[Row, ...]:
    measured = run.measurement.rows if run.measurement else ()
    answered = [answers.entry for answers in run.evaluation.entries] if run.evaluation else []
    names = [entry.name for entry in run.pack.entries] if run.pack else answered
    ordered = sorted(measured, key=lambda row: (row.batch_size, names.index(row.entry)))
    rows = [_row(run, row.entry, row) for row in ordered]
    only_answered = [name for name in answered if name not in {row.entry for row in measured}]
    return (*rows, *(_row(run, name, None) for name in only_answered))


def _row(run: Run, entry: str, measured: EntryMeasurement | None) -> Row:
    stored = next((one for one in run.pack.entries if one.name == entry), None) if run.pack else None
    figures = _plan_figures(stored) | _answer_figures(run.evaluation, entry)
    if run.measurement is not None and measured is not None:
        figures |= _measured_figures(run.measurement, measured)
    else:
        figures |= dict.fromkeys((*LATENCY_KEYS, *ENERGY_KEYS), _missing("bench did not measure this entry"))
    return Row(
        run=run.label,
        entry=entry,
        batch_size=measured.batch_size if measured else None,
        role=stored.role if stored else None,
        compares_with=stored.compares_with if stored else None,
        figures=figures,
        details=_plan_details(stored) if stored else {},
    )


def _missing(reason: str) -> Figure:
    return Figure(value=None, reason=reason)


def _plan_figures(entry: PackEntry | None) -> dict[str, Figure]:
    if entry is None:
        return dict.fromkeys(PLAN_KEYS, _missing("the plan is stored in measurement.json, which this run lacks"))
    plan = entry.plan
    tokens = sum(block.num_tokens for block in plan.blocks)
    heads = sum(len(block.kept_heads) for block in plan.blocks)
    return {
        "macs_fraction": Figure(value=entry.macs_fraction),
        "gmacs": Figure(value=entry.macs / 1e9),
        "tokens_share": Figure(value=tokens / (plan.shape.depth * plan.shape.num_tokens)),
        "heads_share": Figure(value=heads / (plan.shape.depth * plan.shape.num_heads)),
        "params_fraction": _given(plan.params_fraction, "the plan was made before weights were counted"),
        "predicted_loss_nats": _with_error(plan.predicted_loss_nats, plan.predicted_loss_stderr_nats)
        if plan.predicted_loss_nats is not None
        else _missing(f"scorer {plan.scorer} ranks, and foresees no loss"),
        "table_latency_ms": _given(plan.latency_ms, NO_TABLE),
        "table_energy_mj": _given(
            plan.energy_mj, NO_TABLE if plan.device_table_sha256 is None else "the device table has no energy"
        ),
        "nats_per_percent": _given(plan.nats_per_percent, "not known of this plan"),
    } | (_check_figures(plan) if entry.compares_with is None else _loss_of_another(entry.compares_with))


def _loss_of_another(name: str) -> dict[str, Figure]:
    """Return no loss for an entry that carries out a plan in another way than the one that the plan was made for."""
    return dict.fromkeys(LOSS_KEYS, _missing(f"the plan's loss is that of {name}, which carries it out in its own way"))


def _check_figures(plan: PruningPlan) -> dict[str, Figure]:
    check = plan.check
    if check is None:
        reason = "nothing is removed" if plan.is_dense else "the plan was not measured on held-out images"
        return dict.fromkeys(("held_out_nats", "held_out_agreement"), _missing(reason))
    low, high = wilson(check.num_agreeing, check.images.num_images)
    return {
        "held_out_nats": _with_error(check.loss_nats, check.loss_stderr_nats),
        "held_out_agreement": Figure(value=check.agreement, low=low, high=high),
    }


def _given(value: float | None, otherwise: str) -> Figure:
    return _missing(otherwise) if value is None else Figure(value=value)


def _with_error(value: float, stderr: float | None) -> Figure:
    """Return a mean loss with its normal interval, which ends at 0; without where the error is not known."""
    if stderr is None:
        return Figure(value=value)
    return Figure(value=value, low=max(value - Z_95 * stderr, 0.0), high=value + Z_95 * stderr)


def _plan_details(entry: PackEntry) -> dict[str, str]:
    plan = entry.plan
    heads = sum(len(block.kept_heads) for block in plan.blocks)
    counts = [str(count) for count in (plan.shape.num_tokens, *plan.sites.values())]
    if len(counts) > MOST_COUNTS:
        counts = [counts[0], "…", counts[-1]]
    return {
        "macs_fraction": f"{entry.macs / 1e9:.3g} G" if entry.macs >= 1e8 else f"{entry.macs / 1e6:.3g} M",
        "tokens_share": "→".join(counts),
        "heads_share": f"{heads} of {plan.shape.depth * plan.shape.num_heads}",
    }


def _answer_figures(evaluation: Evaluation | None, entry: str) -> dict[str, Figure]:
    if evaluation is None:
        return dict.fromkeys(ANSWER_KEYS, _missing("no evaluation.json in this run: heartvit-edge evaluate makes it"))
    if entry not in {answers.entry for answers in evaluation.entries}:
        return dict.fromkeys(ANSWER_KEYS, _missing("evaluate did not run this entry"))
    figures = accuracy_figures(evaluation, entry)
    return {
        "kl_nats": figures.kl_nats,
        "agreement": figures.agreement,
        "top1": figures.top1,
        "mcnemar_p": figures.mcnemar_p,
        "top5": figures.top5,
    }


def _measured_figures(measurement: Measurement, row: EntryMeasurement) -> dict[str, Figure]:
    latency, energy = latency_figures(row), energy_figures(measurement, row)
    floor = floors(measurement, row)
    return {
        "weights_floor_ms": _given(floor.weights_ms, NO_LIMIT),
        "arithmetic_floor_ms": _given(floor.arithmetic_ms, NO_LIMIT),
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "mean_ms": latency.mean_ms,
        "speed_up": inverse(ratio_figures(measurement, row).latency),
        "images_per_s": latency.images_per_s,
        "host_overhead_us": latency.host_overhead_us,
        "waiting_ms": latency.waiting_ms,
        "mj_per_inference": energy.mj_per_inference,
        "net_mj_per_inference": energy.net_mj_per_inference,
        "mj_per_image": energy.mj_per_image,
        "inferences_per_j": energy.inferences_per_j,
        "energy_delay_mj_ms": energy.energy_delay_mj_ms,
        "energy_ratio": energy_ratio(measurement, row),
        "mean_mw": energy.mean_mw,
        "peak_mw": energy.peak_mw,
        "idle_mw": energy.idle_mw,
    }
