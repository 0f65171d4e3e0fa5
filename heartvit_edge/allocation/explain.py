"""A plan as text that a person reads."""

from __future__ import annotations

from heartvit_edge.allocation.cost import block_macs, dense_params, kept_share, plan_params
from heartvit_edge.spec.plan import PruningPlan


def explain_plan(plan: PruningPlan) -> str:
    """Return what each block keeps and costs, what limits the plan, and what it is expected to lose."""
    shape = plan.shape
    dense_block = block_macs(shape, shape.num_tokens, shape.num_heads)
    params, all_params = plan_params(shape, plan.blocks, plan.unit_groups), dense_params(shape)
    lines = ["  block  tokens      heads     units   MACs of a dense block"]
    for index, block in enumerate(plan.blocks):
        share, heads = kept_share(block, plan.unit_groups), len(block.kept_heads)
        macs = block_macs(shape, block.num_tokens, heads, share) / dense_block
        lines.append(
            f"  {index:>5}  {block.num_tokens:>4} of {shape.num_tokens:<4} {heads:>3} of {shape.num_heads:<3} "
            f"{float(share):>6.0%}  {macs:>6.1%}"
        )
    megabytes = f"{4 * params / 1e6:.4g} MB in FP32, {2 * params / 1e6:.4g} MB in FP16"
    lines += [
        f"  MACs {plan.macs / 1e9:.4g} G, {plan.macs_fraction:.1%} of the dense model's",
        f"  weights {params / 1e6:.4g} M, {params / all_params:.1%} of the dense model's: {megabytes}",
    ]
    if plan.latency_ms is not None:
        energy = "" if plan.energy_mj is None else f", energy {plan.energy_mj:.4g} mJ"
        beyond = ", read outside of what the device table measured" if plan.extrapolated else ""
        images = "1 image" if plan.device_batch_size == 1 else f"{plan.device_batch_size} images"
        lines.append(f"  one inference of {images}, {plan.device}: latency {plan.latency_ms:.4g} ms{energy}{beyond}")
    if plan.predicted_loss_nats is not None:
        error = f" ± {plan.predicted_loss_stderr_nats:.2g}" if plan.predicted_loss_stderr_nats is not None else ""
        if plan.decided_on:
            source = f"measured on the {plan.decided_on.num_images} images that chose it among those found on others"
        elif plan.refined_on:
            source = f"measured on {plan.refined_on.num_images} of the images it was made from"
        else:
            source = "from scores alone"
        lines.append(f"  predicted loss {plan.predicted_loss_nats:.3g}{error} nats ({source})")
    if plan.check is not None:
        check = plan.check
        lines.append(
            f"  measured loss {check.loss_nats:.3g} ± {check.loss_stderr_nats:.2g} nats on "
            f"{check.images.num_images} other images, {check.agreement:.1%} agree with the dense model"
        )
        if check.num_tightenings:
            lines.append(f"  these images tightened the loss budget {check.num_tightenings} times")
    limits = ", ".join(
        f"{budget.quantity} {budget.limit:g}{' (binds)' if budget.quantity in plan.binding else ''}"
        for budget in plan.budgets
    )
    lines.append(f"  budgets: {limits or 'none'}")
    if plan.nats_per_percent is not None:
        lines.append(f"  one more percent of the dense MACs would save about {plan.nats_per_percent:.2g} nats")
    return "\n".join(lines)
