"""Two processes train as one does on their batches together, and one of them speaks and writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from fakes.small_finetune import pruning_plan
from fakes.tiny_vit import load_tiny, model_options, write_weights

from heartvit_edge.errors import InputError
from heartvit_edge.finetune.processes import first_process, join_processes
from heartvit_edge.model.checkpoint import read_tensors
from heartvit_edge.spec.finetune import FINETUNE, FinetuneRun

PATIENCE_S = 240  # of the test; nothing is timed
RECIPE = ["--optimizer", "sgd", "--lr", "0.05", "--label-weight", "0.3", "--epochs", "2", "--augment", "crop"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def words(data, tmp_path):
    """Return the words of the command up to --batch-size and --out."""
    weights = write_weights(tmp_path / "w.safetensors")
    pruning_plan(load_tiny(tmp_path)).write(tmp_path / "plan.json")
    few = ["--data", str(data), "--held-out-images", "16", "--workers", "0", "--no-amp"]
    return ["finetune", str(tmp_path / "plan.json"), *model_options(weights), *few, *RECIPE, "--control"]


def test_two_processes_train_what_one_does_with_twice_the_batch(words, run_cli, tmp_path):
    alone = run_cli(*words, "--batch-size", "8", "--out", tmp_path / "one")
    assert alone.exit_code == 0, alone.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port()), "-m", "heartvit_edge"]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [*launcher, *words, "--batch-size", "4", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "240", "CUDA_VISIBLE_DEVICES": ""},
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(tmp_path / "two" / FINETUNE)) == 1
    assert done.stderr.count("control: epoch 2:") == 1
    one, two = (FinetuneRun.read(tmp_path / name / FINETUNE) for name in ("one", "two"))
    assert two.recipe == one.recipe.model_copy(update={"batch_size": 4, "num_processes": 2})
    assert two.dense == one.dense
    for entry in ("macs-0.5", "control"):
        expected = read_tensors(tmp_path / "one" / f"{entry}.safetensors")
        for name, value in read_tensors(tmp_path / "two" / f"{entry}.safetensors").items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
        for found, record in zip(two.find(entry).history, one.find(entry).history, strict=True):
            assert found.loss == pytest.approx(record.loss, rel=1e-4)
            assert found.held_out.kl_nats == pytest.approx(record.held_out.kl_nats, rel=1e-3)


def test_what_the_first_process_cannot_do_is_an_error_everywhere():
    def refuse():
        raise InputError("no such thing", hint="--other")

    with join_processes("fp32", gate_has_weights=False) as accelerator:
        assert first_process(accelerator, lambda: 7) == 7
        with pytest.raises(InputError, match="no such thing") as caught:
            first_process(accelerator, refuse)
    assert caught.value.hint == "--other"
