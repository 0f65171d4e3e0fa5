"""``score`` and ``export`` on a model, weights or images that cannot be used: message, exit code, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from fakes.tiny_vit import IMG_SIZE, NAME, kwargs_pairs, make_vit, model_options, write_weights
from PIL import Image
from safetensors.torch import save_file

from heartvit_edge.sensitivity.table import read_table

NUM_IMAGES = 40
COMMANDS = {"score": [], "export": ["--budget", "0.7"]}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def given(tmp_path_factory, pixels):
    """Return the path of good weights and of good images."""
    folder = tmp_path_factory.mktemp("given")
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(NUM_IMAGES) % 5)
    return write_weights(folder / "w.safetensors"), folder / "noise.npz"


@pytest.fixture(params=COMMANDS)
def refused(request, run_cli, tmp_path, given):
    """Return a function that runs the command, asserts that it leaves nothing, and returns its messages."""

    def run(*words, data=None, weights=None, model=None, code=2):
        out = tmp_path / "made" / "out"
        named = model if model is not None else model_options(weights if weights is not None else given[0])
        options = ["--data", data if data is not None else given[1], "--num-images", "8", "--out", out]
        result = run_cli(request.param, *named, *options, *COMMANDS[request.param], *words)
        assert result.exit_code == code, result.stderr
        assert result.stdout == ""
        assert not (tmp_path / "made").exists()
        return result.stderr

    return run


def folder_of(path, pixels, names):
    """Write an image under each name and return the folder."""
    for name, image in zip(names, pixels, strict=False):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / name)
    return path


def damage(path):
    path.write_bytes(path.read_bytes()[:60])


def test_data_that_is_missing(refused, tmp_path):
    assert f"error: there is no {tmp_path / 'nothing'}" in refused(data=tmp_path / "nothing")


def test_data_that_is_no_npz(refused, tmp_path):
    (tmp_path / "bad.npz").write_text("hello")
    assert f"error: {tmp_path / 'bad.npz'} is not an npz file" in refused(data=tmp_path / "bad.npz")


def test_images_of_another_type(refused, tmp_path, pixels):
    np.savez(tmp_path / "float.npz", images=pixels / 255)
    assert "is float64 of shape (40, 32, 32, 3), expected uint8" in refused(data=tmp_path / "float.npz")


def test_a_folder_without_images(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"error: {tmp_path / 'empty'} holds no image" in refused(data=tmp_path / "empty")


def test_weights_that_are_missing(refused, tmp_path):
    path = tmp_path / "nothing.safetensors"
    assert f"error: weights file {path} does not exist" in refused(weights=path)


def test_weights_that_are_damaged(refused, tmp_path, given):
    path = tmp_path / "half.safetensors"
    path.write_bytes(given[0].read_bytes()[:1000])
    messages = refused(weights=path)
    assert f"error: cannot read weights from {path}" in messages
    assert "hint: expected a .safetensors file" in messages


def test_weights_with_other_names(refused, tmp_path):
    state = {name.replace("head.", "classifier."): value for name, value in make_vit().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    messages = refused(weights=tmp_path / "w.safetensors")
    assert "missing: head.weight, head.bias; unknown: classifier.bias, classifier.weight" in messages


def test_weights_with_other_shapes(refused, tmp_path):
    torch.save({"state_dict": make_vit().state_dict() | {"norm.bias": torch.zeros(16)}}, tmp_path / "w.pth")
    messages = refused(weights=tmp_path / "w.pth")
    assert (
        "error: the weights in w.pth do not fit the model; wrong shape: norm.bias is (16,), expected (32,)" in messages
    )


def test_weights_with_nan(refused, tmp_path):
    save_file(make_vit().state_dict() | {"norm.bias": torch.full((32,), torch.nan)}, tmp_path / "w.safetensors")
    assert "NaN or infinity in norm.bias" in refused(weights=tmp_path / "w.safetensors")


def test_labels_outside_the_classes(refused, tmp_path, pixels):
    np.savez(tmp_path / "labelled.npz", images=pixels[:3], labels=[0, 7, 1])
    assert "error: labelled.npz holds label 7, the model has 5 classes: 0 to 4" in refused(
        data=tmp_path / "labelled.npz"
    )


def test_a_folder_with_more_classes_than_the_model(refused, tmp_path, pixels):
    folder = folder_of(tmp_path / "pets", pixels, [f"class_{number}/x.png" for number in range(6)])
    assert "error: pets holds label 5 (class_5), the model has 5 classes: 0 to 4" in refused(data=folder)


def test_an_unknown_model(refused):
    messages = refused(model=["vit_tinny_patch16_224"])
    assert "has no model 'vit_tinny_patch16_224'" in messages
    assert "hint: close names: vit_tiny_patch16_224" in messages


def test_a_model_that_is_not_a_plain_vit(refused):
    assert "error: resnet18 is a ResNet, not a plain VisionTransformer" in refused(model=["resnet18"])


def test_an_image_size_that_is_no_multiple_of_the_patch(refused, given):
    words = [NAME, "--img-size", "33", "--weights", given[0]]
    for pair in kwargs_pairs():
        words += ["--model-kwargs", pair]
    messages = refused(model=words)
    assert f"error: image size 33 is not a multiple of the patch size 8 of {NAME}" in messages
    assert "hint: use --img-size 32 or --img-size 40" in messages


def test_a_model_argument_that_timm_does_not_know(refused):
    messages = refused("--model-kwargs", "colour=red")
    assert "unexpected keyword argument 'colour'" in messages
    assert "hint: check --model-kwargs" in messages


@pytest.mark.parametrize(
    "words",
    [
        ["--num-images", "0"],
        ["--held-out-images", "-1"],
        ["--img-size", "big"],
        ["--batch-size", "0"],
        ["--seed", "-1"],
        ["--colour", "red"],
    ],
    ids=" ".join,
)
def test_an_unknown_option_or_a_value_out_of_range_is_named(refused, words):
    assert words[0] in refused(*words)


def test_an_unknown_scorer_is_named_with_those_there_are(refused):
    messages = refused("--scorer", "magic")
    for word in ("--scorer", "magic", "removal-gate", "class-attention"):
        assert word in messages


def test_pretrained_weights_that_cannot_be_fetched_are_the_machines_fault(refused, monkeypatch):
    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route to the hub")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    messages = refused(model=[NAME, "--model-kwargs", "embed_dim=32", "--model-kwargs", "num_heads=4"], code=3)
    assert f"error: cannot fetch timm's pretrained weights of {NAME}: no route to the hub" in messages
    assert "hint: give the weights as a file: --weights FILE" in messages


def test_more_than_a_twentieth_of_damaged_images_and_the_first_are_named(refused, tmp_path, pixels):
    folder = folder_of(tmp_path / "pets", pixels, [f"{number:02}.png" for number in range(NUM_IMAGES)])
    for number in (3, 17, 30):
        damage(folder / f"{number:02}.png")
    messages = refused("--num-images", "40", data=folder)
    assert "error: more than 5% of pets cannot be decoded" in messages
    assert str(folder / "03.png") in messages
    assert "hint: remove or replace the damaged files" in messages


def test_a_damaged_image_is_named_and_left_out_with_a_count(run_cli, tmp_path, given, pixels):
    folder = folder_of(tmp_path / "pets", pixels, [f"{number:02}.png" for number in range(NUM_IMAGES)])
    damage(folder / "17.png")
    sizes = ["--num-images", "30", "--held-out-images", "20"]
    scorer = ["--scorer", "class-attention"]
    result = run_cli("score", *model_options(given[0]), "--data", folder, *sizes, *scorer, "--out", tmp_path / "scores")
    assert result.exit_code == 0, result.stderr
    assert "left out 1 of 40 images: cannot decode" in result.stderr
    assert str(folder / "17.png") in result.stderr
    assert read_table(tmp_path / "scores").info.images.num_images == 30


def test_a_later_weights_file_adds_the_head(run_cli, tmp_path, given):
    state = make_vit().state_dict()
    backbone = {name: value for name, value in state.items() if not name.startswith("head.")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    torch.save({name: state[name] for name in ("head.weight", "head.bias")}, tmp_path / "head.pth")
    files = tmp_path / "backbone.safetensors", tmp_path / "head.pth"
    rest = ["--data", given[1], "--num-images", "4", "--scorer", "class-attention"]
    for out, options in (("two", model_options(*files)), ("one", model_options(given[0]))):
        result = run_cli("score", *options, *rest, "--out", tmp_path / out)
        assert result.exit_code == 0, result.stderr
    two, one = (read_table(tmp_path / out).info for out in ("two", "one"))
    assert two.source.weights == ("backbone.safetensors", "head.pth")
    assert two.source.weights_sha256 == one.source.weights_sha256
    assert two.arrays_sha256 == one.arrays_sha256
