"""Weight files: what is read, what is refused without running it, and which misfits are named."""

from __future__ import annotations

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from fakes.tiny_vit import make_vit
from safetensors.torch import save_file

from heartvit_edge.errors import InputError
from heartvit_edge.model.checkpoint import head_classes, load_weights, read_tensors, state_sha256


class RunsACommand:
    """Writes a file at the path when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def torch_saved(path, content):
    torch.save(content, path)
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_tensors(path)
    assert path.name in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def state():
    return make_vit().state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "arch": "vit"},
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {"head.bias": torch.zeros(1)}, "state_dict_ema": state},
    ],
    ids=["bare", "state_dict", "model", "DDP", "compiled", "averaged weights first"],
)
def test_a_checkpoint_reads_as_the_safetensors_file_of_the_same_tensors(tmp_path, state, wrap):
    save_file(state, tmp_path / "w.safetensors")
    expected = read_tensors(tmp_path / "w.safetensors")
    found = read_tensors(torch_saved(tmp_path / "w.pth", wrap(state)))
    assert found.keys() == expected.keys() == state.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name])
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_tensors_are_read_as_float32_and_others_as_they_are(tmp_path, dtype):
    save_file(
        {"weight": torch.tensor([1.5, -2.0], dtype=dtype), "index": torch.tensor([1, 2])}, tmp_path / "w.safetensors"
    )
    found = read_tensors(tmp_path / "w.safetensors")
    assert found["weight"].dtype == torch.float32
    assert found["weight"].tolist() == [1.5, -2.0]
    assert found["index"].dtype == torch.int64


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "does not exist" in str(refusal(tmp_path / "nothing.safetensors"))
    assert "is a folder" in str(refusal(tmp_path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", ["half", "text", "nothing"])
def test_a_damaged_file_is_refused_with_what_was_expected(tmp_path, state, suffix, content):
    path = tmp_path / f"w{suffix}"
    if content == "half":
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_text("hello, I am no checkpoint" if content == "text" else "")
    error = refusal(path)
    assert str(error).startswith(f"cannot read weights from {path}: ")
    assert "\n" not in str(error)
    assert ".safetensors" in error.hint
    assert "weights_only=True" in error.hint


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run(tmp_path, form):
    mark, path = tmp_path / "ran", tmp_path / "w.pth"
    content = {"head.bias": torch.zeros(1), "extra": RunsACommand(mark)}
    if form == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"extra": RunsACommand(mark)}, protocol=2))
    assert str(refusal(path)).startswith(f"cannot read weights from {path}: ")
    assert not mark.exists()
    torch.load(path, weights_only=False) if form == "torch.save" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have


def test_the_refusal_of_a_pickle_does_not_advise_to_trust_it(tmp_path):
    error = refusal(torch_saved(tmp_path / "w.pth", {"extra": RunsACommand(tmp_path / "ran")}))
    assert "weights_only=False" not in f"{error} {error.hint}"


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = torch_saved(tmp_path / "w.pth", make_vit())
    assert str(refusal(path)).startswith(f"cannot read weights from {path}: ")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(1)], "does not hold tensors by name"),
        (torch.zeros(1), "does not hold tensors by name"),
        ({"state_dict": [1]}, "does not hold tensors by name"),
        ({3: torch.zeros(1)}, "does not hold tensors by name"),
        ({}, "holds nothing, expected tensors by name"),
        ({"head.bias": torch.zeros(1), "epoch": 3, "arch": "vit"}, "holds epoch, arch, expected tensors by name"),
    ],
    ids=["list", "tensor", "list as state_dict", "number as name", "empty", "other values"],
)
def test_content_that_is_no_tensors_by_name_is_refused_with_how_to_save_it(tmp_path, content, found):
    error = refusal(torch_saved(tmp_path / "w.pth", content))
    assert found in str(error)
    assert error.hint == "save the state dict alone: torch.save(model.state_dict(), FILE)"


def misfit(state, **changed):
    """Return the error of loading ``state`` with some tensors replaced, or left out where None."""
    found = {name: value for name, value in (state | changed).items() if value is not None}
    with pytest.raises(InputError) as caught:
        load_weights(make_vit(seed=1), [found], "w.pth")
    assert str(caught.value).startswith("the weights in w.pth do not fit the model; ")
    return caught.value


def test_weights_that_fit_are_loaded(state):
    model = make_vit(seed=1)
    load_weights(model, [state], "w.pth")
    assert state_sha256(model.state_dict()) == state_sha256(state)


def test_a_later_file_adds_tensors_and_replaces_those_of_an_earlier_one(state):
    model = make_vit(seed=1)
    backbone = {name: value for name, value in state.items() if not name.startswith("head.")}
    head = {"head.weight": state["head.weight"], "head.bias": torch.arange(5.0), "norm.bias": torch.ones(32)}
    load_weights(model, [backbone, head], "backbone.pth, head.pth")
    assert model.head.bias.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(model.norm.bias, torch.ones(32))
    assert torch.equal(model.norm.weight, state["norm.weight"])


def test_missing_tensors_are_named_and_may_come_in_another_file(state):
    error = misfit(state, **{"head.weight": None, "head.bias": None})
    assert str(error).endswith("missing: head.weight, head.bias")
    assert "--weights A --weights B" in error.hint


def test_unknown_tensors_are_named_and_another_file_would_not_help(state):
    error = misfit(state, **{"head.bias": None, "classifier.bias": state["head.bias"]})
    assert str(error).endswith("missing: head.bias; unknown: classifier.bias")
    assert error.hint is None


def test_tensors_of_another_shape_are_named_with_both_shapes(state):
    error = misfit(state, **{"head.weight": torch.zeros(5, 16), "norm.bias": torch.zeros(())})
    assert str(error).endswith("wrong shape: norm.bias is (), expected (32,), head.weight is (5, 16), expected (5, 32)")


def test_integers_and_complex_numbers_in_place_of_weights_are_named(state):
    error = misfit(state, **{"head.bias": torch.zeros(5, dtype=torch.int8), "norm.bias": torch.zeros(32) * 1j})
    assert "norm.bias is torch.complex64, expected torch.float32" in str(error)
    assert "head.bias is torch.int8, expected torch.float32" in str(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_with_nan_or_infinity_are_named(state, value):
    bias = state["head.bias"].clone()
    bias[2] = value
    assert str(misfit(state, **{"head.bias": bias})).endswith("NaN or infinity in head.bias")


def test_of_many_misfits_the_first_six_are_named_and_the_others_counted(state):
    error = misfit({f"module_{name}": value for name, value in state.items()})
    missing, unknown = str(error).split("; ")[1:]
    names = list(state)
    assert missing == f"missing: {', '.join(names[:6])} and {len(names) - 6} more"
    assert unknown == f"unknown: {', '.join(f'module_{name}' for name in names[:6])} and {len(names) - 6} more"


def test_a_misfit_leaves_the_model_as_it_was(state):
    model = make_vit(seed=1)
    before = state_sha256(model.state_dict())
    with pytest.raises(InputError):
        load_weights(model, [state | {"head.bias": torch.zeros(4)}], "w.pth")
    assert state_sha256(model.state_dict()) == before


def test_the_number_of_classes_is_that_of_the_last_classifier():
    backbone = {"norm.bias": torch.zeros(3)}
    assert head_classes([]) is None
    assert head_classes([backbone]) is None
    assert head_classes([{"head.weight": torch.zeros(7, 3)}, {"head.weight": torch.zeros(2, 3)}, backbone]) == 2


@pytest.mark.parametrize("shape", [(), (0, 3), (3,)])
def test_a_classifier_that_is_no_matrix_of_classes_gives_no_number(shape):
    assert head_classes([{"head.weight": torch.zeros(shape)}]) is None


def test_the_hash_of_a_state_depends_on_names_shapes_and_values_alone(state):
    expected = state_sha256(state)
    assert len(expected) == 64
    assert state_sha256(dict(reversed(state.items()))) == expected
    assert state_sha256({name: value.double() for name, value in state.items()}) == expected
    assert state_sha256({name: value.T.contiguous().T for name, value in state.items() if value.ndim == 2}) == (
        state_sha256({name: value for name, value in state.items() if value.ndim == 2})
    )
    nudged = state["head.bias"].clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(9.0))
    renamed = {("tail.bias" if name == "head.bias" else name): value for name, value in state.items()}
    for other in (
        state | {"head.bias": nudged},
        state | {"head.bias": state["head.bias"][None]},
        state | {"extra": torch.zeros(0)},
        renamed,
    ):
        assert state_sha256(other) != expected


def test_damaged_bytes_are_refused_or_read_but_never_a_crash(tmp_path):
    path, random = tmp_path / "w.pth", np.random.default_rng(0)
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    refused = 0
    for _ in range(300):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 4)] = random.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch on pickle protocols that it does not know
                read_tensors(path)
        except InputError as err:
            assert "w.pth" in str(err)
            refused += 1
    assert refused > 100
