"""What the scores say: the worth of heads and tokens, and how well scores foretell a measured loss."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.formats import TIMES
from heartvit_edge.report.layout import cards, figure, missing, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_scores import head_scores_map, score_text, site_scores_plot
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.sensitivity import Calibration, DropCurve, SensitivityMap

HEADING = "What the scores say"

REMOVED = {
    "token": "one token",
    "head": "one head",
    "token-set": "a random share of the tokens, by one Hessian-vector product",
    "token-set-path": "the same shares, by logits linearised on the way",
}

CALIBRATION_HEADINGS = (
    "Removed",
    "Removals measured",
    "Spearman, predicted and measured",
    "Expected loss, nats",
    "R², of the logarithms",
    "Off by a factor of, in the median",
)

LOG_NOTE = "The shade is logarithmic. Hollow: the mean is not above zero."
ERROR_NOTE = "Bars: one standard error over images."


def scores(runs: Sequence[Run]) -> Markup:
    """Return the section; each pack's scores are shown once, however many runs used it."""
    packs: dict[str, BudgetPack] = {}
    for run in runs:
        if run.pack:
            packs.setdefault(run.pack.digest(), run.pack)
    parts = []
    for digest, pack in packs.items():
        title = f"{pack.source.name}, pack {digest[:12]}: " if len(packs) > 1 else ""
        if pack.sensitivity is None:
            parts.append(missing(f"{title}No scores: the pack carries none; heartvit-edge export stores them in it."))
        else:
            parts += _of_pack(pack.sensitivity, title)
    if not parts:
        parts = [missing("The scores are stored with the pack in measurement.json, which heartvit-edge bench makes.")]
    return section("scores", HEADING, *parts)


def _of_pack(info: SensitivityMap, title: str) -> list[Markup]:
    unit = "nats" if info.in_nats else "score"
    settings = info.settings
    draws = f", {settings.num_probes} draws an image" if settings.num_probes else ""
    origin = (
        f"Scorer {settings.scorer}: {info.estimator}. {info.images.num_images:,} images of {info.images.name}, "
        f"seed {settings.seed}{draws}."
    )
    figures = []
    if info.heads_mean:
        drawn = head_scores_map(info.heads_mean, info.heads_stderr, unit)
        figures.append(figure(f"{title}Worth of each head, {unit}", drawn, note=f"{LOG_NOTE} {origin}"))
    if info.site_mean:
        drawn = site_scores_plot(info.site_mean, info.site_stderr, info.shape.depth, unit)
        figures.append(figure(f"{title}Mean worth of a token at each site", drawn, note=f"{ERROR_NOTE} {origin}"))
    found = [cards(*figures)]
    if info.calibration:
        lines = [_line(one) for one in info.calibration]
        found.append(plain_table(CALIBRATION_HEADINGS, lines, f"{title}Predicted against measured loss"))
    if info.drop_curves:
        found.append(_drops(info.drop_curves, title))
    if info.calibration or info.drop_curves:
        return found
    if not info.in_nats:
        found.append(missing(f"{title}Scorer {settings.scorer} ranks; it predicts no loss that could be checked."))
    else:
        found.append(missing(f"{title}The predicted loss was not checked: no images were held out."))
    return found


def _drops(curves: Sequence[DropCurve], title: str) -> Markup:
    """Return a table with a line a site and a column a number of tokens dropped."""
    counts = sorted({count for curve in curves for count in curve.num_dropped})
    lines = []
    for curve in curves:
        pairs = zip(curve.predicted_nats, curve.measured_nats, strict=True)
        told = dict(zip(curve.num_dropped, pairs, strict=True))
        cells = [f"{score_text(told[n][0])}, measured {score_text(told[n][1])}" if n in told else None for n in counts]
        lines.append([f"block {curve.site}, {curve.num_images} held-out images", *cells])
    headings = ("Site: sum of scores, nats", *(f"{count} least-scored tokens dropped" for count in counts))
    return plain_table(headings, lines, f"{title}Loss of dropping a site's least-scored tokens")


def _line(found: Calibration) -> list[str]:
    return [
        REMOVED[found.component],
        f"{found.num_points:,} on {found.num_images} held-out images",
        score_text(found.spearman),
        f"{score_text(found.scale)} {TIMES} predicted to the power {score_text(found.exponent)}",
        score_text(found.r_squared),
        score_text(found.median_factor),
    ]
