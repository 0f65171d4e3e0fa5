"""``heartvit-edge plan --data``: plans measured on images by the scores or a gate, and on which images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.scored_folders import NUM_IMAGES, NUM_SCORED, write_scored
from fakes.small_scores import pictures
from fakes.tiny_vit import write_weights

from heartvit_edge.data.images import list_images, subset
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.data.split import split
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.sensitivity import plan_images, thinned
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import load_plan_images
from heartvit_edge.sensitivity.thinned import thin
from heartvit_edge.spec.plan import PruningPlan

COUNTS = ["--plan-images", 4, "--check-images", 6]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return write_scored(tmp_path_factory.mktemp("scored") / "first")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Return scores that only rank, and cannot be taken again on fewer tokens."""
    return write_scored(tmp_path_factory.mktemp("ranked") / "first", scorer="token-norm")


@pytest.fixture
def plan(run_cli, scored, tmp_path):
    def run(*words, given=scored, counts=COUNTS):
        return run_cli("plan", given.folder, *given.words(), *counts, "--out", tmp_path / "plans", *words)

    return run


@pytest.fixture
def loaded(monkeypatch):
    """Collect the pixels of each set of images that plans run on."""
    load, found = plan_images.load_plan_images, []

    def recording(dense, images, *args, **kwargs):
        found.append([image.tobytes() for image in images])
        return load(dense, images, *args, **kwargs)

    monkeypatch.setattr(plan_images, "load_plan_images", recording)
    return found


def drawn(scored, count, skip):
    """Return images of the draw that the scored ones were taken from, past the first ``skip``."""
    return subset(list_images(scored.data), count, 0, skip=skip)


def planned_on(scored, count):
    """Return that many of the scored images."""
    return split(drawn(scored, NUM_SCORED, 0), count, 0)[0]


def test_a_plan_holds_what_it_lost_on_the_images_it_was_made_on_and_on_others(plan, scored, tmp_path):
    result = plan("--budget", "0.7")
    assert (result.stdout, result.exit_code) == (f"{tmp_path / 'plans' / 'macs-0.7.json'}\n", 0), result.stderr
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.7.json")
    assert stored.chosen_by == "scores"
    for images, ref, mean, error in (
        (planned_on(scored, 4), stored.refined_on, stored.predicted_loss_nats, stored.predicted_loss_stderr_nats),
        (drawn(scored, 6, 5), stored.check.images, stored.check.loss_nats, stored.check.loss_stderr_nats),
    ):
        assert ref == images.ref()
        ran = thin(load_plan_images(scored.dense, images, scored.table.info.settings), stored.blocks)
        assert mean == pytest.approx(ran.losses.mean(), rel=1e-4)
        assert error == pytest.approx(ran.losses.std(ddof=1) / len(images) ** 0.5, rel=1e-4)
    assert stored.check.num_agreeing == ran.num_agreeing
    assert stored.macs_fraction <= 0.7
    for words in (
        "measured on 4 images: ",
        f"measured {stored.check.loss_nats:.3g} ± {stored.check.loss_stderr_nats:.2g} nats and "
        f"{stored.check.agreement:.3f} agreement on 6 held-out images, tokens chosen by scores",
    ):
        assert words in result.stderr


def test_images_to_check_on_were_neither_scored_nor_planned_on(plan, scored, loaded):
    assert plan("--budget", "0.7").exit_code == 0
    planned, checked = map(set, loaded)
    scored_images = {image.tobytes() for image in drawn(scored, NUM_SCORED, 0)}
    assert (len(planned), len(checked)) == (4, 6)
    assert planned < scored_images
    assert not checked & scored_images


def test_scored_images_that_plans_were_not_improved_on_decide_between_them(plan, scored, loaded, tmp_path):
    counts = ["--plan-images", 2, "--check-images", 6]
    result = plan("--budget", "0.7", counts=counts)
    assert result.exit_code == 0, result.stderr
    planned, decided, _ = map(set, loaded)
    assert (len(planned), len(decided)) == (2, 3)
    assert planned | decided == {image.tobytes() for image in drawn(scored, NUM_SCORED, 0)}
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.7.json")
    others = split(drawn(scored, NUM_SCORED, 0), 2, 0)[1]
    assert stored.decided_on == others.ref()
    ran = thin(load_plan_images(scored.dense, others, scored.table.info.settings), stored.blocks)
    assert stored.predicted_loss_nats == pytest.approx(ran.losses.mean(), rel=1e-4)
    assert "3 other images decide for " in result.stderr
    assert "fits and is used again" in plan("--budget", "0.7", counts=counts).stderr


def test_fewer_images_than_plans_were_improved_on_decide_nothing(plan, tmp_path):
    assert plan("--budget", "0.7", counts=["--plan-images", 3, "--check-images", 6]).exit_code == 0
    assert PruningPlan.read(tmp_path / "plans" / "macs-0.7.json").decided_on is None


