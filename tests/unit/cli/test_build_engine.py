"""``heartvit-edge build-engine``: what it prints, what it says, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fakes.board import Board
from fakes.cuda_double import FakeCuda
from fakes.machines import orin
from fakes.tensorrt_double import ParserFault
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.cli.build_engine import choose_entries, parse_batch
from heartvit_edge.engines import build, fingerprint, store
from heartvit_edge.errors import InputError
from heartvit_edge.runtime import open as opening
from heartvit_edge.runtime import verify
from heartvit_edge.spec.engine import EngineManifest


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Return the folder of a tiny pack, on a machine without TensorRT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    make_tiny_pack(tmp_path / "pack")
    return tmp_path / "pack"


def test_each_engines_manifest_is_printed_and_can_be_loaded(run_cli, pack, tmp_path):
    result = run_cli("build-engine", pack, "--engines", tmp_path / "built")
    assert result.exit_code == 0
    paths = [tmp_path / line for line in result.stdout.splitlines()]
    assert [path.parent.name for path in paths] == ["dense-onnxruntime-fp32", "macs-0.5-onnxruntime-fp32"]
    for path in paths:
        store.load_engine(path.parent, fingerprint.detect_machine())


def test_the_default_backend_and_its_reason_are_said_on_stderr(run_cli, pack):
    result = run_cli("build-engine", pack, "--budget", "0.5")
    assert "backend: onnxruntime (ONNX Runtime" in result.stderr
    assert "is the default where TensorRT cannot be imported" in result.stderr
    assert result.stderr.count("ONNX Runtime runs on") == 1  # once, though two engines were built


def test_engines_lie_under_engines_by_default(run_cli, pack):
    result = run_cli("build-engine", pack)
    assert result.stdout.startswith("engines/tiny_vit-")


def test_a_second_run_keeps_the_engines_and_says_so(run_cli, pack, monkeypatch):
    first = run_cli("build-engine", pack)
    monkeypatch.setattr(verify, "verify_engine", lambda *_: pytest.fail("built again"))
    second = run_cli("build-engine", pack)
    assert second.stdout == first.stdout
    assert second.stderr.count("is current, nothing to build") == 2


def test_the_dense_entry_is_built_beside_every_budget(run_cli, pack):
    result = run_cli("build-engine", pack, "--budget", "macs-0.5", "--precision", "fp16", "--batch-size", "2")
    assert [line.split("/")[-2] for line in result.stdout.splitlines()] == [
        "dense-onnxruntime-fp16-batch2",
        "macs-0.5-onnxruntime-fp16-batch2",
    ]


def test_other_engines_in_their_place_are_refused_with_the_command_then_replaced(run_cli, pack, monkeypatch):
    run_cli("build-engine", pack)
    here = fingerprint.detect_machine()
    monkeypatch.setattr(fingerprint, "detect_machine", lambda: here.model_copy(update={"cpu": "another"}))
    result = run_cli("build-engine", pack)
    assert result.exit_code == 2
    assert f"cpu: built with {here.cpu}, here another" in result.stderr
    assert f"hint: replace it: heartvit-edge build-engine {pack} --backend onnxruntime" in result.stderr
    assert result.stdout == ""
    assert run_cli("build-engine", pack, "--force").exit_code == 0


def test_tensorrt_that_was_asked_for_and_is_missing_exits_3_with_the_command_that_installs_it(run_cli, pack):
    result = run_cli("build-engine", pack, "--backend", "tensorrt")
    assert result.exit_code == 3
    assert "TensorRT cannot be imported" in result.stderr
    assert "hint: " in result.stderr
    assert result.stdout == ""


def test_an_engine_that_fails_its_check_exits_5_and_is_not_stored(run_cli, pack, tmp_path, monkeypatch):
    monkeypatch.setitem(verify.LOGIT_TOLERANCE, "fp16", 0.0)
    result = run_cli("build-engine", pack, "--precision", "fp16")
    assert result.exit_code == 5
    assert "is off its graph" in result.stderr
    assert list((tmp_path / "engines").glob("*/*")) == []


def test_ctrl_c_leaves_nothing(run_cli, pack, tmp_path, monkeypatch):
    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.onnxruntime_build, "open_session", interrupt)
    assert run_cli("build-engine", pack).exit_code != 0
    assert [path for path in (tmp_path / "engines").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--backend", "openvino"), ("--precision", "int8"), ("--batch-size", "0"), ("--budget", "0.7"), ("--budget", "x")],
)
def test_an_unknown_value_exits_2_and_is_named(run_cli, pack, option, value):
    result = run_cli("build-engine", pack, option, value)
    assert result.exit_code == 2
    assert value in result.stderr
    assert result.stdout == ""


def test_a_folder_that_is_no_pack_exits_2(run_cli, tmp_path):
    result = run_cli("build-engine", tmp_path)
    assert result.exit_code == 2
    assert "is not a budget pack" in result.stderr


def test_an_altered_pack_exits_5(run_cli, pack):
    with (pack / "dense.onnx").open("ab") as file:
        file.write(b"\0")
    result = run_cli("build-engine", pack)
    assert result.exit_code == 5
    assert "dense.onnx was altered" in result.stderr


@pytest.mark.parametrize(("text", "range_"), [("4", (4, 4, 4)), ("1:2:8", (1, 2, 8))])
def test_a_batch_range_is_one_number_or_three(text, range_):
    batch = parse_batch(text)
    assert (batch.min, batch.opt, batch.max) == range_


@pytest.mark.parametrize("text", ["", "0", "-1", "1:2", "2:1:4", "1:2:3:4", "a", "1:b:2", "1.5"])
def test_any_other_batch_range_is_refused(text):
    with pytest.raises(InputError, match=f"--batch-size is '{text}', expected one number, or three that ascend"):
        parse_batch(text)


def test_budgets_select_entries_by_name_or_number_in_the_packs_order(tmp_path):
    pack = make_tiny_pack(tmp_path)
    assert choose_entries(pack, []) == ["dense", "macs-0.5"]
    assert choose_entries(pack, ["0.5"]) == choose_entries(pack, ["macs=0.50", "dense"]) == ["dense", "macs-0.5"]
    assert choose_entries(pack, ["dense"]) == choose_entries(pack, ["1.0"]) == ["dense"]
    with pytest.raises(InputError, match=r"--budget is '0\.7', the pack has dense, macs-0\.5"):
        choose_entries(pack, ["0.7"])


def test_an_entry_of_several_budgets_is_selected_by_its_name_or_by_their_text_in_any_order(tmp_path):
    pack = make_tiny_pack(tmp_path)
    joint = pack.entries[1].model_copy(update={"name": "macs-0.5+params-0.9"})
    pack = pack.model_copy(update={"entries": (*pack.entries, joint)})
    for text in ("macs-0.5+params-0.9", "macs=0.5,params=0.9", "params=0.90,0.5"):
        assert choose_entries(pack, [text]) == ["dense", "macs-0.5+params-0.9"]
    assert choose_entries(pack, ["0.5"]) == ["dense", "macs-0.5"]
    with pytest.raises(
        InputError, match=r"--budget is 'params=0\.9', the pack has dense, macs-0\.5, macs-0\.5\+params"
    ):
        choose_entries(pack, ["params=0.9"])
    with pytest.raises(InputError, match=r"--budget is '0\.5,0\.5', the pack has"):
        choose_entries(pack, ["0.5,0.5"])


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Return an Orin with a TensorRT of JetPack 6.2 and its pack, in which the command line runs."""
    monkeypatch.chdir(tmp_path)
    board = Board(tmp_path, monkeypatch, "10.3.0")
    board.bindings = []

    def open_cuda(binding):
        board.bindings.append(binding)
        return FakeCuda(board.script.device)

    monkeypatch.setattr(build, "why_no_cuda_device", lambda: None)
    monkeypatch.setattr(fingerprint, "detect_machine", lambda: orin("10.3.0"))
    monkeypatch.setattr(opening, "open_cuda", open_cuda)
    return board


