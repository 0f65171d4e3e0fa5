"""Dense models by name: what is read off them, and which are refused and why."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from fakes.tiny_vit import IMG_SIZE, KWARGS, NAME, VARIANTS, images, kwargs_pairs, load_tiny, make_vit, write_weights
from PIL import Image
from safetensors.torch import save_file

from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.model import zoo
from heartvit_edge.model.checkpoint import state_sha256
from heartvit_edge.model.zoo import load_dense, parse_model_kwargs

# A command line cannot name a class.
TYPEABLE = [name for name, (_, kwargs) in VARIANTS.items() if "mlp_layer" not in kwargs]
SMALL = ["embed_dim=32", "depth=2", "num_heads=4"]


def refused(name=NAME, **given):
    with pytest.raises(InputError) as caught:
        load_dense(name, **given)
    return caught.value


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("variant", TYPEABLE)
def test_a_loaded_model_answers_as_the_one_whose_weights_it_was_given(tmp_path, variant):
    dense = load_tiny(tmp_path, variant)
    torch.testing.assert_close(dense.module(images(2)), make_vit(variant)(images(2)), rtol=0, atol=0)
    assert not dense.module.training
    assert not any(value.requires_grad for value in dense.module.parameters())
    assert dense.source.weights_sha256 == state_sha256(make_vit(variant).state_dict())


def test_the_shape_is_read_off_the_model(tmp_path):
    shape = load_tiny(tmp_path).shape
    assert shape.model_dump() == {
        "img_size": 32, "patch_size": 8, "in_chans": 3, "embed_dim": 32, "depth": 4, "num_heads": 4, "head_dim": 8,
        "mlp_in_dim": 128, "mlp_hidden_dim": 128, "num_classes": 5, "num_prefix_tokens": 1, "pool": "token",
    }  # fmt: skip
    assert (shape.grid_size, shape.num_patches, shape.num_tokens) == (4, 16, 17)


@pytest.mark.parametrize(
    ("variant", "prefix", "pool"),
    [
        ("distilled", 2, "token+distillation"),
        ("registers", 5, "token"),
        ("average pooling", 1, "avg"),
        ("average pooling without class token", 0, "avg"),
    ],
)
def test_prefix_tokens_and_pooling_are_read_off_the_model(tmp_path, variant, prefix, pool):
    dense = load_tiny(tmp_path, variant)
    assert (dense.shape.num_prefix_tokens, dense.shape.pool) == (prefix, pool)
    embedded = dense.module._pos_embed(dense.module.patch_embed(images(1)))
    assert embedded.shape[1] == dense.shape.num_tokens


def test_a_gated_mlp_has_twice_the_width_before_its_gate():
    shape = zoo._shape(make_vit("SwiGLU"))
    assert (shape.mlp_in_dim, shape.mlp_hidden_dim) == (128, 64)


def test_the_source_names_the_model_its_arguments_and_its_files_without_their_folder(weights):
    source = load_dense(NAME, weights=[weights], img_size=IMG_SIZE, model_kwargs=kwargs_pairs()).source
    assert (source.name, source.weights) == (NAME, ("w.safetensors",))
    assert source.model_kwargs == tuple((key, repr(value)) for key, value in KWARGS.items())


def test_the_same_weights_have_the_same_hash_in_every_file_format_and_under_every_name(tmp_path, weights):
    state = make_vit().state_dict()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 1}, tmp_path / "x.pth"
    )
    backbone = {name: value for name, value in state.items() if not name.startswith("head")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    save_file({name: state[name] for name in ("head.weight", "head.bias")}, tmp_path / "head.safetensors")
    files = [[weights], [tmp_path / "x.pth"], [tmp_path / "backbone.safetensors", tmp_path / "head.safetensors"]]
    found = [load_dense(NAME, weights=paths, img_size=IMG_SIZE, model_kwargs=kwargs_pairs()).source for paths in files]
    assert len({source.weights_sha256 for source in found}) == 1
    assert found[2].weights == ("backbone.safetensors", "head.safetensors")


def test_the_number_of_classes_is_that_of_the_last_head(tmp_path, weights):
    save_file({"head.weight": torch.ones(7, 32), "head.bias": torch.ones(7)}, tmp_path / "head.safetensors")
    dense = load_dense(
        NAME, weights=[weights, tmp_path / "head.safetensors"], img_size=IMG_SIZE, model_kwargs=kwargs_pairs()
    )
    assert dense.shape.num_classes == 7
    assert torch.equal(dense.module.head.weight, torch.ones(7, 32))


def test_the_position_embedding_is_resampled_to_the_image_size_as_timm_does(weights):
    dense = load_dense(NAME, weights=[weights], img_size=48, model_kwargs=kwargs_pairs())
    expected = timm.create_model(NAME, img_size=48, num_classes=5, **KWARGS)
    state = make_vit().state_dict()
    expected.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(state), expected))
    assert torch.equal(dense.module.pos_embed, expected.pos_embed)
    assert not torch.equal(dense.module.pos_embed[:, 1:17], state["pos_embed"][:, 1:])
    assert dense.shape.num_patches == 36


def test_weights_under_dinov2s_own_names_are_converted(tmp_path):
    # DINOv2 has a mask token, its own name for the registers, and a position for the class token.
    variant = "registers outside the position embedding"
    state = make_vit(variant).state_dict()
    position = torch.full((1, 1, 32), 0.25)
    own = {name: value for name, value in state.items() if not name.startswith("head.")}
    own["register_tokens"] = own.pop("reg_token")
    own["cls_token"] = state["cls_token"] - position
    own["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    own["mask_token"] = torch.zeros(1, 32)
    save_file(own, tmp_path / "dino.safetensors")
    save_file({name: state[name] for name in ("head.weight", "head.bias")}, tmp_path / "head.safetensors")
    dense = load_dense(
        NAME,
        weights=[tmp_path / "dino.safetensors", tmp_path / "head.safetensors"],
        img_size=IMG_SIZE,
        model_kwargs=kwargs_pairs(VARIANTS[variant][1]),
    )
    torch.testing.assert_close(dense.module(images(2)), make_vit(variant)(images(2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 32), ("vit_small_patch14_dinov2", 28), ("deit3_small_patch16_224.fb_in1k", 32)],
)
def test_preprocessing_is_timms_transform_of_the_model(tmp_path, name, size):
    model = timm.create_model(name, img_size=size, num_classes=3, embed_dim=32, depth=2, num_heads=4)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    dense = load_dense(name, weights=[tmp_path / "w.safetensors"], img_size=size, model_kwargs=SMALL)
    config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    expected = transform(Image.fromarray(pixels)).numpy()
    assert expected.shape == (3, size, size)
    np.testing.assert_allclose(preprocess_one(pixels, dense.preprocessing), expected, atol=1e-6)


def test_an_unknown_name_is_refused_with_names_that_are_close():
    error = refused("deit_smal_patch16_224")
    assert "has no model 'deit_smal_patch16_224'" in str(error)
    assert error.hint.startswith("close names: ")
    assert "deit_small_patch16_224" in error.hint


def test_an_unknown_name_with_none_close_is_refused_with_how_to_list_them():
    assert "timm.list_models" in refused("qqqqqqqqqqqqqqq").hint


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("vit_base_patch16_siglip_224", SMALL, "pooling is 'map', expected 'token' or 'avg'"),
        ("vit_small_patch16_dinov3", SMALL, "is a Eva, not a plain VisionTransformer"),
        ("resnet18", [], "is a ResNet, not a plain VisionTransformer"),
        ("vit_tiny_r_s16_p8_224", ["embed_dim=32", "num_heads=4"], "patch embedding is HybridEmbed"),
        ("vit_small_patch16_18x2_224", SMALL, "a block is ParallelThingsBlock, expected Block"),
        ("vit_dlittle_patch16_reg1_gap_256", SMALL, "attention is DiffAttention, expected Attention"),
        ("swin_tiny_patch4_window7_224", [], "is a SwinTransformer, not a plain VisionTransformer"),
        (NAME, [*SMALL, "global_pool=max"], "pooling is 'max', expected 'token' or 'avg'"),
        (NAME, [*SMALL, "global_pool=avg", "pool_include_prefix=True"], "pooling includes the prefix tokens"),
        (NAME, [*SMALL, "scale_attn_norm=True"], "attention has a norm or gate over all heads"),
        (NAME, [*SMALL, "scale_mlp_norm=True"], "MLP has a norm over its hidden units"),
        (NAME, [*SMALL, "in_chans=1"], "input has 1 channels, expected 3"),
        (NAME, [*SMALL, "patch_size=(16, 8)"], "patches (16, 8) or image (224, 224) are not square"),
    ],
)
def test_a_model_that_is_not_a_plain_vit_is_refused_by_name_with_the_reason(monkeypatch, name, kwargs, reason):
    devices = []
    create = timm.create_model

    def spy(*args, **given):
        devices.append((torch.get_default_device().type, given["pretrained"]))
        return create(*args, **given)

    monkeypatch.setattr(timm, "create_model", spy)
    error = refused(name, model_kwargs=kwargs)
    assert str(error).startswith(f"{name} is ")
    assert reason in str(error)
    assert "deit_*" in error.hint
    assert devices == [("meta", False)]  # neither memory nor a download was spent on it


def test_every_reason_is_named_once():
    error = refused(model_kwargs=[*SMALL, "global_pool=max", "scale_attn_norm=True", "in_chans=4"])
    assert str(error).count("attention has a norm") == 1
    assert "pooling is 'max'" in str(error)
    assert "4 channels" in str(error)


@pytest.mark.parametrize(
    ("size", "hint"), [(33, "32 or --img-size 40"), (7, "8 or --img-size 16"), (0, "--img-size 8")]
)
def test_an_image_size_that_the_patches_do_not_tile_is_refused_with_sizes_that_fit(weights, size, hint):
    error = refused(weights=[weights], img_size=size, model_kwargs=kwargs_pairs())
    assert f"image size {size} is not a multiple of the patch size 8 of {NAME}" in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("embed_dim=33", "dim should be divisible by num_heads"),
        ("foo=1", "unexpected keyword argument 'foo'"),
        ("depth=many", "unsupported operand"),
        ("patch_size=0", "zero"),
        ("embed_dim=-8", "negative dimension"),
        ("embed_dim=4.5", "divisible"),
        ("act_layer=foo", "foo"),
        ("class_token=False", ""),  # timm's reason has no text in some versions
    ],
)
def test_arguments_that_timm_cannot_use_are_refused_with_its_reason(weights, pair, reason):
    pairs = [given for given in kwargs_pairs() if given.split("=")[0] != pair.split("=")[0]]
    error = refused(weights=[weights], img_size=IMG_SIZE, model_kwargs=[*pairs, pair])
    assert str(error).startswith(f"timm cannot make {NAME} with ")
    assert reason in str(error)
    assert "\n" not in str(error)
    assert error.hint == "check --model-kwargs"


def test_model_arguments_are_python_literals_where_they_are_and_text_elsewhere():
    pairs = ["patch_size=8", "mlp_ratio=1.5", "qk_norm=True", "patch_size=(8, 4)", "act_layer=relu", "a=b=c"]
    assert parse_model_kwargs(pairs[:3]) == {"patch_size": 8, "mlp_ratio": 1.5, "qk_norm": True}
    assert parse_model_kwargs(pairs[3:]) == {"patch_size": (8, 4), "act_layer": "relu", "a": "b=c"}


@pytest.mark.parametrize("pair", ["patch_size", "=3", "patch size=8", "2x=1"])
def test_a_model_argument_that_is_no_pair_is_refused(pair):
    with pytest.raises(InputError, match="is not KEY=VALUE") as caught:
        parse_model_kwargs([pair])
    assert repr(pair) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("img_size", "--img-size"),
        ("num_classes", "--weights"),
        ("checkpoint_path", "--weights"),
        ("pretrained", "--weights"),
    ],
)
def test_a_model_argument_with_an_option_of_its_own_is_refused_with_that_option(key, option):
    with pytest.raises(InputError, match=key) as caught:
        parse_model_kwargs([f"{key}=1"])
    assert option in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"pos_embed": torch.zeros(1, 12, 32)}, "pos_embed is (1, 12, 32), expected (1, 17, 32)"),
        ({"pos_embed": torch.zeros(17, 32)}, "pos_embed is (17, 32), expected (1, 17, 32)"),
        ({"pos_embed": torch.zeros(1, 17, 16)}, "pos_embed is (1, 17, 16), expected (1, 17, 32)"),
        ({"pos_embed": torch.zeros(1, 0, 32)}, "pos_embed is (1, 0, 32), expected (1, 17, 32)"),
        ({"patch_embed.proj.weight": torch.zeros(32, 100)}, "patch_embed.proj.weight is (32, 100)"),
        ({"patch_embed.proj.weight": torch.zeros(16, 3, 8, 8)}, "patch_embed.proj.weight is (16, 3, 8, 8)"),
        ({"head.weight": torch.zeros(())}, "head.weight is ()"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(96, 31)}, "blocks.0.attn.qkv.weight is (96, 31), expected (96, 32)"),
        ({"blocks.4.norm1.weight": torch.zeros(32)}, "unknown: blocks.4.norm1.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named_even_those_that_timm_would_resample(tmp_path, changed, found):
    save_file(make_vit().state_dict() | changed, tmp_path / "w.safetensors")
    error = refused(weights=[tmp_path / "w.safetensors"], img_size=IMG_SIZE, model_kwargs=kwargs_pairs())
    assert "the weights in w.safetensors do not fit the model" in str(error)
    assert found in str(error)


def test_weights_of_a_model_with_other_patches_are_refused_not_resampled(tmp_path):
    other = timm.create_model(NAME, img_size=64, num_classes=5, **(KWARGS | {"patch_size": 16}))
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    error = refused(weights=[tmp_path / "w.safetensors"], img_size=IMG_SIZE, model_kwargs=kwargs_pairs())
    assert "patch_embed.proj.weight is (32, 3, 16, 16), expected (32, 3, 8, 8)" in str(error)
    assert error.hint == "--model-kwargs patch_size=16"


def test_a_file_in_a_form_that_timm_starts_to_convert_and_cannot_is_refused(tmp_path):
    save_file({"encoder": torch.zeros(3)}, tmp_path / "w.safetensors")
    error = refused(weights=[tmp_path / "w.safetensors"], img_size=IMG_SIZE, model_kwargs=kwargs_pairs())
    assert "w.safetensors are in no form that timm converts" in str(error)


def test_a_backbone_without_classifier_is_refused_with_how_to_add_one(tmp_path):
    model = timm.create_model("vit_small_patch14_dinov2", img_size=28, embed_dim=32, depth=2, num_heads=4)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    error = refused("vit_small_patch14_dinov2", weights=[tmp_path / "w.safetensors"], img_size=28, model_kwargs=SMALL)
    assert "has no classifier" in str(error)
    assert "--weights BACKBONE --weights HEAD" in error.hint


def failing_fetch(monkeypatch, error):
    """Let timm fail whenever it is asked for pretrained weights, as it does without a network."""
    create = timm.create_model

    def offline(*args, pretrained=False, **given):
        if pretrained:
            raise error
        return create(*args, **given)

    monkeypatch.setattr(timm, "create_model", offline)


def test_pretrained_weights_that_cannot_be_fetched_are_the_machines_fault(monkeypatch):
    failing_fetch(monkeypatch, ConnectionError("cannot reach the hub\nsecond line"))
    with pytest.raises(MachineError) as caught:
        load_dense(NAME, model_kwargs=SMALL)
    assert caught.value.exit_code == 3
    assert str(caught.value) == f"cannot fetch timm's pretrained weights of {NAME}: cannot reach the hub"
    assert caught.value.hint == "give the weights as a file: --weights FILE"


def test_pretrained_weights_that_do_not_fit_are_the_arguments_fault(monkeypatch):
    failing_fetch(monkeypatch, RuntimeError("Error(s) in loading state_dict\nsize mismatch"))
    error = refused(model_kwargs=SMALL)
    assert "pretrained weights" in str(error)
    assert "'embed_dim': 32" in str(error)
    assert "Error(s) in loading state_dict" in str(error)


def test_without_weights_the_pretrained_ones_are_asked_for_at_the_size_given(monkeypatch):
    asked = []
    create = timm.create_model

    def hub(*args, pretrained=False, **given):
        asked.append((pretrained, given.get("img_size")))
        return create(*args, **given)

    monkeypatch.setattr(timm, "create_model", hub)
    dense = load_dense(NAME, img_size=32, model_kwargs=SMALL)
    assert asked == [(False, None), (True, 32)]
    assert dense.source.weights == ()
    assert dense.shape.num_classes == 1000