def test_images_of_another_set_are_planned_and_checked_on_apart(run_cli, scored, loaded, tmp_path):
    np.savez(tmp_path / "others.npz", images=pictures(9, 5))
    words = ["--data", tmp_path / "others.npz", "--weights", scored.weights, "--plan-images", 4, "--check-images", 9]
    result = run_cli("plan", scored.folder, *words, "--budget", "0.7", "--out", tmp_path / "plans")
    assert result.exit_code == 0, result.stderr
    planned, checked = map(set, loaded)
    assert (len(planned), len(checked), len(planned | checked)) == (4, 5, 9)


def test_a_loss_budget_holds_on_the_images_checked_on_with_its_standard_error(plan, tmp_path):
    result = plan("--budget", "loss-nats=0.05")
    assert result.exit_code == 0, result.stderr
    stored = PruningPlan.read(tmp_path / "plans" / "loss-nats-0.05.json")
    assert stored.check.loss_nats + stored.check.loss_stderr_nats <= 0.05
    assert stored.macs_fraction < 0.9


def test_a_loss_budget_that_no_plan_keeps_exits_4_and_says_what_was_reached(plan, tmp_path):
    result = plan("--budget", "0.4,loss-nats=0.000001")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "error: no plan was found that loses at most 1e-06 nats when measured: the last loses " in result.stderr
    assert not (tmp_path / "plans").exists()


def test_a_loss_that_scores_alone_call_out_of_reach_is_settled_by_measuring(plan, run_cli, scored, tmp_path):
    alone = run_cli("plan", scored.folder, "--budget", "0.4", "--out", tmp_path / "alone")
    assert alone.exit_code == 0
    predicted = PruningPlan.read(tmp_path / "alone" / "macs-0.4.json").predicted_loss_nats
    assert plan("--budget", "0.4").exit_code == 0
    check = PruningPlan.read(tmp_path / "plans" / "macs-0.4.json").check
    reached = 1.5 * (check.loss_nats + check.loss_stderr_nats)
    assert reached < predicted
    assert plan("--budget", f"0.4,loss-nats={reached}").exit_code == 0


@pytest.mark.parametrize("gate", ["class-attention", "attention-received"])
def test_with_a_gate_a_plan_loses_what_the_gated_model_loses(plan, scored, tmp_path, gate):
    result = plan("--budget", "0.6", "--gate", gate)
    assert f"tokens chosen by {gate}" in result.stderr
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.6.json")
    assert stored.chosen_by == gate
    assert stored.sites
    model = GatedViT(scored.dense.module, stored, gate).eval()
    for images, mean in (
        (planned_on(scored, 4), stored.predicted_loss_nats),
        (drawn(scored, 6, 5), stored.check.loss_nats),
    ):
        batch = torch.from_numpy(next(preprocess(images, scored.dense.preprocessing, len(images))))
        with torch.no_grad():
            losses = kl_to_dense(scored.dense.module(batch), model(batch)[0])
        assert mean == pytest.approx(float(losses.mean()), rel=1e-3)


def test_a_symmetric_plan_is_measured_too(plan, tmp_path):
    assert plan("--budget", "0.6", "--symmetric").exit_code == 0
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.6.json")
    assert (stored.symmetric, stored.chosen_by, stored.check.images.num_images) == (True, "scores", 6)
    assert stored.nats_per_percent is None


def test_no_more_sites_than_asked_for_drop_tokens_when_measured_either(plan, tmp_path):
    assert plan("--budget", "0.6", "--max-sites", "1").exit_code == 0
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.6.json")
    assert len(stored.sites) == stored.max_sites == 1


def test_nested_plans_that_were_measured_keep_a_part_of_the_larger_one(plan, tmp_path):
    assert plan("--budget", "0.5", "--budget", "0.8", "--nested").exit_code == 0
    small, large = (PruningPlan.read(tmp_path / "plans" / f"macs-{limit}.json") for limit in ("0.5", "0.8"))
    assert small.nested_in_sha256 == large.digest()
    for own, other in zip(small.blocks, large.blocks, strict=True):
        assert own.num_tokens <= other.num_tokens
        assert set(own.kept_heads) <= set(other.kept_heads)


def test_a_measured_plan_is_used_again_and_one_of_other_images_or_another_gate_is_refused(
    plan, run_cli, scored, tmp_path
):
    assert plan("--budget", "0.7").exit_code == 0
    path = tmp_path / "plans" / "macs-0.7.json"
    before = path.read_bytes()
    again = plan("--budget", "0.7")
    assert (again.exit_code, path.read_bytes()) == (0, before)
    assert f"plan {path} fits and is used again" in again.stderr
    for words, counts in (
        (["--gate", "class-attention"], COUNTS),
        ([], ["--plan-images", 3, "--check-images", 6]),
        ([], ["--plan-images", 4, "--check-images", 5]),
        ([], ["--plan-images", 4, "--check-images", 0]),
    ):
        refused = plan("--budget", "0.7", *words, counts=counts)
        assert (refused.exit_code, path.read_bytes()) == (2, before)
        assert f"error: {path} was made of other scores, images or settings" in refused.stderr
    unmeasured = run_cli("plan", scored.folder, "--budget", "0.7", "--out", tmp_path / "plans")
    assert (unmeasured.exit_code, path.read_bytes()) == (2, before)
    assert plan("--budget", "0.7", "--gate", "class-attention", "--force").exit_code == 0
    assert PruningPlan.read(path).chosen_by == "class-attention"