def test_a_tensorrt_engine_is_built_as_told_and_compared_with_its_graph(run_cli, board):
    result = run_cli(
        *("build-engine", board.folder, "--precision", "fp16", "--optimization-level", "5", "--sparse"),
        *("--cuda-binding", "pycuda", "--budget", "dense"),
    )
    assert result.exit_code == 0, result.stderr
    manifest = EngineManifest.read(Path(result.stdout.strip()))
    assert dict(manifest.options)["optimization_level"] == "5"
    assert dict(manifest.options)["sparse_weights"] == "on"
    assert board.bindings == ["pycuda"]
    assert "dense: " in result.stderr
    assert "attention fused: 1 of 2 blocks" in result.stderr


def test_an_engine_is_not_run_where_that_is_not_wanted(run_cli, board):
    assert run_cli("build-engine", board.folder, "--no-verify").exit_code == 0
    assert board.bindings == []


def test_a_device_without_memory_exits_3_with_what_was_asked_and_what_was_free(run_cli, board):
    board.script.builds = False
    board.script.log = (("ERROR", "Requested amount of GPU memory (943718400 bytes) could not be allocated."),)
    result = run_cli("build-engine", board.folder)
    assert result.exit_code == 3
    assert "asked for 900.0 MiB" in result.stderr
    assert "MiB were free" in result.stderr


