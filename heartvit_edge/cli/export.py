"""``heartvit-edge export``: from a model and images to a budget pack."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli import form_options, gate_options, plan_options
from heartvit_edge.cli import host_options as options
from heartvit_edge.cli import precision_options as precisions
from heartvit_edge.cli.console import is_first_process, progress_bar, say
from heartvit_edge.cli.learned_gates import FEWEST, GATE_IMAGES, check_left, draw_lesson, run_gates
from heartvit_edge.cli.make_plans import Request, check_wanted, run_plans
from heartvit_edge.cli.requirements import lacks_dynamo
from heartvit_edge.cli.score import run_score
from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import MANIFEST
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, find_target, with_dynamo

if TYPE_CHECKING:
    from heartvit_edge.allocation.accept import PlanningImages
    from heartvit_edge.export.entries import Baseline
    from heartvit_edge.gating.gate import GateName
    from heartvit_edge.gating.token_gate import TokenGate
    from heartvit_edge.sensitivity.table import ScoreTable

PARITY_IMAGES = 64


def export(
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Folder of the budget pack.", show_default=False)],
    weights: options.Weights = None,
    img_size: options.ImgSize = None,
    model_kwargs: options.ModelKwargs = None,
    budget: plan_options.Budgets = None,
    num_images: options.NumImages = 256,
    held_out_images: options.HeldOutImages = 16,
    scorer: options.ScorerOption = options.ScorerName.removal_gate,
    sites: options.Sites = "",
    probes: options.Probes = None,
    unit_groups: options.UnitGroups = 0,
    heads: plan_options.Heads = True,
    symmetric: plan_options.Symmetric = False,
    max_sites: plan_options.MaxSites = None,
    nested: plan_options.Nested = False,
    device_table: plan_options.Table = None,
    plan_images: Annotated[
        int, typer.Option(min=0, help="Scored images on which plans are improved; the others decide. 0: scores alone.")
    ] = plan_options.PLAN_IMAGES,
    check_images: plan_options.CheckImages = plan_options.CHECK_IMAGES,
    gate: Annotated[
        gate_options.ExportGate | None,
        typer.Option(
            help="What chooses tokens at run time; learned: a small network a plan, taught here what removing each "
            "token costs.",
            show_default="what fits the model's pooling",
        ),
    ] = None,
    gate_images: Annotated[
        int | None,
        typer.Option(
            min=FEWEST,
            help="Further images that --gate learned is taught and measured on, where as many are left.",
            show_default=str(GATE_IMAGES),
        ),
    ] = None,
    fit_counts: Annotated[
        bool | None,
        typer.Option(
            "--fit-counts/--keep-counts",
            help="Move tokens between a plan's sites, within its budgets, where --gate learned then loses less; not "
            "for plans that are symmetric or nested, nor for adaptive forms.",
            show_default="fitted with --gate learned, where that can be",
        ),
    ] = None,
    reduction: Annotated[
        gate_options.ReductionOption,
        typer.Option(
            help="What becomes of tokens that are not kept: gone; fused into one mean token; gone in the first half of "
            "the blocks and then joined to the likest, with --gate learned; or merged into the likest, which no gate "
            "decides. Plans are made as if the gate dropped them.",
        ),
    ] = gate_options.ReductionOption.drop,
    baseline: Annotated[
        list[gate_options.BaselineOption] | None,
        typer.Option(
            help="Add an entry BUDGET.BASELINE that carries out the same plan, so at equal MACs: tokens dropped at "
            "random or by class attention, or merged; repeat for more.",
        ),
    ] = None,
    form: form_options.FormOption = form_options.FormName.static,
    buckets: form_options.Buckets = None,
    external_data: form_options.ExternalData = False,
    fixed_batch: form_options.FixedBatch = None,
    parity_batch_sizes: form_options.ParityBatchSizes = None,
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help=f"What will read the graphs: {', '.join(TARGETS)}; see docs/targets.md."),
    ] = DEFAULT_TARGET,
    dynamo: Annotated[
        bool, typer.Option("--dynamo", help="Export with torch's newer exporter: slower, and fewer nodes.")
    ] = False,
    finetuned: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Fine-tune of plans of this pack: adds BUDGET.finetuned for each, and its control; repeat for more.",
        ),
    ] = None,
    precision: precisions.Precision = None,
    calibration: precisions.Calibration = None,
    calibration_images: precisions.CalibrationImages = None,
    int8_loss: precisions.Int8Loss = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Folder of scores, plans and gates, made or used again.", show_default="OUT.scores"),
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 8,
    force: options.Force = False,
) -> None:
    """Score, plan, export and check MODEL, and write a budget pack: the dense model and one graph a budget.

    Plans are improved and checked by what they lose with the gate that the graphs will carry; before --gate learned is
    taught, with the scores that teach it, and then their token counts are fitted to it. Prints the path of the pack's
    manifest. Scores, plans and gates are kept beside the pack and used again where model, images and settings are the
    same.

    Example: heartvit-edge export deit_small_patch16_224 --data images/ --budget 0.7 --budget 0.5 --out pack

    Example: heartvit-edge export deit_small_patch16_224 --data images/ --budget 0.7 --budget 0.5 --out pack --form
    adaptive-shape --sites 3,6,9 --symmetric --no-heads

    Example: heartvit-edge export deit_small_patch16_224 --data images/ --budget 0.5 --precision fp16 --precision int8
    --out pack --fixed-batch 8
    """
    import numpy as np

    from heartvit_edge.allocation.limits import CostModel
    from heartvit_edge.data.preprocess import preprocess
    from heartvit_edge.export.entries import check_baselines, planned_entries
    from heartvit_edge.export.finetuned import read_runs, with_finetuned
    from heartvit_edge.export.fixed_batch import check_batch, count_images
    from heartvit_edge.export.pack import check_out, write_pack
    from heartvit_edge.export.parity import parity_batches
    from heartvit_edge.export.precision import describe
    from heartvit_edge.gating.gate import check_gate, default_gate

    if plan_images == 1:
        raise InputError("one image tells no error of what a plan loses", hint="--plan-images 64, or 0 for none")
    learns = gate_options.learns_gates(gate, gate_images, reduction, scorer if plan_images else None)
    taught_for = gate_options.taught_for(reduction)
    fits = gate_options.fits_counts(fit_counts, learns=learns, symmetric=symmetric, nested=nested, form=form.value)
    if not budget:
        raise InputError("no --budget was given", hint="for example: --budget 0.7 --budget 0.5")
    asked = with_dynamo(find_target(target)) if dynamo else find_target(target)
    if dynamo and (lacks := lacks_dynamo()):
        raise lacks
    if dynamo:
        form_options.check_dynamo(form, fuses=reduction is gate_options.ReductionOption.fuse)
    precisions.check_asked(precision, calibration, calibration_images, int8_loss)
    budgets = plan_options.read_budgets(budget)
    sizes = form_options.read_sizes(parity_batch_sizes, fixed_batch)
    check_batch(form.value, fixed_batch)
    form_options.check_buckets(form, buckets)
    settings = plan_options.read_settings(heads, symmetric, "", max_sites, device_table)
    check_wanted(budgets, settings, nested=nested, checked=plan_images > 0 and check_images > 0)
    if out.name in ("", ".."):
        raise InputError(f"--out {out} is no folder of its own", hint="--out pack")
    check_out(out, force=force)
    scores_folder = scores if scores is not None else out.with_name(f"{out.name}.scores")
    given = options.load_host_input(model, weights, img_size, model_kwargs, data, num_images, held_out_images, seed)
    compared = count_images(PARITY_IMAGES, len(given.scored), fixed_batch)
    chosen = None if learns else gate_options.gate_name(gate) or default_gate(given.dense.shape)
    if chosen is not None:
        check_gate(chosen, given.dense.module)
    baselines: list[Baseline] = [name.value for name in baseline or ()]
    check_baselines(baselines, given.dense.module)
    cost = CostModel(given.dense.shape, unit_groups, settings.table)  # refuses a table that does not fit
    if given.num_used >= given.listing.num_images:
        check_wanted(budgets, settings, nested=nested, checked=False)
    past = given.num_used + (check_images if plan_images else 0)
    if learns:
        check_left(given.listing, past)
    runs = read_runs(finetuned or (), given.dense)
    replace = force and scores is None  # scores that were named are the user's: --force is for the pack
    try:
        table = run_score(
            given,
            scores_folder,
            scorer=scorer,
            sites=sites,
            probes=probes,
            unit_groups=unit_groups,
            seed=seed,
            batch_size=batch_size,
            force=replace,
        )
        if not is_first_process():
            return
        request = Request(table, budgets, settings, nested=nested)
        if plan_images:
            request = request.measured_on(*_measured(given, table, plan_images, check_images, seed, chosen))
        plans = run_plans(request, scores_folder / "plans", force=replace)
        gates: dict[str, TokenGate] = {}
        if learns and any(found.sites for found in plans):
            lesson = draw_lesson(given.dense, given.listing, past, gate_images or GATE_IMAGES, seed)
            plans, gates = run_gates(
                lesson, plans, scores_folder / "gates", cost if fits else None, taught_for, force=replace
            )
    except InputError as err:
        if scores is None or not (err.hint or "").startswith("name another folder"):
            raise
        raise InputError(str(err), hint="name another folder with --scores, or leave --scores out") from err
    images = list(islice(given.scored, compared))
    batches = parity_batches(np.concatenate([*preprocess(images, given.dense.preprocessing, batch_size)]), sizes)
    others = precisions.choose_precisions(
        precision,
        calibration,
        calibration_images,
        int8_loss,
        given.scored,
        given.dense.preprocessing,
        batch_size if fixed_batch is None else fixed_batch,
        compared,
        fixed_batch,
    )
    choosing = gates if chosen is None else chosen
    entries = planned_entries(given.dense, plans, choosing, reduction.value, baselines, form.value)
    entries = with_finetuned(entries, given.dense, runs, say)
    for entry in entries[1:] if baselines else ():
        if not entry.plan.sites and entry.role == "pruned":
            say(f"{entry.name} drops no token, so there is nothing that a baseline would choose otherwise")
    routing = form_options.draw_routing(given, form, buckets, check_images, seed, batch_size)
    with progress_bar("exporting and checking", len(entries)) as advance:
        pack = write_pack(
            given.dense,
            entries,
            out,
            batches=batches,
            classes=_class_names(given.scored.classes, given.dense.shape.num_classes),
            calibration=table.info.images,
            sensitivity=table.info,
            external_data=external_data,
            routing=routing,
            target=asked,
            precisions=others,
            batch=fixed_batch,
            force=force,
            advance=lambda _: advance(1),
            tell=say,
        )
    for found in pack.entries:
        share = found.parity.max_abs_error / max(found.parity.logit_scale, 1e-30)
        say(f"{found.name}: logits within {share:.1e} of PyTorch's scale on {found.parity.num_images} images")
        for graph in found.others:
            say(describe(found.name, graph))
    form_options.tell_forms(pack)
    typer.echo(out / MANIFEST)


def _measured(
    given: options.HostInput, table: ScoreTable, plan_images: int, check_images: int, seed: int, gate: GateName | None
) -> tuple[PlanningImages, PlanningImages | None]:
    """Return what runs plans on some of the scored images, and on further ones; without a gate the scores choose."""
    planning, deciding = plan_options.planning_part(given.scored, plan_images, seed)
    checks = plan_options.draw_checks(given.listing, given.num_used, check_images, seed)
    return plan_options.running(given.dense, table, planning, deciding, checks, gate)


def _class_names(found: tuple[str, ...], num_classes: int) -> tuple[str, ...]:
    """Return the names if there is one for each class; an image folder may hold but some of the model's classes."""
    if found and len(found) != num_classes:
        say(f"the images name {len(found)} of the model's {num_classes} classes: the pack gets no class names")
        return ()
    return found
