"""Figures with what they must reach: a table for a person, JSON for a machine, and an exit code for a check."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from heartvit_edge.spec.files import new_file


@dataclass(frozen=True)
class Claim:
    """One figure.

    Attributes:
        name: What it is, with its unit.
        value: What was measured.
        low: Lower end of its 95 % interval; None without one.
        high: Upper end.
        at_least: What it must not fall below; None where nothing is asked.
        at_most: What it must not exceed; None where nothing is asked.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure reaches what it must."""
        enough = self.at_least is None or self.value >= self.at_least
        return enough and (self.at_most is None or self.value <= self.at_most)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder of the development data")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures, replaced")
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure falls short")
    return parser


def finish(claims: list[Claim], details: dict[str, object], args: argparse.Namespace) -> None:
    """Print the claims, write them with the details as JSON, and exit 1 where one fails under ``--check``."""
    width = max(len(claim.name) for claim in claims)
    for claim in claims:
        interval = "" if claim.low is None or claim.high is None else f" [{claim.low:.3g}, {claim.high:.3g}]"
        wanted = "" if claim.at_least is None else f"  at least {claim.at_least:g}"
        wanted += "" if claim.at_most is None else f"  at most {claim.at_most:g}"
        verdict = "" if not wanted else ("  ok" if claim.holds else "  FALLS SHORT")
        print(f"{claim.name:<{width}}  {claim.value:.4g}{interval}{wanted}{verdict}")
    options = {
        key: _as_text(value) for key, value in vars(args).items() if key not in ("shared", "out", "check", "work")
    }
    content = {
        "program": Path(sys.argv[0]).name,
        "options": options,
        "machine": f"{platform.system()} {platform.machine()}, {platform.processor() or 'unknown processor'}",
        "claims": [asdict(claim) | {"holds": claim.holds} for claim in claims],
        "details": details,
    }
    with new_file(args.out, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    if args.check and not all(claim.holds for claim in claims):
        sys.exit(1)


def _as_text(option: object) -> str:
    """Return what an option was given, files by their names alone: folders differ from machine to machine."""
    if isinstance(option, list):
        return " ".join(_as_text(one) for one in option)
    return option.name if isinstance(option, Path) else str(option)
