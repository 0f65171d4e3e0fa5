"""The sensitivity map: what each token, head and MLP unit is worth."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing

Scorer = Literal[
    "removal-gate",
    "heart-literal",
    "fisher-mc",
    "taylor",
    "class-attention",
    "attention-received",
    "token-norm",
    "magnitude",
    "random",
]
Component = Literal["token", "head", "token-set", "token-set-path"]


class ScoreSettings(Spec):
    """What was asked of the scorer; equal settings on equal inputs give equal scores.

    Attributes:
        scorer: Name of the scorer.
        sites: Blocks before which tokens may be dropped, ascending; block 0 is never a site.
        num_probes: Random draws an image for the stochastic estimators (Monte-Carlo Fisher, Hutchinson); None where
            the estimator is exact.
        unit_groups: Groups of neighbouring MLP hidden units a block that are scored; 0: none.
        seed: Seed of every draw.
    """

    scorer: Scorer = "removal-gate"
    sites: tuple[PositiveInt, ...]
    num_probes: PositiveInt | None = None
    unit_groups: NonNegativeInt = 0
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.sites or list(self.sites) != sorted(set(self.sites)):
            raise ValueError(f"sites must be ascending and not empty, found {self.sites}")
        return self


class Calibration(Spec):
    """How predicted loss relates to measured loss, for one kind of component, on held-out images.

    The correction is measured = scale * predicted ** exponent, both in nats, fitted by least squares on logarithms.

    Attributes:
        component: ``token``: one token removed. ``head``: one head removed. ``token-set``: a random share of tokens,
            predicted by one Hessian-vector product at the dense model. ``token-set-path``: the same sets, predicted
            from logits linearised on the way to the removal.
        scale: Factor of the correction.
        exponent: Power of the correction.
        spearman: Rank correlation of predicted and measured, in [-1, 1].
        r_squared: Share of the variance of log measured that the correction explains, on the points it was fitted to.
        median_factor: Median of max(corrected / measured, measured / corrected) over images left out of the fit in
            turn (leave one image out).
        num_points: Removals measured.
        num_images: Held-out images of those points, at least two.
    """

    component: Component
    scale: PositiveFloat
    exponent: PositiveFloat
    spearman: float = Field(ge=-1, le=1)
    r_squared: float = Field(le=1)
    median_factor: float = Field(ge=1)
    num_points: PositiveInt
    num_images: PositiveInt

    def correct(self, predicted_nats: float) -> float:
        """Return the loss to be expected, in nats, where ``predicted_nats`` >= 0 is predicted."""
        return float(self.scale * predicted_nats**self.exponent)


class DropCurve(Spec):
    """Loss of dropping a site's least-scored tokens, as a whole: predicted by the sum of scores, and measured.

    The correction is measured = scale * predicted ** exponent, fitted to the means over held-out images.

    Attributes:
        site: Block before which the tokens go.
        num_dropped: Tokens dropped, ascending.
        predicted_nats: Mean over images of the sum of the dropped tokens' scores.
        measured_nats: Mean over images of KL(dense || without), in nats.
        scale: Factor of the correction.
        exponent: Power of the correction.
        num_images: Held-out images.
    """

    site: PositiveInt
    num_dropped: tuple[PositiveInt, ...]
    predicted_nats: tuple[PositiveFloat, ...]
    measured_nats: tuple[PositiveFloat, ...]
    scale: PositiveFloat
    exponent: PositiveFloat
    num_images: PositiveInt

    def correct(self, predicted_nats: float) -> float:
        """Return the loss to be expected, in nats, where the dropped tokens' scores sum to ``predicted_nats`` >= 0."""
        return float(self.scale * predicted_nats**self.exponent)


class SensitivityMap(Artefact):
    """Scores of one model on one image set: ``sensitivity.json`` with its arrays in ``sensitivity.npz``.

    The arrays (float32, one row an image, in image order) are ``tokens_<site>`` (images, num_patches), ``heads``
    (images, depth, num_heads) and ``units`` (images, depth, groups); a stochastic estimator adds ``<name>_stderr``.
    What the scorer does not score has no array.

    Attributes:
        source: The dense model.
        shape: Its dimensions.
        preprocessing: How the images became inputs.
        images: The scored images.
        labels_sha256: Hash of the labels that the scorer read (int64, little-endian); None where it read none.
        settings: What was asked of the scorer.
        estimator: How the scores came about, in words.
        in_nats: Whether a score is a predicted loss in nats; otherwise it only ranks.
        arrays: File name of the arrays, relative to this file.
        arrays_sha256: Its hash.
        heads_mean: Mean over images, (depth, num_heads); empty where heads are not scored.
        heads_stderr: Standard error of those means over images.
        units_mean: Mean over images, (depth, groups); empty where units are not scored.
        units_stderr: Standard error of those means over images.
        site_mean: Mean score of a token at each site.
        site_stderr: Standard error of those means over images.
        calibration: Predicted against measured loss on held-out images; empty where it was not asked for.
        drop_curves: Loss of dropping whole shares of a site's tokens, on held-out images; what plans are corrected by.
        calibration_images: The held-out images; None where there are none.
    """

    schema_name: ClassVar[str] = "sensitivity-map"

    source: ModelSource
    shape: ModelShape
    preprocessing: Preprocessing
    images: ImageSetRef
    settings: ScoreSettings
    estimator: str
    in_nats: bool
    arrays: str
    arrays_sha256: str
    heads_mean: tuple[tuple[float, ...], ...] = ()
    heads_stderr: tuple[tuple[NonNegativeFloat, ...], ...] = ()
    units_mean: tuple[tuple[float, ...], ...] = ()
    units_stderr: tuple[tuple[NonNegativeFloat, ...], ...] = ()
    site_mean: dict[int, float] = Field(default_factory=dict)
    site_stderr: dict[int, NonNegativeFloat] = Field(default_factory=dict)
    calibration: tuple[Calibration, ...] = ()
    drop_curves: tuple[DropCurve, ...] = ()
    calibration_images: ImageSetRef | None = None
    labels_sha256: str | None = None

    @model_validator(mode="after")
    def _sites_exist(self) -> Self:
        if self.settings.sites[-1] >= self.shape.depth:
            raise ValueError(f"site {self.settings.sites[-1]} is past the last block {self.shape.depth - 1}")
        return self

    def calibration_of(self, component: Component) -> Calibration | None:
        """Return the correction for that kind of component; None where there is none."""
        return next((found for found in self.calibration if found.component == component), None)