def test_a_budget_of_everything_needs_no_measuring_and_fits_whatever_the_images(plan, run_cli, scored, tmp_path):
    assert run_cli("plan", scored.folder, "--budget", "1", "--out", tmp_path / "plans").exit_code == 0
    result = plan("--budget", "1")
    assert result.exit_code == 0
    assert "fits and is used again" in result.stderr


@pytest.mark.parametrize(("asked", "planned"), [(3, 3), (12, NUM_SCORED)])
def test_plans_are_improved_on_scored_images_and_on_no_others(plan, tmp_path, asked, planned):
    assert plan("--budget", "0.7", counts=["--plan-images", asked, "--check-images", 2]).exit_code == 0
    assert PruningPlan.read(tmp_path / "plans" / "macs-0.7.json").refined_on.num_images == planned


def test_fewer_images_to_check_on_than_asked_for_are_said(plan, tmp_path):
    result = plan("--budget", "0.7", counts=["--plan-images", 4, "--check-images", 50])
    assert PruningPlan.read(tmp_path / "plans" / "macs-0.7.json").check.images.num_images == NUM_IMAGES - NUM_SCORED
    assert f"{NUM_IMAGES - NUM_SCORED} of 50 images are left to check plans on" in result.stderr


def test_a_loss_budget_without_an_image_left_to_check_on_exits_2(run_cli, scored, tmp_path):
    np.savez(tmp_path / "two.npz", images=pictures(2, 5))
    words = ["--data", tmp_path / "two.npz", "--weights", scored.weights, "--budget", "loss-nats=0.1"]
    result = run_cli("plan", scored.folder, *words, "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "two.npz has 2 images: none is left to check plans on" in result.stderr
    assert "error: a plan for loss-nats-0.1 is accepted by what it loses when measured" in result.stderr
    assert not (tmp_path / "plans").exists()


def test_images_under_another_name_are_still_known_as_those_that_were_scored(run_cli, scored, loaded, tmp_path):
    link = tmp_path / "link.npz"
    link.symlink_to(scored.data)
    words = ["--data", link, "--weights", scored.weights, *COUNTS, "--budget", "0.7", "--out", tmp_path / "plans"]
    assert run_cli("plan", scored.folder, *words).exit_code == 0
    _, checked = map(set, loaded)
    assert not checked & {image.tobytes() for image in drawn(scored, NUM_SCORED, 0)}


@pytest.mark.parametrize("words", [["--plan-images", 4], ["--check-images", 4]])
def test_images_to_measure_on_without_data_are_refused(run_cli, scored, words):
    result = run_cli("plan", scored.folder, "--budget", "0.7", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {words[0]} is for measuring plans, which needs --data" in result.stderr


def test_no_image_to_check_on_was_asked_for_and_none_is_missed(plan, tmp_path):
    result = plan("--budget", "0.7", counts=["--plan-images", 4, "--check-images", 0])
    assert "none is left" not in result.stderr
    assert PruningPlan.read(tmp_path / "plans" / "macs-0.7.json").check is None


def test_weights_that_were_not_scored_exit_2_and_those_that_were_are_named(run_cli, scored, tmp_path):
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    words = ["--data", scored.data, "--weights", other, "--budget", "0.7", "--out", tmp_path / "plans"]
    result = run_cli("plan", scored.folder, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: these are not the weights of vit_tiny_patch16_224 that were scored" in result.stderr
    assert f"hint: --weights {scored.weights.name}" in result.stderr


def test_weights_of_a_file_that_are_not_given_are_asked_for_before_any_are_fetched(run_cli, scored, monkeypatch):
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = run_cli("plan", scored.folder, "--data", scored.data, "--budget", "0.7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: vit_tiny_patch16_224 was scored with weights from files, and none is given" in result.stderr
    assert f"hint: --weights {scored.weights.name}" in result.stderr


def test_scores_that_cannot_be_taken_again_need_a_gate(plan, ranked, tmp_path):
    refused = plan("--budget", "0.6", given=ranked)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "error: scorer token-norm cannot be taken again on the tokens left" in refused.stderr
    assert "hint: let a gate choose the tokens: --gate class-attention" in refused.stderr
    assert plan("--budget", "0.6", "--gate", "class-attention", given=ranked).exit_code == 0
    stored = PruningPlan.read(tmp_path / "plans" / "macs-0.6.json")
    assert stored.predicted_loss_nats > 0  # measured, though the scorer only ranks


def test_images_that_are_missing_exit_2(run_cli, scored, tmp_path):
    words = ["--data", tmp_path / "none.npz", "--weights", scored.weights, "--budget", "0.7"]
    result = run_cli("plan", scored.folder, *words, "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: there is no {tmp_path / 'none.npz'}" in result.stderr


def test_ctrl_c_while_measuring_leaves_no_plan(plan, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(thinned, "thin", interrupt)
    result = plan("--budget", "0.7")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert not (tmp_path / "plans").exists()
