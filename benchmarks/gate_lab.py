"""Which inputs, layers and losses of a gate pay: networks that learn one site each from the same examples.

    python -m benchmarks.gate_lab --shared DATA --work FOLDER --plan tokens.json --sites 1 4 9

Every variant learns from training images what removal costs and ranks others. What counts is the share of the scores'
sum that the tokens kept hold, set between what chance keeps (0 %) and the most there is (100 %). Examples are those of
``benchmarks.gates`` in the same folder.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import dinov2
from benchmarks.claims import Claim, arguments, finish
from benchmarks.gates import IMG_SIZE, folder_of, load_examples
from heartvit_edge.data.split import split
from heartvit_edge.gating.distil import DistilSettings, distil, site_quality
from heartvit_edge.gating.examples import SiteExamples
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import SiteNetwork, make_token_gate
from heartvit_edge.spec.plan import PruningPlan

THIN = 16
"""Width of the attention layer that is tried."""
REGRESSION_ALONE = 1e4
"""So heavy that the ranking counts no more; AdamW minds no factor on the loss."""


class Alone(SiteNetwork):
    """Sees each token, neither class token nor mean token."""

    def __init__(self, *args: int, has_prefix: bool) -> None:
        """Draw the weights anew."""
        super().__init__(*args, has_prefix=has_prefix)
        nn.init.zeros_(self.summary.weight).requires_grad_(False)


class Attending(SiteNetwork):
    """Has one thin attention layer among patches before its hidden layer."""

    def __init__(self, embed_dim: int, hidden: int, *, has_prefix: bool) -> None:
        """Draw the weights anew."""
        super().__init__(embed_dim, hidden, has_prefix=has_prefix)
        self.query_key_value, self.mixed = nn.Linear(embed_dim, 3 * THIN), nn.Linear(THIN, embed_dim)
        nn.init.zeros_(self.mixed.weight)

    def forward(self, tokens: Tensor, *, num_prefix: int) -> Tensor:
        """Return scores as ``SiteNetwork`` does."""
        query, key, value = self.query_key_value(functional.layer_norm(tokens, tokens.shape[-1:])).chunk(3, dim=-1)
        mixed = self.mixed(functional.scaled_dot_product_attention(query, key, value))
        return super().forward(tokens + mixed, num_prefix=num_prefix)


class Neighbours(SiteNetwork):
    """Adds a 3 x 3 depthwise convolution over the grid of patches, where none is gone yet."""

    def __init__(self, embed_dim: int, hidden: int, *, has_prefix: bool) -> None:
        """Draw the weights anew."""
        super().__init__(embed_dim, hidden, has_prefix=has_prefix)
        self.around = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)
        nn.init.zeros_(self.around.weight)

    def forward(self, tokens: Tensor, *, num_prefix: int) -> Tensor:
        """Return scores as ``SiteNetwork`` does."""
        patches = tokens[:, num_prefix:]
        side = math.isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        patches = patches + self.around(grid).flatten(2).transpose(1, 2)
        return super().forward(torch.cat([tokens[:, :num_prefix], patches], dim=1), num_prefix=num_prefix)


@dataclass(frozen=True)
class Variant:
    """What differs from the gate that is shipped.

    Attributes:
        name: What the table calls it.
        network: The network of a site.
        settings: Fields of ``DistilSettings``.
        share: Share of the images that it learns from.
        whole_grid: Whether it needs every patch of the grid.
    """

    name: str
    network: Callable[..., SiteNetwork] = SiteNetwork
    settings: Mapping[str, float] = field(default_factory=dict)
    share: float = 1.0
    whole_grid: bool = False


VARIANTS = (
    Variant("as shipped"),
    Variant("no class and mean token", Alone),
    Variant("and one thin attention layer", Attending),
    Variant("and a convolution over neighbours", Neighbours, whole_grid=True),
    Variant("ranking alone", settings={"regression": 0.0}),
    Variant("regression alone", settings={"regression": REGRESSION_ALONE}),
    Variant("a quarter of the images", share=0.25),
)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of examples, as of benchmarks.gates")
    parser.add_argument("--plan", type=Path, required=True, help="a plan, made with the scores choosing")
    parser.add_argument("--sites", type=int, nargs="+", required=True, help="sites of the plan's to learn")
    parser.add_argument("--learnt", type=int, default=8000, help="training images that gates learn from")
    parser.add_argument("--held-out", type=int, default=500, help="training images that show how well they rank")
    parser.add_argument("--epochs", type=int, default=DistilSettings().epochs, help="passes over the examples")
    args = parser.parse_args()
    dense = dinov2.load_model(args.shared, IMG_SIZE)
    plan = PruningPlan.read(args.plan)
    learnt, held_out = split(dinov2.draw(args.shared, "train", args.learnt + args.held_out, 17), args.learnt, 0)
    assert held_out is not None
    gate = make_token_gate(plan)
    model = GatedViT(dense.module, plan, gate)
    folder = folder_of(args.work, plan)
    learns = _only(load_examples(dense, model, learnt, folder / "learnt"), args.sites)
    judges = _only(load_examples(dense, model, held_out, folder / "held_out"), args.sites)
    rows = []
    for variant in VARIANTS:
        for site in args.sites:
            if not variant.whole_grid or math.isqrt(judges[site].scores.shape[1]) ** 2 == judges[site].scores.shape[1]:
                rows.append(_row(variant, plan, site, learns[site], judges[site], model.num_keep[site], args))
    claims = [
        Claim(f"block {row['site']}: {row['variant']}, % of the way from chance", row["from_chance"]) for row in rows
    ]
    finish(claims, {"rows": rows, "learnt": args.learnt, "held_out": args.held_out, "epochs": args.epochs}, args)


def _only(examples: Mapping[int, SiteExamples], sites: list[int]) -> dict[int, SiteExamples]:
    return {site: examples[site] for site in sites}


def _row(
    variant: Variant,
    plan: PruningPlan,
    site: int,
    learnt: SiteExamples,
    held_out: SiteExamples,
    num_keep: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    torch.manual_seed(0)
    gate = make_token_gate(plan)
    hidden = gate.network(site).hidden.in_features
    gate.networks[str(site)] = variant.network(plan.shape.embed_dim, hidden, has_prefix=gate.num_prefix > 0)
    count = int(variant.share * len(learnt))
    learnt = SiteExamples(learnt.tokens[:count], learnt.scores[:count])
    start = time.monotonic()
    distil(gate, [{site: learnt}], DistilSettings(epochs=args.epochs, **variant.settings))  # type: ignore[arg-type]
    seconds = time.monotonic() - start
    found, own = (site_quality(gate, site, one, num_keep) for one in (held_out, learnt))
    chance = num_keep / held_out.scores.shape[1]
    kept = 100 * (found.mass_kept - chance) / (found.best_mass_kept - chance)
    print(
        f"block {site:2}  {variant.name:34} mass {found.mass_kept:.4f} of {found.best_mass_kept:.4f}, of images learnt "
        f"from {own.mass_kept:.4f}: {kept:.1f} % of the way from chance, {seconds:.0f} s",
        flush=True,
    )
    return {
        "variant": variant.name,
        "site": site,
        "mass_kept": found.mass_kept,
        "best_mass_kept": found.best_mass_kept,
        "mass_kept_of_learnt": own.mass_kept,
        "from_chance": kept,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
