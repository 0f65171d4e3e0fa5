"""The quickstart: its commands by a fake runner, what it replaces, and how it fails."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from heartvit_edge.cli import app as command_line
from heartvit_edge.cli import quickstart, requirements
from heartvit_edge.data.digits import write_digits
from heartvit_edge.errors import CheckError, HeartViTError, InfeasibleError, InputError, MachineError
from heartvit_edge.model import digits_training


@dataclass
class FakeTrained:
    """What the training returns, with an accuracy of choice."""

    test_accuracy: float
    module: nn.Module


@pytest.fixture
def trains_to(monkeypatch):
    """Return a function that lets the training end at once with the given accuracy, and lists its settings."""

    def fake(accuracy):
        calls = []

        def train(train, test, *, epochs, seed, progress):
            assert train[0].shape == (1297, 3, 32, 32)
            assert test[0].shape == (500, 3, 32, 32)
            calls.append((epochs, seed))
            for epoch in range(epochs):
                progress(epoch + 1, 1.0)
            return FakeTrained(accuracy, nn.Linear(2, 2))

        monkeypatch.setattr(digits_training, "train_digits_vit", train)
        return calls

    return fake


@pytest.fixture
def ran(monkeypatch):
    """Collect the commands instead of running them."""
    collected = []
    monkeypatch.setattr(quickstart, "run_in_subprocess", lambda arguments: collected.append(list(arguments)) or 0)
    return collected


def test_the_commands_are_the_five_a_user_types():
    expected = """
export vit_tiny_patch16_224 --weights demo/digits_vit.safetensors --model-kwargs patch_size=4
 --model-kwargs embed_dim=64 --model-kwargs depth=6 --model-kwargs num_heads=4 --img-size 32
 --data demo/digits_train.npz --num-images 256 --budget 1.0 --budget 0.7 --budget 0.5 --out demo/pack
build-engine demo/pack --engines demo/engines --backend onnxruntime
evaluate demo/pack --engines demo/engines --data demo/digits_test.npz --out demo/run
bench demo/pack --engines demo/engines --duration 2 --out demo/run
report demo/run --out demo/report.html
"""
    found = [shlex.join(arguments) for arguments in quickstart.steps(Path("demo"))]
    assert found == expected.replace("\n ", " ").strip().splitlines()


def test_every_option_that_the_commands_use_exists(commands, tmp_path):
    for name, *arguments in quickstart.steps(tmp_path):
        with commands[name].make_context(name, list(arguments)) as context:
            assert context.args == []


def test_it_trains_writes_runs_everything_and_prints_where_the_report_lies(run_cli, trains_to, ran, tmp_path):
    trained = trains_to(0.97)
    out = tmp_path / "demo"
    done = run_cli("quickstart", "--out", out, "--epochs", "2", "--seed", "3")
    assert trained == [(2, 3)]
    assert (done.exit_code, done.stdout) == (0, f"{out}/report.html\n")
    assert ran == quickstart.steps(out)
    assert {path.name for path in out.iterdir()} == {"digits_train.npz", "digits_test.npz", "digits_vit.safetensors"}
    shown = [line for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert [shlex.split(line)[2:] for line in shown] == ran
    assert all(line.startswith("$ heartvit-edge ") for line in shown)
    assert "97.0%" in done.stderr


def test_a_folder_name_with_a_space_is_quoted_where_a_command_is_shown(run_cli, trains_to, ran, tmp_path):
    trains_to(0.97)
    done = run_cli("quickstart", "--out", tmp_path / "my demo")
    shown = next(line for line in done.stderr.splitlines() if line.startswith("$ heartvit-edge report"))
    assert shlex.split(shown)[2:] == ran[-1] == quickstart.steps(tmp_path / "my demo")[-1]


def test_an_accuracy_below_95_percent_is_a_failed_check_and_leaves_no_weights(run_cli, trains_to, ran, tmp_path):
    trains_to(0.9499)
    out = tmp_path / "demo"
    done = run_cli("quickstart", "--out", out)
    assert done.exit_code == 5
    assert "expected at least 95%" in done.stderr
    assert f"hint: heartvit-edge quickstart --out {out} --epochs {2 * quickstart.EPOCHS} --force" in done.stderr
    assert ran == []
    assert not (out / "digits_vit.safetensors").exists()


def test_an_existing_folder_is_left_as_it_is_without_force(run_cli, trains_to, ran, tmp_path):
    trains_to(0.97)
    (tmp_path / "pack").mkdir()
    done = run_cli("quickstart", "--out", tmp_path)
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    assert ran == []


def test_force_replaces_what_quickstart_made_and_nothing_else(run_cli, trains_to, ran, tmp_path):
    trains_to(0.97)
    for name in ("pack", "pack.scores", "engines", "run", "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    write_digits(tmp_path)
    assert run_cli("quickstart", "--out", tmp_path, "--force").exit_code == 0
    assert len(ran) == 5
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"photos", "notes.txt", "digits_train.npz", "digits_test.npz", "digits_vit.safetensors"}
    assert (tmp_path / "photos" / "old").read_text() == "old"


def test_force_does_not_follow_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("mine")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "pack").symlink_to(tmp_path / "elsewhere")
    quickstart.make_room(tmp_path / "demo", force=True)
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert not (tmp_path / "demo" / "pack").is_symlink()


def test_a_file_in_the_place_of_the_folder_is_refused_even_with_force(run_cli, ran, tmp_path):
    (tmp_path / "demo").write_text("mine")
    done = run_cli("quickstart", "--out", tmp_path / "demo", "--force")
    assert done.exit_code == 2
    assert "is a file, expected a folder" in done.stderr
    assert (tmp_path / "demo").read_text() == "mine"
    assert ran == []


def test_a_machine_that_lacks_a_package_is_told_before_anything_is_made(run_cli, monkeypatch, tmp_path):
    lack = MachineError("not installed: timm", hint="pip install it")
    monkeypatch.setattr(requirements, "lacks_export", lambda: lack)
    done = run_cli("quickstart", "--out", tmp_path / "demo")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "not installed: timm" in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (2, InputError),
        (3, MachineError),
        (4, InfeasibleError),
        (5, CheckError),
        (1, HeartViTError),
        (-9, HeartViTError),
    ],
)
def test_a_failing_command_ends_the_run_with_its_exit_code_and_is_named(code, error):
    ran = []
    with pytest.raises(HeartViTError, match=f"exit code {code}: heartvit-edge build-engine x") as caught:
        quickstart.run_steps(
            [["export", "x"], ["build-engine", "x"], ["report", "x"]],
            lambda arguments: ran.append(arguments[0]) or (code if arguments[0] == "build-engine" else 0),
        )
    assert ran == ["export", "build-engine"]
    assert type(caught.value) is error
    assert caught.value.exit_code == (code if code in (2, 3, 4, 5) else 1)


def test_the_subprocess_is_the_same_interpreter_and_its_exit_code_comes_back(capfd):
    assert quickstart.run_in_subprocess(["--version"]) == 0
    assert capfd.readouterr().out.strip() == command_line.__version__
    assert quickstart.run_in_subprocess(["report", "--no-such-option"]) == 2


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "heartvit_edge", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "quickstart" in done.stdout


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--seed", "-1"], []])
def test_options_out_of_range_or_missing_are_refused(run_cli, arguments, tmp_path):
    given = [*arguments, "--out", str(tmp_path / "demo")] if arguments else []
    done = run_cli("quickstart", *given)
    assert done.exit_code == 2
    assert not (tmp_path / "demo").exists()
