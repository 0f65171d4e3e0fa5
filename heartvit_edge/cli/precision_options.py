"""The options of ``export`` that say in which precisions graphs are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.cli.engine_options import PrecisionName
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.data.images import ImageSet
    from heartvit_edge.export.precision import Precisions
    from heartvit_edge.spec.model import Preprocessing

CALIBRATION_IMAGES = 128
INT8_LOSS = 0.01


class CalibrationName(str, Enum):
    """What can decide the range of an activation."""

    entropy = "entropy"
    percentile = "percentile"
    minmax = "minmax"


Precision = Annotated[
    list[PrecisionName] | None,
    typer.Option(
        help="Write each graph in this precision too, beside FP32, which is always written; repeat for more.",
        show_default="fp32",
    ),
]
Calibration = Annotated[
    CalibrationName | None,
    typer.Option(
        help="INT8: what decides the range of each activation: the least divergence from its distribution, 99.99 % of "
        "its values, or all of them.",
        show_default="minmax",
    ),
]
CalibrationImages = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="INT8: scored images that ranges and losses are measured on.",
        show_default=str(CALIBRATION_IMAGES),
    ),
]
Int8Loss = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="NATS",
        help="INT8: layers go back to FP32, the most harmful first, until no more than this is lost, in mean KL.",
        show_default=str(INT8_LOSS),
    ),
]


def check_asked(
    asked: Sequence[PrecisionName] | None,
    calibration: CalibrationName | None,
    calibration_images: int | None,
    int8_loss: float | None,
) -> None:
    """Return only if options of INT8 are given with INT8 alone, and the loss is a number.

    Raises:
        InputError: If one is not so.
    """
    int8_options = {"calibration": calibration, "calibration_images": calibration_images, "int8_loss": int8_loss}
    if int8_loss is not None and not math.isfinite(int8_loss):
        raise InputError(f"--int8-loss is {int8_loss}, expected nats", hint=f"--int8-loss {INT8_LOSS}")
    given = [name for name, value in int8_options.items() if value is not None]
    if given and PrecisionName.int8 not in (asked or ()):
        option = "--" + given[0].replace("_", "-")
        raise InputError(f"{option} is for INT8, which is not asked for", hint="--precision int8")


def choose_precisions(
    asked: Sequence[PrecisionName] | None,
    calibration: CalibrationName | None,
    calibration_images: int | None,
    int8_loss: float | None,
    scored: ImageSet,
    preprocessing: Preprocessing,
    batch_size: int,
    num_compared: int,
    fixed_batch: int | None = None,
) -> Precisions:
    """Return what is to be written besides FP32; INT8 gets scored images to calibrate on.

    Args:
        asked: From the command line; each of the options after it may be None for its default.
        calibration: What decides the range of each activation.
        calibration_images: Images to calibrate on.
        int8_loss: Most that INT8 may lose.
        scored: The scored images.
        preprocessing: How they become inputs.
        batch_size: Images a batch.
        num_compared: The first so many scored images are those that graphs are compared on.
        fixed_batch: The batch of the graphs, where it is a constant: images fill whole batches then.
    """
    from heartvit_edge.data.preprocess import preprocess
    from heartvit_edge.export.fixed_batch import count_images
    from heartvit_edge.export.precision import Precisions

    both: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
    others = tuple(name for name in both if name in {option.value for option in asked or ()})
    if "int8" not in others:
        return Precisions(others)
    whole = fixed_batch or 1
    wanted = -(-(calibration_images or CALIBRATION_IMAGES) // whole) * whole
    compared = num_compared if len(scored) - num_compared >= wanted else 0
    if not compared:
        say(
            f"INT8 wants {wanted} images to be calibrated on beside the {num_compared} that it is compared on, there "
            f"are {len(scored)} in all: it takes of the same ones; score more with --num-images"
        )
    count = count_images(wanted, len(scored) - compared, fixed_batch)
    # spread, for images come class by class
    chosen = (compared + number * (len(scored) - compared) // count for number in range(count))
    images = preprocess((scored.read(index) for index in chosen), preprocessing, batch_size)
    return Precisions(
        others,
        (calibration or CalibrationName.minmax).value,
        INT8_LOSS if int8_loss is None else int8_loss,
        [{"images": batch} for batch in images],
    )
