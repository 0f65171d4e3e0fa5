"""A few images with the patches that each entry keeps."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.layout import missing, section
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_patches import patch_map, shared_images
from heartvit_edge.spec.evaluation import Evaluation, SampleImage

HEADING = "Which patches are kept"
LEGEND = (
    "Outlined patches are kept to the end. The rest is veiled: the darker, the earlier it was dropped; point at a "
    "patch to read where. Each entry's own answer stands under its map."
)


def samples(runs: Sequence[Run], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return the maps of every run that was evaluated; of several, each under its label.

    Runs that share an evaluation, as those of several power modes do, share its maps.
    """
    alike: list[list[Run]] = []
    for run in runs:
        same = next((group for group in alike if _shows_the_same(group[0], run)), None)
        if same is None:
            alike.append([run])
        else:
            same.append(run)
    parts = []
    for index, group in enumerate(alike):
        if len(runs) > 1:
            parts.append(element("h3", escaped(", ".join(run.label for run in group)), class_="run-name"))
        parts += _of_run(group[0], styles, f"r{index}")
    return section("patches", HEADING, *parts, intro=LEGEND)


def _shows_the_same(one: Run, other: Run) -> bool:
    if one.evaluation is None or other.evaluation is None or (one.pack is None) != (other.pack is None):
        return False
    return _shown(one.evaluation) == _shown(other.evaluation)


def _shown(evaluation: Evaluation) -> tuple[object, ...]:
    return evaluation.samples, evaluation.classes, [answers.entry for answers in evaluation.entries]


def _of_run(run: Run, styles: dict[tuple[str, str], Series], prefix: str) -> list[Markup]:
    evaluation = run.evaluation
    if evaluation is None:
        return [missing("The run was not evaluated: heartvit-edge evaluate stores sample images.")]
    if run.pack is None:
        return [missing("The patch grid is stored in measurement.json, which heartvit-edge bench makes.")]
    if not evaluation.samples:
        return [missing("The evaluation stored no sample image.")]
    grid_size = run.pack.shape.grid_size
    held = shared_images([(f"{prefix}-{s.index}", s.png_base64) for s in evaluation.samples], grid_size)
    figures = [
        _sample(sample, f"{prefix}-{sample.index}", evaluation, grid_size, styles, run.label)
        for sample in evaluation.samples
    ]
    return [held, element("div", *figures, class_="samples")]


def _sample(
    sample: SampleImage,
    image_id: str,
    evaluation: Evaluation,
    grid_size: int,
    styles: dict[tuple[str, str], Series],
    run: str,
) -> Markup:
    maps = []
    for answers in evaluation.entries:
        entry = answers.entry
        kept = sample.kept.get(entry, ())
        colour = styles[run, entry].colour
        final = len(max(kept)[1]) if kept else grid_size**2
        label = f"Image {sample.index}, {entry}: {final} of {grid_size**2} patches kept to the end"
        maps.append(
            element(
                "div",
                patch_map(image_id, label, kept, grid_size, colour),
                element("p", element("span", class_=f"dot {colour}", aria_hidden="true"), escaped(entry)),
                _answer(sample, entry, evaluation.classes),
                class_="map",
            )
        )
    if sample.label is None:
        heading = f"Image {sample.index}, no label"
    else:
        heading = f"Image {sample.index}, label: {class_name(sample.label, evaluation.classes)}"
    caption = element("figcaption", escaped(heading))
    return element("figure", caption, element("div", *maps, class_="maps"), class_="card sample")


def class_name(index: int, classes: Sequence[str]) -> str:
    """Return the class's name, or its number where names are unknown."""
    return classes[index] if index < len(classes) else f"class {index}"


def _answer(sample: SampleImage, entry: str, classes: Sequence[str]) -> Markup:
    predicted = sample.predictions.get(entry)
    if predicted is None:
        return element("p", escaped("no answer stored"), class_="answer")
    name = class_name(predicted, classes)
    if sample.label is None:
        return element("p", escaped(name), class_="answer")
    right = predicted == sample.label
    sign = element("span", escaped("✓ " if right else "✗ "), aria_label="right: " if right else "wrong: ", role="img")
    return element("p", sign, escaped(name), class_=f"answer {'right' if right else 'wrong'}")
