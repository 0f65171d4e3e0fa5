"""The fingerprint names what engines depend on, and its differences say why an engine is refused."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import pytest
from fakes import boards

from heartvit_edge.engines import fingerprint
from heartvit_edge.errors import MachineError
from heartvit_edge.spec.machine import Machine


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Return a function that puts a program called nvidia-smi, and nothing else, on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(script: str) -> None:
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


@pytest.fixture
def desktop(tmp_path):
    """Return a tree of system files of an x86-64 computer."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some Processor 9000\nmodel name\t: another\n")
    return root


def machine(**changes):
    values = {
        "system": "Linux aarch64",
        "cpu": "Arm Cortex-A78AE",
        "num_cpus": 8,
        "board": "Jetson AGX Orin 64GB (p3701-0005)",
        "l4t": "36.4.3",
        "power_mode": "MODE_30W",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "num_sms": 16,
        "driver": "540.4.0",
        "cuda": "12.6.11",
        "versions": (("python", "3.10.12"), ("numpy", "1.26.4"), ("onnxruntime", "1.20.0"), ("tensorrt", "10.3.0")),
    }
    return Machine.model_validate(values | changes)


def test_a_board_s_fingerprint_holds_what_its_files_say(tmp_path):
    found = fingerprint.detect_machine(boards.write_agx_orin(tmp_path), sms=lambda: 16)
    assert found.board == "Jetson AGX Orin 64GB (p3701-0005)"
    assert found.cpu == "Arm Cortex-A78AE"
    assert (found.l4t, found.power_mode, found.cuda) == ("36.4.3", "MODE_30W", "12.6.11")
    assert found.driver == "540.4.0"
    assert (found.gpu, found.compute_capability, found.num_sms) == ("Orin", "8.7", 16)


def test_two_boards_with_one_gpu_have_different_fingerprints(tmp_path):
    agx = fingerprint.detect_machine(boards.write_agx_orin(tmp_path / "agx"), sms=lambda: 16)
    orin_nx = fingerprint.detect_machine(boards.write_orin_nx(tmp_path / "nx"), sms=lambda: 8)
    assert agx.compute_capability == orin_nx.compute_capability
    assert fingerprint.explain_difference(agx, orin_nx, "tensorrt") == [
        "board: built with Jetson AGX Orin 64GB (p3701-0005), here Jetson Orin NX 16GB (p3767-0000)",
        "l4t: built with 36.4.3, here 39.2.0",
        "num_sms: built with 16, here 8",
        "driver: built with 540.4.0, here 595.58.03",
        "cuda: built with 12.6.11, here 13.2.1",
        "power_mode: built with MODE_30W, here 25W",
    ]


def test_system_and_processors_and_versions_are_those_of_the_running_process(desktop):
    found = fingerprint.detect_machine(desktop)
    assert found.system == f"{platform.system()} {platform.machine()}"
    assert found.num_cpus == len(os.sched_getaffinity(0))
    assert found.cpu == "Some Processor 9000"
    versions = dict(found.versions)
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == importlib.metadata.version("numpy")


def test_either_distribution_of_onnx_runtime_is_recorded_as_onnxruntime(monkeypatch):
    installed = {"onnxruntime": "1.20.1", "tensorrt": "10.3.0", "numpy": "2.0.0"}

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert fingerprint.package_versions() == (
        ("python", platform.python_version()),
        ("numpy", "2.0.0"),
        ("onnxruntime", "1.20.1"),
        ("tensorrt", "10.3.0"),
    )
    installed["onnxruntime-gpu"] = "1.21.0"
    assert dict(fingerprint.package_versions())["onnxruntime"] == "1.21.0"


def test_a_desktop_gpu_is_what_nvidia_smi_lists_first(desktop, nvidia_smi):
    nvidia_smi('echo "NVIDIA H100 80GB HBM3, 9.0, 570.86.15"; echo "NVIDIA A10, 8.6, 570.86.15"')
    found = fingerprint.detect_machine(desktop, sms=lambda: 132)
    assert (found.gpu, found.compute_capability, found.num_sms) == ("NVIDIA H100 80GB HBM3", "9.0", 132)
    assert (found.cuda, found.driver) == ("driver 570.86.15", "570.86.15")


