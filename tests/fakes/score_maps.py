"""A sensitivity map whose figures are easy to find again, for the model of ``fakes.tiny_pack``."""

from __future__ import annotations

from fakes.runs import SHAPE, make_pack
from fakes.tiny_pack import SOURCE

from heartvit_edge.spec.model import ImageSetRef, Preprocessing
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.sensitivity import Calibration, DropCurve, ScoreSettings, SensitivityMap

HEADS_MEAN = ((0.001, 0.01), (0.1, -0.002), (0.0316227766, 0.02))  # three blocks of two heads
HEADS_STDERR = ((0.0001, 0.0002), (0.003, 0.0004), (0.0005, 0.0006))
IMAGES = ImageSetRef(name="shapes.npz", num_images=64, sha256="4" * 64, labelled=True, seed=0)


def make_map(**fields: object) -> SensitivityMap:
    """Return a map of heads and of sites 1 and 2, calibrated for tokens; ``fields`` replace its own."""
    given = SensitivityMap(
        source=SOURCE,
        shape=SHAPE,
        preprocessing=Preprocessing(
            img_size=32,
            interpolation="bilinear",
            crop_pct=1.0,
            crop_mode="center",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        images=IMAGES,
        settings=ScoreSettings(sites=(1, 2)),
        estimator="exact Fisher diagonal",
        in_nats=True,
        arrays="sensitivity.npz",
        arrays_sha256="5" * 64,
        heads_mean=HEADS_MEAN,
        heads_stderr=HEADS_STDERR,
        site_mean={1: 0.004, 2: 0.001},
        site_stderr={1: 0.0005, 2: 0.0001},
        calibration=(
            Calibration(
                component="token",
                scale=1.25,
                exponent=0.875,
                spearman=0.912,
                r_squared=0.734,
                median_factor=1.42,
                num_points=128,
                num_images=8,
            ),
        ),
        drop_curves=(
            DropCurve(
                site=1,
                num_dropped=(2, 8),
                predicted_nats=(0.0125, 0.25),
                measured_nats=(0.0375, 0.875),
                scale=3.0,
                exponent=1.0,
                num_images=8,
            ),
            DropCurve(
                site=2,
                num_dropped=(2,),
                predicted_nats=(0.5,),
                measured_nats=(0.75,),
                scale=1.5,
                exponent=1.0,
                num_images=8,
            ),
        ),
        calibration_images=IMAGES.model_copy(update={"num_images": 8}),
    )
    return given.model_copy(update=fields)


def scored_pack(name: str = "tiny_vit", **fields: object) -> BudgetPack:
    """Return the pack of ``fakes.runs`` with that map in it."""
    return make_pack(name).model_copy(update={"sensitivity": make_map(**fields)})
