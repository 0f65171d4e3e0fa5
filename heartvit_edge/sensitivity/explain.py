"""A sensitivity map as text that a person reads."""

from __future__ import annotations

from heartvit_edge.spec.sensitivity import SensitivityMap


def explain_map(info: SensitivityMap) -> str:
    """Return a summary: how the scores came about, what the sites and heads are worth, and how well they predict."""
    unit = "nats" if info.in_nats else "score"
    settings = info.settings
    lines = [
        f"{info.source.name} at {info.shape.img_size} px, {info.images.num_images} images of {info.images.name} "
        f"(SHA-256 {info.images.sha256[:12]})",
        f"scorer {settings.scorer}: {info.estimator}; seed {settings.seed}"
        + (f", {settings.num_probes} draws an image" if settings.num_probes else ""),
    ]
    if info.site_mean:
        lines += ["", f"tokens: mean {unit} a token, and all {info.shape.num_patches} of a site together"]
        for site, mean in info.site_mean.items():
            error = info.site_stderr[site]
            lines.append(f"  block {site:>3}  {mean:.3e} ± {error:.1e}   {mean * info.shape.num_patches:.4f}")
    if info.heads_mean:
        lines += ["", f"heads: mean {unit} of each, by block (least worth of all marked *)"]
        cheapest = sorted(value for row in info.heads_mean for value in row)[max(info.shape.depth // 2, 1) - 1]
        for block, row in enumerate(info.heads_mean):
            cells = " ".join(f"{value:>9.2e}{'*' if value <= cheapest else ' '}" for value in row)
            lines.append(f"  block {block:>3}  {cells}")
    if info.units_mean:
        lines += ["", f"MLP unit groups: least, mean and most {unit} by block"]
        for block, row in enumerate(info.units_mean):
            lines.append(f"  block {block:>3}  {min(row):.2e}  {sum(row) / len(row):.2e}  {max(row):.2e}")
    if info.drop_curves:
        lines += [
            "",
            "dropping a site's least-scored tokens, held-out images: tokens dropped, sum of scores -> measured nats",
        ]
        for curve in info.drop_curves:
            points = zip(curve.num_dropped, curve.predicted_nats, curve.measured_nats, strict=True)
            lines.append(f"  block {curve.site:>3}  " + "  ".join(f"{n}: {p:.2g} -> {m:.2g}" for n, p, m in points))
    if info.calibration:
        lines += ["", "predicted against measured loss on held-out images (measured = scale x predicted ^ exponent)"]
        lines.append("  removed      scale     exponent  Spearman  R2     median factor  points")
        for found in info.calibration:
            lines.append(
                f"  {found.component:<11}  {found.scale:<8.3g}  {found.exponent:<8.3g}  {found.spearman:<8.3f}  "
                f"{found.r_squared:<5.2f}  {found.median_factor:<13.2f}  {found.num_points}"
            )
    return "\n".join(lines)