def test_nvidia_smi_is_asked_for_the_three_fields_it_is_parsed_for(nvidia_smi, tmp_path):
    nvidia_smi(f'echo "$@" > {tmp_path}/asked; echo "A, 8.6, 1"')
    assert fingerprint.ask_nvidia_smi() == fingerprint.Gpu("A", "8.6", "1")
    assert (tmp_path / "asked").read_text() == "--query-gpu=name,compute_cap,driver_version --format=csv,noheader\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Failed to initialize NVML' >&2; exit 18", "exited with 18: Failed to initialize NVML"),
        ("echo 'Orin (nvgpu), [N/A], N/A'", "answered 'Orin \\(nvgpu\\), \\[N/A\\], N/A'"),
        ("exit 0", "answered ''"),
    ],
)
def test_an_answer_that_is_no_gpu_is_an_error_with_what_was_said(nvidia_smi, script, message):
    nvidia_smi(script)
    with pytest.raises(MachineError, match=message):
        fingerprint.ask_nvidia_smi()


def test_an_nvidia_smi_that_hangs_is_given_up(nvidia_smi):
    nvidia_smi("exec /bin/sleep 60")
    with pytest.raises(MachineError, match="did not answer"):
        fingerprint.ask_nvidia_smi(timeout_s=0.2)


def test_without_a_driver_there_is_no_gpu(desktop, nvidia_smi):
    with pytest.raises(MachineError, match="not on PATH"):
        fingerprint.ask_nvidia_smi()
    found = fingerprint.detect_machine(desktop)
    assert (found.gpu, found.compute_capability, found.num_sms, found.cuda) == (None, None, None, None)
    nvidia_smi("exit 9")
    assert fingerprint.detect_machine(desktop).gpu is None


def test_a_machine_does_not_differ_from_itself():
    assert fingerprint.explain_difference(machine(), machine()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"num_cpus": 12},
        {"versions": (("python", "3.12.3"), ("numpy", "2.2.0"), ("onnxruntime", "1.20.0"), ("tensorrt", "10.3.0"))},
    ],
)
def test_what_no_engine_depends_on_is_no_difference(change):
    assert fingerprint.explain_difference(machine(), machine(**change)) == []


@pytest.mark.parametrize(
    ("backend", "change", "line"),
    [
        ("tensorrt", {"cuda": "13.2.1"}, "cuda: built with 12.6.11, here 13.2.1"),
        ("tensorrt", {"driver": "540.5.0"}, "driver: built with 540.4.0, here 540.5.0"),
        ("tensorrt", {"power_mode": "MAXN"}, "power_mode: built with MODE_30W, here MAXN"),
        ("tensorrt", {"compute_capability": None}, "compute_capability: built with 8.7, here none"),
        ("tensorrt", {"num_sms": 14}, "num_sms: built with 16, here 14"),
        ("tensorrt", {"versions": (("tensorrt", "10.7.0"),)}, "tensorrt: built with 10.3.0, here 10.7.0"),
        ("onnxruntime", {"versions": ()}, "onnxruntime: built with 1.20.0, here none"),
        ("onnxruntime", {"cpu": "another"}, "cpu: built with Arm Cortex-A78AE, here another"),
    ],
)
def test_each_backend_names_the_difference_that_it_depends_on(backend, change, line):
    assert fingerprint.explain_difference(machine(), machine(**change), backend) == [line]
    assert line in fingerprint.explain_difference(machine(), machine(**change))


def test_a_sweep_over_power_modes_may_leave_the_mode_out_and_nothing_else():
    other = machine(power_mode="MAXN", driver="540.5.0")
    assert fingerprint.explain_difference(machine(), other, "tensorrt", any_power_mode=True) == [
        "driver: built with 540.4.0, here 540.5.0"
    ]
    assert fingerprint.explain_difference(machine(), machine(power_mode="MAXN"), "onnxruntime") == []


def test_another_mode_excuses_the_multiprocessors_that_it_switches_and_the_same_mode_does_not():
    fewer = machine(power_mode="MODE_15W", num_sms=6)
    assert fingerprint.explain_difference(machine(), fewer, "tensorrt") == [
        "num_sms: built with 16, here 6",
        "power_mode: built with MODE_30W, here MODE_15W",
    ]
    assert fingerprint.explain_difference(machine(), fewer, "tensorrt", any_power_mode=True) == []
    assert fingerprint.explain_difference(machine(), machine(num_sms=14), "tensorrt", any_power_mode=True) == [
        "num_sms: built with 16, here 14"
    ]


def test_a_difference_of_the_other_backend_does_not_count():
    no_tensorrt = machine(versions=(("onnxruntime", "1.20.0"),), cuda=None)
    assert fingerprint.explain_difference(machine(), no_tensorrt, "onnxruntime") == []
