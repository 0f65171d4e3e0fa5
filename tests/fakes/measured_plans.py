"""A model whose loss is a known function of its plan, in place of one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from fakes.small_plans import SHAPE
from numpy.typing import NDArray

from heartvit_edge.allocation.accept import DecidingImages, PlanningImages
from heartvit_edge.allocation.problem import Problem, Resource
from heartvit_edge.spec.model import ImageSetRef, ModelShape
from heartvit_edge.spec.plan import BlockPlan


@dataclass(frozen=True)
class World:
    """Losses of each image: every block adds what its missing tokens, heads and unit groups are worth.

    With S the sum over blocks, an image loses ``floor + scale * (S + bend * S ** 2)``: where there is a bend, what
    single steps add does not add up.

    Attributes:
        tokens: What a block's missing tokens are worth, all together, shape (images, depth).
        heads: What each head is worth, shape (images, depth, num_heads).
        units: What each unit group is worth, shape (images, depth, groups).
        power: Share of missing tokens to this power is what is lost of ``tokens``; above 1 the first go cheaply.
        bend: See above.
        scale: See above.
        floor: See above.
        shape: The dense model.
    """

    tokens: NDArray[np.float64]
    heads: NDArray[np.float64]
    units: NDArray[np.float64]
    power: float = 2.0
    bend: float = 0.0
    scale: float = 1.0
    floor: float = 0.0
    shape: ModelShape = SHAPE

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        num_images: int = 24,
        images_seed: int = 0,
        spread: float = 0.3,
        unit_groups: int = 0,
        shape: ModelShape = SHAPE,
        **fields: float,
    ) -> World:
        """Return a world of ``seed`` on images of ``images_seed``, which differ by factors of about 1 +- ``spread``."""
        worlds, images = np.random.default_rng(seed), np.random.default_rng((seed, images_seed))

        def drawn(*size: int) -> NDArray[np.float64]:
            mean = worlds.lognormal(-1, 0.7, size)
            return mean * images.lognormal(-(spread**2) / 2, spread, (num_images, *size))

        return cls(
            tokens=drawn(shape.depth),
            heads=0.3 * drawn(shape.depth, shape.num_heads),
            units=0.3 * drawn(shape.depth, unit_groups),
            shape=shape,
            **fields,
        )

    def losses(self, blocks: Sequence[BlockPlan]) -> NDArray[np.float64]:
        """Return the loss of each image, shape (images,)."""
        total = sum(self._block(index, block) for index, block in enumerate(blocks))
        return self.floor + self.scale * (total + self.bend * total**2)

    def _block(self, index: int, block: BlockPlan) -> NDArray[np.float64]:
        missing = (self.shape.num_tokens - block.num_tokens) / self.shape.num_patches
        heads = np.delete(self.heads[:, index], block.kept_heads, axis=1).sum(axis=1)
        kept = range(self.units.shape[2]) if block.kept_units is None else block.kept_units
        units = np.delete(self.units[:, index], list(kept), axis=1).sum(axis=1)
        return self.tokens[:, index] * missing**self.power + heads + units

    def problem(self, sites: tuple[int, ...], candidates: tuple[int, ...], resources: tuple[Resource, ...]) -> Problem:
        """Return the problem whose predicted loss is the mean of S over images, exactly."""
        missing = (self.shape.num_tokens - np.array(candidates)) / self.shape.num_patches
        ends = (*sites[1:], self.shape.depth)
        tokens = [
            self.tokens[:, start:end].sum(axis=1).mean() * missing**self.power
            for start, end in zip(sites, ends, strict=True)
        ]
        groups = max(self.units.shape[2], 1)
        return Problem(
            depth=self.shape.depth,
            sites=sites,
            candidates=candidates,
            token_loss=np.array(tokens),
            head_loss=_by_count(self.heads.mean(axis=0), self.shape.num_heads),
            unit_loss=_by_count(self.units.mean(axis=0), groups),
            resources=resources,
        )

    def images(
        self, name: str, *, counted: list[Sequence[BlockPlan]] | None = None, deciding: World | None = None
    ) -> PlanningImages:
        """Return the world's images as plans run on them; each plan that runs is added to ``counted``.

        Images of a world ``deciding`` decide between plans, in one part.
        """

        def run(blocks: Sequence[BlockPlan]) -> Answers:
            if counted is not None:
                counted.append(blocks)
            return Answers(self, tuple(blocks))

        ref = ImageSetRef(name=name, num_images=len(self.tokens), sha256="7" * 64, labelled=False)
        if deciding is None:
            return PlanningImages(ref, run)
        others = deciding.images("deciding", counted=counted)
        return PlanningImages(ref, run, deciding=DecidingImages(others.ref, (others.run,)))


def _by_count(worth: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """Return the loss of the least that go, by how many, shape (depth, columns)."""
    sums = np.cumsum(np.sort(worth, axis=1), axis=1)
    return np.concatenate([np.zeros((len(worth), 1)), sums], axis=1)[:, :columns]


@dataclass(frozen=True)
class Answers:
    """A plan that ran in a world; every tenth image disagrees with the dense model."""

    world: World
    blocks: tuple[BlockPlan, ...]
    losses: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Run."""
        object.__setattr__(self, "losses", self.world.losses(self.blocks))

    @property
    def num_agreeing(self) -> int:
        """Images whose first class is the dense model's."""
        return len(self.losses) - len(self.losses) // 10

    def measure(self, variants: Sequence[Sequence[BlockPlan]]) -> NDArray[np.float64]:
        """Return the losses of other plans, shape (plans, images)."""
        return np.array([self.world.losses(blocks) for blocks in variants]).reshape(len(variants), len(self.losses))
