"""evaluate counts what the engines answer on images."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import scipy.special
import scipy.stats
from fakes.learned import GATE_MACS, with_learned_gate
from fakes.tiny_engines import build_all, make_tiny_engines
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.bench import run as bench_run
from heartvit_edge.bench.accuracy_figures import accuracy_figures
from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import MANIFEST, BudgetPack

NUM_IMAGES = 37


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    pack = make_tiny_engines(folder)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 3, NUM_IMAGES)
    np.savez(folder / "labelled.npz", images=images, labels=labels)
    np.savez(folder / "unlabelled.npz", images=images)
    np.savez(folder / "foreign.npz", images=images, labels=np.where(labels == 2, 7, labels))
    return folder, pack, images, labels


@pytest.fixture
def evaluate(run_cli, built):
    folder = built[0]

    def run(*args, data="labelled.npz"):
        return run_cli("evaluate", folder / "pack", "--data", folder / data, "--engines", folder / "engines", *args)

    return run


def pack_outputs(built):
    """Return what ONNX Runtime makes of the pack's own graphs, all images at once."""
    import onnxruntime

    folder, pack, images, _ = built
    inputs = np.stack([preprocess_one(image, pack.preprocessing) for image in images])
    outputs = {}
    for entry in pack.entries:
        session = onnxruntime.InferenceSession(folder / "pack" / entry.onnx, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs[entry.name] = dict(zip(names, session.run(names, {"images": inputs}), strict=True))
    return outputs


def test_accuracy_agreement_and_kl_are_those_of_the_packs_graphs(evaluate, built, tmp_path):
    result = evaluate("--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    stored = Evaluation.read(tmp_path / "run" / "evaluation.json")
    graphs, labels = pack_outputs(built), built[3]
    dense = scipy.special.softmax(graphs["dense"]["logits"].astype(np.float64), axis=1)
    for answers in stored.entries:
        logits = graphs[answers.entry]["logits"]
        assert answers.top1_correct == (logits.argmax(1) == labels).sum()
        assert answers.agreeing == (logits.argmax(1) == dense.argmax(1)).sum()
        kl = scipy.stats.entropy(dense, scipy.special.softmax(logits.astype(np.float64), axis=1), axis=1)
        assert answers.kl_nats == pytest.approx(kl, rel=1e-3, abs=1e-7)
        assert answers.top5_correct is None
    assert [answers.entry for answers in stored.entries] == ["dense", "macs-0.5"]
    assert stored.entries[1].agreeing < NUM_IMAGES
    assert stored.pack_sha256 == sha256_file(built[0] / "pack" / MANIFEST)
    assert stored.images.num_images == stored.num_images == NUM_IMAGES


def test_samples_hold_the_patches_that_the_graph_keeps(evaluate, built, tmp_path):
    evaluate("--out", tmp_path / "run", "--samples", "5")
    samples = Evaluation.read(tmp_path / "run" / "evaluation.json").samples
    kept = pack_outputs(built)["macs-0.5"]["kept_1"]
    assert len(samples) == 5
    for sample in samples:
        assert sample.kept == {"dense": (), "macs-0.5": ((1, tuple(kept[sample.index])),)}
        assert sample.label == built[3][sample.index]


def test_the_table_gives_each_entry_a_line_and_says_why_a_figure_is_missing(evaluate):
    result = evaluate(data="unlabelled.npz")
    header, dense, pruned, *notes = result.stdout.splitlines()
    assert header.startswith("entry")
    assert dense.split()[:5] == ["dense", "100.0", "—", "—", "100"]
    assert pruned.startswith("macs-0.5")
    assert "top-1: the images have no labels" in notes
    assert "McNemar p: the images have no labels" in notes
    assert f"{NUM_IMAGES} images of unlabelled.npz" in notes


@pytest.fixture(scope="module")
def with_baseline(tmp_path_factory):
    """Return a folder with engines of the tiny pack and of a baseline that has the graph of its dense model."""
    folder = tmp_path_factory.mktemp("compared")
    pack = make_tiny_pack(folder / "pack")
    dense, pruned = pack.entries
    twin = {"name": "macs-0.5.random", "gate": "random", "role": "baseline", "compares_with": "macs-0.5"}
    twin |= {"onnx": dense.onnx, "onnx_sha256": dense.onnx_sha256, "outputs": dense.outputs}
    pack = pack.model_copy(update={"entries": (*pack.entries, pruned.model_copy(update=twin))})
    pack.write(folder / "pack" / MANIFEST, force=True)
    build_all(folder, pack)
    return folder


def test_the_macs_of_a_learned_gate_count(run_cli, built, tmp_path):
    folder, pack = built[0], with_learned_gate(built[1])
    shutil.copytree(folder / "pack", tmp_path / "pack")
    weights = tmp_path / "pack" / "macs-0.5.gate.safetensors"
    weights.write_bytes(b"tensors")
    content = pack.model_dump()
    content["entries"][1]["gate_weights_sha256"] = sha256_file(weights)
    pack = BudgetPack.model_validate(content)
    pack.write(tmp_path / "pack" / MANIFEST, force=True)
    build_all(tmp_path, pack)
    words = [tmp_path / "pack", "--engines", tmp_path / "engines", "--data", folder / "labelled.npz"]
    shown, printed = run_cli("evaluate", *words), run_cli("evaluate", *words, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert " 51.0 " in shown.stdout
    row = json.loads(printed.stdout)["rows"][1]
    assert (row["macs"], row["gate_macs"]) == (20_000 + GATE_MACS, GATE_MACS)


def test_a_baseline_stands_under_its_budget_with_equal_macs_and_its_own_test(run_cli, built, with_baseline, tmp_path):
    words = ["--data", built[0] / "labelled.npz", "--engines", with_baseline / "engines"]
    result = run_cli("evaluate", with_baseline / "pack", *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    header, _, pruned, baseline, *notes = result.stdout.splitlines()
    assert header.split()[-2:] == ["McNemar", "p"]
    assert baseline.startswith("  macs-0.5.random")
    assert pruned.split()[1] == baseline.split()[1] == "50.0"
    graphs, labels = pack_outputs(built), built[3]
    right = {name: found["logits"].argmax(1) == labels for name, found in graphs.items()}
    only_dense = int((right["dense"] & ~right["macs-0.5"]).sum())
    only_pruned = int((~right["dense"] & right["macs-0.5"]).sum())
    assert only_dense + only_pruned > 0
    assert pruned.endswith(f" ({only_dense}, {only_pruned})")
    p_value = scipy.stats.binomtest(only_dense, only_dense + only_pruned, 0.5).pvalue
    assert float(pruned.split()[-3]) == pytest.approx(p_value, rel=0.01)
    assert baseline.endswith("1.00 (0, 0)")  # the same answers as the dense engine's
    assert any(note.startswith("McNemar p: exact test of top-1 against dense") for note in notes)
    stored = Evaluation.read(tmp_path / "run" / "evaluation.json")
    assert [answers.correct for answers in stored.entries[:2]] == [tuple(right[name]) for name in ("dense", "macs-0.5")]


def test_without_out_nothing_is_written(evaluate, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert evaluate().exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_json_figures_are_those_of_the_stored_answers(evaluate, tmp_path):
    result = evaluate("--json", "--out", tmp_path / "run")
    printed = json.loads(result.stdout)
    stored = Evaluation.read(tmp_path / "run" / "evaluation.json")
    assert printed["evaluation"] == str(tmp_path / "run" / "evaluation.json")
    for shown in printed["rows"]:
        figures = accuracy_figures(stored, shown["entry"]).model_dump(mode="json")
        assert {name: shown[name] for name in figures} == figures
    described = [[row[name] for name in ("role", "gate", "reduction", "macs_fraction")] for row in printed["rows"]]
    assert described == [["dense", None, "drop", 1.0], ["pruned", "tiny", "drop", 0.5]]
    assert printed["rows"][0]["top5"]["reason"] == "the model has fewer than six classes"


def test_the_batch_size_does_not_change_the_answers(evaluate, tmp_path):
    for name, args in (("ones", ("--batch-size", "1")), ("default", ())):
        assert evaluate("--out", tmp_path / name, *args).exit_code == 0
    ones, default = (Evaluation.read(tmp_path / name / "evaluation.json").entries for name in ("ones", "default"))
    for first, second in zip(ones, default, strict=True):
        assert (first.top1_correct, first.agreeing) == (second.top1_correct, second.agreeing)
        assert first.kl_nats == pytest.approx(second.kl_nats, rel=1e-3, abs=1e-7)


def test_a_limit_draws_that_many_images_and_the_artefact_says_how(evaluate, tmp_path):
    evaluate("--limit", "10", "--out", tmp_path / "run")
    stored = Evaluation.read(tmp_path / "run" / "evaluation.json")
    assert stored.num_images == len(stored.entries[0].kl_nats) == 10
    assert stored.images.seed is not None


def test_a_label_outside_the_classes_exits_2_and_is_named_with_their_number(evaluate, tmp_path):
    result = evaluate("--out", tmp_path / "run", data="foreign.npz")
    assert result.exit_code == 2
    assert "foreign.npz" in result.stderr
    assert "7" in result.stderr
    assert "0 to 2" in result.stderr
    assert not (tmp_path / "run").exists()


def test_data_that_is_missing_exits_2(evaluate):
    result = evaluate(data="nothing")
    assert result.exit_code == 2
    assert "there is no" in result.stderr


def test_an_evaluation_that_exists_is_kept_without_force_and_replaced_with_it(evaluate, tmp_path):
    target = tmp_path / "evaluation.json"
    target.write_text("mine")
    (tmp_path / "measurement.json").write_text("bench's own")
    refused = evaluate("--out", tmp_path)
    assert refused.exit_code == 2
    assert f"error: {target} exists already" in refused.stderr
    assert target.read_text() == "mine"
    assert evaluate("--out", tmp_path, "--force").exit_code == 0
    assert Evaluation.read(target).num_images == NUM_IMAGES
    assert (tmp_path / "measurement.json").read_text() == "bench's own"


def test_a_batch_size_that_no_engine_serves_exits_2_with_the_command_that_builds_for_it(evaluate):
    result = evaluate("--batch-size", "64")
    assert result.exit_code == 2
    assert "serves batch sizes 1 to 8, found 64" in result.stderr
    assert "--batch-size 1:1:64" in result.stderr


def test_a_pack_whose_graph_was_altered_exits_5(run_cli, tmp_path, built):
    make_tiny_engines(tmp_path)
    with (tmp_path / "pack" / "dense.onnx").open("ab") as file:
        file.write(b"x")
    result = run_cli(
        "evaluate", tmp_path / "pack", "--data", built[0] / "labelled.npz", "--engines", tmp_path / "engines"
    )
    assert result.exit_code == 5
    assert "dense.onnx was altered" in result.stderr


def test_an_interrupted_run_leaves_nothing(evaluate, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "evaluate", interrupt)
    result = evaluate("--out", tmp_path / "run")
    assert result.exit_code == 130
    assert not (tmp_path / "run").exists()
