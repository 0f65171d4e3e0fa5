"""Boards are read from the files that their kernels, L4T and nvpmodel write."""

from __future__ import annotations

import pytest
from fakes import boards

from heartvit_edge.engines import jetson
from heartvit_edge.errors import MachineError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", "540.4.0"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("GCC version:  gcc version 12.3.0\n", None),
    ],
)
def test_the_driver_s_version_is_the_kernel_module_s(tmp_path, text, version):
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert jetson.read_driver(tmp_path) == version
    assert jetson.read_driver(tmp_path / "elsewhere") is None


def test_an_agx_orin_is_read_from_its_own_files(tmp_path):
    assert jetson.read_jetson(boards.write_agx_orin(tmp_path)) == jetson.Jetson(
        board="Jetson AGX Orin 64GB (p3701-0005)",
        gpu="Orin",
        compute_capability="8.7",
        l4t="36.4.3",
        power_mode="MODE_30W",
        cuda="12.6.11",
    )


def test_an_orin_nx_has_the_same_gpu_and_another_board(tmp_path):
    board = jetson.read_jetson(boards.write_orin_nx(tmp_path))
    assert board == jetson.Jetson(
        board="Jetson Orin NX 16GB (p3767-0000)",
        gpu="Orin",
        compute_capability="8.7",
        l4t="39.2.0",
        power_mode="25W",
        cuda="13.2.1",
    )


def test_a_machine_without_a_tegra_chip_is_no_jetson(tmp_path):
    assert jetson.read_jetson(tmp_path) is None
    compatible = tmp_path / "proc/device-tree/compatible"
    compatible.parent.mkdir(parents=True)
    compatible.write_text("raspberrypi,4-model-b\0brcm,bcm2711\0")
    assert jetson.read_jetson(tmp_path) is None


def test_the_part_number_comes_from_the_device_tree_s_file_name_where_compatible_lacks_it(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "proc/device-tree/compatible").write_text("vendor,carrier\0nvidia,tegra234\0")
    (root / "proc/device-tree/nvidia,dtsfilename").write_text("/dts/tegra234-p3701-0004-p3737-0000.dts\0")
    assert jetson.read_jetson(root).board == "Jetson AGX Orin 32GB (p3701-0004)"


def test_a_module_that_the_table_lacks_keeps_the_name_in_its_device_tree(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "proc/device-tree/compatible").write_text("nvidia,p3701-0099\0nvidia,tegra234\0")
    assert jetson.read_jetson(root).board == "NVIDIA Jetson AGX Orin Developer Kit (p3701-0099)"
    (root / "proc/device-tree/compatible").write_text("nvidia,tegra234\0")
    assert jetson.read_jetson(root).board == "NVIDIA Jetson AGX Orin Developer Kit"


def test_a_chip_that_the_table_lacks_has_no_gpu_rather_than_a_guessed_one(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "proc/device-tree/compatible").write_text("nvidia,tegra999\0")
    board = jetson.read_jetson(root)
    assert (board.gpu, board.compute_capability) == (None, None)


def test_a_power_mode_is_looked_up_by_its_number_in_the_board_s_own_table(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    assert jetson.read_power_mode(root) == "MAXN"
    (root / "var/lib/nvpmodel/status").write_text("pmode:0009\n")
    assert jetson.read_power_mode(root) == "mode 9"


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, BOARD: generic", "L4T 36.4.3"),
        ("proc/sys/kernel/osrelease", "5.15.148-tegra\n", "L4T unknown"),
    ],
)
def test_a_board_whose_device_tree_is_hidden_is_an_error_not_another_machine(tmp_path, file, text, told):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(MachineError, match=rf"Jetson \({told}\), but .*/proc/device-tree/compatible") as caught:
        jetson.read_jetson(tmp_path)
    assert "--security-opt systempaths=unconfined" in caught.value.hint


@pytest.mark.parametrize(
    ("missing", "field"),
    [
        ("etc/nv_tegra_release", "l4t"),
        ("var/lib/nvpmodel/status", "power_mode"),
        ("usr/local/cuda/version.json", "cuda"),
    ],
)
def test_a_missing_file_leaves_its_own_field_empty_and_no_other(tmp_path, missing, field):
    root = boards.write_agx_orin(tmp_path)
    whole = jetson.read_jetson(root)
    (root / missing).unlink()
    assert jetson.read_jetson(root) == whole._replace(**{field: None})


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"cuda": {}}', '{"cuda": "13.2"}'])
def test_a_malformed_cuda_version_file_is_no_version(tmp_path, text):
    root = boards.write_agx_orin(tmp_path)
    (root / "usr/local/cuda/version.json").write_text(text)
    assert jetson.read_cuda_toolkit(root) is None


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [("36.3.0", "6.0"), ("36.4.0", "6.1"), ("36.4.3", "6.2"), ("36.5.0", "6.2.2"), ("39.2.0", "7.2"), ("35.4.1", None)],
)
def test_an_l4t_release_belongs_to_the_jetpack_of_nvidia_s_archive(l4t, jetpack):
    assert jetson.l4t_to_jetpack(l4t) == jetpack