MATRIX = """
[[engine]]
backend = "tensorrt"
precision = ["fp16", "fp32"]
boards = ["AGX Orin"]

[[engine]]
backend = "onnxruntime"
budget = ["dense"]

[[engine]]
backend = "tensorrt"
boards = ["Orin NX"]
"""


def test_a_matrix_builds_every_engine_for_this_board_and_summarises(run_cli, board, tmp_path):
    (tmp_path / "matrix.toml").write_text(MATRIX)
    result = run_cli("build-engine", board.folder, "--matrix", "matrix.toml")
    assert result.exit_code == 0, result.stderr
    assert [Path(line).parent.name for line in result.stdout.splitlines()] == [
        "dense-tensorrt-fp16",
        "macs-0.5-tensorrt-fp16",
        "dense-tensorrt-fp32",
        "macs-0.5-tensorrt-fp32",
        "dense-onnxruntime-fp32",
    ]
    assert "engine 3 of matrix.toml is for Orin NX: left out on NVIDIA Jetson AGX Orin" in result.stderr
    assert result.stderr.count("  built\n") == 5


def test_rows_that_differ_in_batch_or_settings_alone_do_not_collide(run_cli, board, tmp_path):
    (tmp_path / "matrix.toml").write_text(
        """
        [[engine]]
        budget = ["dense"]
        [[engine]]
        budget = ["dense"]
        batch_size = [8, 8, 8]
        [[engine]]
        budget = ["dense"]
        batch_size = [8, 8, 8]
        optimization_level = 5
        sparse = true
        """
    )
    result = run_cli("build-engine", board.folder, "--matrix", "matrix.toml")
    assert result.exit_code == 0, result.stderr
    manifests = [Path(line) for line in result.stdout.splitlines()]
    assert [path.parent.name for path in manifests] == [
        "dense-tensorrt-fp32",
        "dense-tensorrt-fp32-batch8",
        "dense-tensorrt-fp32-batch8-level5-sparse",
    ]
    for path in manifests:
        assert store.load_engine(path.parent, orin("10.3.0")) == EngineManifest.read(path)
    assert "dense, tensorrt fp32 batch8-level5-sparse" in result.stderr
    again = run_cli("build-engine", board.folder, "--matrix", "matrix.toml")
    assert again.stdout == result.stdout
    assert again.stderr.count("is current, nothing to build") == 3


def test_a_matrix_goes_on_after_a_failure_and_exits_with_its_code(run_cli, board, tmp_path):
    (tmp_path / "matrix.toml").write_text(MATRIX)
    board.script.faults = (ParserFault(0, "patch", "Conv", "too large"),)
    result = run_cli("build-engine", board.folder, "--matrix", "matrix.toml")
    assert result.exit_code == 5
    assert [Path(line).parent.name for line in result.stdout.splitlines()] == ["dense-onnxruntime-fp32"]
    assert result.stderr.count("node 'patch' (Conv): too large") >= 4
    assert result.stderr.count("  failed\n") == 4
    assert "error: 4 of 5 engines of matrix.toml were not built" in result.stderr


def test_a_row_that_cannot_be_met_counts_as_a_failure(run_cli, board, tmp_path):
    (tmp_path / "matrix.toml").write_text('[[engine]]\nbudget = ["0.9"]\n[[engine]]\nbudget = ["dense"]\n')
    result = run_cli("build-engine", board.folder, "--matrix", "matrix.toml")
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 1
    assert "error: engine 1 of matrix.toml: --budget is '0.9', the pack has dense, macs-0.5" in result.stderr


def test_a_matrix_that_asks_for_nothing_here_is_refused(run_cli, pack, tmp_path):
    (tmp_path / "matrix.toml").write_text('[[engine]]\nboards = ["Orin"]\n')
    result = run_cli("build-engine", pack, "--matrix", tmp_path / "matrix.toml")
    assert result.exit_code == 2
    assert "asks for no engine on a machine that is no Jetson" in result.stderr


@pytest.mark.parametrize(
    "given", [("--backend", "onnxruntime"), ("--precision", "fp32"), ("--budget", "dense"), ("--sparse",)]
)
def test_what_a_matrix_says_is_not_said_again(run_cli, pack, given):
    result = run_cli("build-engine", pack, "--matrix", "matrix.toml", *given)
    assert result.exit_code == 2
    assert f"{given[0]} is given beside --matrix" in result.stderr
