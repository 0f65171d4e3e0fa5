"""``heartvit-edge quickstart``: train a small ViT on real digits, then run the tool's own commands on it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import progress_bar, say
from heartvit_edge.errors import CheckError, HeartViTError, InfeasibleError, InputError, MachineError
from heartvit_edge.spec.files import refuse_existing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EPOCHS = 28
MIN_ACCURACY = 0.95
BUDGETS = ("1.0", "0.7", "0.5")

TRAIN, TEST = "digits_train.npz", "digits_test.npz"
WEIGHTS = "digits_vit.safetensors"
REPORT = "report.html"
_MADE = (TRAIN, TEST, WEIGHTS, "pack", "pack.scores", "engines", "run", REPORT)

Runner = Callable[[Sequence[str]], int]


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.", show_default=False)],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training digits.")] = EPOCHS,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier quickstart made in OUT.")] = False,
) -> None:
    """Train a small ViT on 1,297 handwritten digits, then prune it, build engines, evaluate, bench and report.

    Every command is shown as you would type it. Prints the path of the report.

    Example: heartvit-edge quickstart --out demo
    """
    from heartvit_edge.cli.requirements import commands

    if lack := commands()["quickstart"]():
        raise lack
    make_room(out, force=force)
    train_digits(out, epochs=epochs, seed=seed)
    run_steps(steps(out), run_in_subprocess)
    typer.echo(out / REPORT)


def make_room(out: Path, *, force: bool) -> None:
    """Remove what an earlier quickstart made in ``out``, and nothing else.

    Raises:
        InputError: If ``out`` exists and ``force`` is not set, or is no folder, or cannot be emptied.
    """
    refuse_existing(out, force=force)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder or nothing", hint="name another place: --out demo")
    try:
        for made in (out / name for name in _MADE):
            if made.is_dir() and not made.is_symlink():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
    except OSError as err:
        raise InputError(f"cannot remove {err.filename}: {err.strerror}") from err


def train_digits(out: Path, *, epochs: int, seed: int) -> None:
    """Write the digits and a ViT trained on them into ``out``, with a bar on stderr.

    Raises:
        CheckError: If fewer than 95 % of the test digits are recognised; no weights are written then.
        InputError: If ``out`` cannot be written.
    """
    from heartvit_edge.data.digits import write_digits
    from heartvit_edge.model.digits_training import train_digits_vit, write_weights

    train, test = (_inputs(path) for path in write_digits(out))
    with progress_bar(f"training a small ViT on {len(train[0])} digits", epochs) as advance:
        trained = train_digits_vit(train, test, epochs=epochs, seed=seed, progress=lambda *_: advance(1))
    say(f"top-1 on {len(test[0])} held-out digits: {trained.test_accuracy:.1%}")
    if trained.test_accuracy < MIN_ACCURACY:
        raise CheckError(
            f"after {epochs} epochs {trained.test_accuracy:.1%} of the test digits are recognised, "
            f"expected at least {MIN_ACCURACY:.0%}",
            hint=f"heartvit-edge quickstart --out {shlex.quote(str(out))} --epochs {max(EPOCHS, 2 * epochs)} --force",
        )
    write_weights(trained.module, out / WEIGHTS)


def _inputs(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the preprocessed images, shape (N, 3, 32, 32), and labels, shape (N,), of a labelled npz file."""
    import numpy as np

    from heartvit_edge.data.images import load_images
    from heartvit_edge.data.preprocess import preprocess
    from heartvit_edge.model.digits_training import PREPROCESSING

    images = load_images(path)
    if images.labels is None:
        raise ValueError(f"{path} has no labels")
    return np.concatenate(list(preprocess(images, PREPROCESSING, 256))), images.labels


def steps(out: Path) -> list[list[str]]:
    """Return the commands that lead from the trained model to the report, each as the arguments of heartvit-edge."""
    from heartvit_edge.model.digits_training import IMG_SIZE, MODEL_KWARGS, MODEL_NAME

    pack, engines, run = str(out / "pack"), str(out / "engines"), str(out / "run")
    kwargs = [part for key, value in MODEL_KWARGS.items() for part in ("--model-kwargs", f"{key}={value}")]
    budgets = [part for budget in BUDGETS for part in ("--budget", budget)]
    model = [MODEL_NAME, "--weights", str(out / WEIGHTS), *kwargs, "--img-size", str(IMG_SIZE)]
    return [
        ["export", *model, "--data", str(out / TRAIN), "--num-images", "256", *budgets, "--out", pack],
        ["build-engine", pack, "--engines", engines, "--backend", "onnxruntime"],
        ["evaluate", pack, "--engines", engines, "--data", str(out / TEST), "--out", run],
        ["bench", pack, "--engines", engines, "--duration", "2", "--out", run],
        ["report", run, "--out", str(out / REPORT)],
    ]


def run_steps(commands: Sequence[Sequence[str]], runner: Runner) -> None:
    """Show each command as it would be typed and run it, until one fails.

    Args:
        commands: Arguments of heartvit-edge, one list a command.
        runner: Runs one such list and returns its exit code.

    Raises:
        HeartViTError: If a command fails, with that command's exit code.
    """
    for arguments in commands:
        typed = shlex.join(["heartvit-edge", *arguments])
        say(f"\n$ {typed}")
        code = runner(arguments)
        if code:
            known = {error.exit_code: error for error in (InputError, MachineError, InfeasibleError, CheckError)}
            raise known.get(code, HeartViTError)(f"the command ended with exit code {code}: {typed}")


def run_in_subprocess(arguments: Sequence[str]) -> int:
    """Run heartvit-edge with these arguments in this interpreter's environment; return its exit code."""
    return subprocess.run([sys.executable, "-m", "heartvit_edge", *arguments], check=False).returncode
