"""doctor tells what a machine has and lacks, and fails for nothing."""

from __future__ import annotations

import json
import socket
import sys

import pytest
from fakes import boards

from benchmarks.power_trees import AGX_SENSORS, write_ina3221, write_rapl
from heartvit_edge import __version__
from heartvit_edge.cli import doctor, requirements


@pytest.fixture
def no_nvidia_driver(monkeypatch, tmp_path):
    """Take nvidia-smi from PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))


def findings(diagnosis):
    return {finding.name: (finding.found, finding.note) for finding in diagnosis.findings}


def abilities(diagnosis):
    return {ability.command: ability for ability in diagnosis.commands}


def test_json_on_stdout_is_the_whole_diagnosis(run_cli):
    result = run_cli("doctor", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    diagnosis = doctor.Diagnosis.model_validate_json(result.stdout)
    assert diagnosis.tool_version == __version__
    assert json.loads(result.stdout)["commands"][-1] == {
        "command": "doctor",
        "works": True,
        "reason": None,
        "hint": None,
    }


def test_the_table_has_one_line_a_finding_and_one_a_command(run_cli):
    result = run_cli("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    diagnosis = doctor.diagnose()
    for finding in diagnosis.findings:
        (line,) = (line for line in lines if line.startswith(f"{finding.name}  "))
        assert line.removeprefix(finding.name).split("  (")[0].strip() == (finding.found or "-")
    for ability in diagnosis.commands:
        assert f"{'yes' if ability.works else 'no':<5}  heartvit-edge {ability.command}" in lines


def test_a_missing_package_is_told_with_the_command_that_installs_it_and_still_exits_0(run_cli, monkeypatch):
    for module in ("torch", "timm", "onnxruntime", "tensorrt"):
        monkeypatch.setitem(sys.modules, module, None)
    result = run_cli("doctor")
    assert result.exit_code == 0
    export = result.stdout[result.stdout.index("no     heartvit-edge export") :].splitlines()
    assert export[1].strip() == "lacks: not installed: torch, timm"
    assert export[2].strip() == "try:   pip install 'heartvit-edge[host]'"
    assert "no     heartvit-edge bench\n" in result.stdout
    assert "yes    heartvit-edge report\n" in result.stdout


def test_a_board_is_told_with_its_jetpack_and_power_mode(tmp_path):
    diagnosis = doctor.diagnose(boards.write_agx_orin(tmp_path), lambda: 16)
    found = findings(diagnosis)
    assert found["board"] == ("Jetson AGX Orin 64GB (p3701-0005)", None)
    assert found["L4T"] == ("36.4.3", "JetPack 6.2")
    assert found["power mode"] == ("MODE_30W", None)
    assert found["GPU"] == ("Orin, compute capability 8.7, 16 multiprocessors", None)
    assert found["CUDA"][0] == "12.6.11"
    assert diagnosis.jetpack == "6.2"


def test_what_a_board_s_files_do_not_say_is_told_with_its_reason(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 9.9, BOARD: generic\n")
    (root / "var/lib/nvpmodel/status").unlink()
    (root / "proc/device-tree/compatible").write_text("nvidia,tegra999\0")
    found = findings(doctor.diagnose(root))
    assert found["L4T"] == ("36.9.9", "of a JetPack that this version does not know")
    assert found["power mode"] == (None, "nvpmodel has stored none in /var/lib/nvpmodel/status")
    assert found["GPU"] == (None, "this version does not know the board's chip")
    (root / "etc/nv_tegra_release").unlink()
    assert findings(doctor.diagnose(root))["L4T"] == (None, "/etc/nv_tegra_release is missing")


def test_a_board_whose_device_tree_is_hidden_can_neither_build_nor_run_engines(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    (root / "proc/device-tree/compatible").unlink()
    diagnosis = doctor.diagnose(root)
    assert diagnosis.machine is None
    assert "systempaths=unconfined" in findings(diagnosis)["machine"][1]
    able = abilities(diagnosis)
    for command in ("build-engine --backend onnxruntime", "bench", "evaluate"):
        assert "is hidden" in able[command].reason
    assert able["report"].works


@pytest.mark.usefixtures("no_nvidia_driver")
def test_a_machine_without_a_driver_is_told_so_and_has_no_board_lines(tmp_path):
    found = findings(doctor.diagnose(tmp_path))
    assert found["board"] == (None, "this is no Jetson")
    assert found["GPU"] == (None, "nvidia-smi is not on PATH: there is no NVIDIA driver")
    assert "L4T" not in found
    assert "power mode" not in found


def test_each_power_source_is_told_with_what_it_lacks_and_the_command_that_reads_it(tmp_path):
    diagnosis = doctor.diagnose(tmp_path)
    assert findings(diagnosis)["power: ina3221"][0] is None
    assert "no RAPL counter" in findings(diagnosis)["power: rapl"][1]
    assert not abilities(diagnosis)["bench --power rapl"].works
    write_ina3221(tmp_path / "sys", AGX_SENSORS)
    write_rapl(tmp_path / "sys")
    diagnosis = doctor.diagnose(tmp_path)
    assert findings(diagnosis)["power: ina3221"] == ("its rails answer", None)
    assert findings(diagnosis)["power: rapl"] == ("its counters answer", None)
    assert abilities(diagnosis)["bench --power ina3221"].works
    assert abilities(diagnosis)["bench --power rapl"].works


def test_energy_through_jtop_needs_its_package_and_its_service(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    lacking = abilities(doctor.diagnose(tmp_path))["bench --power jtop"]
    assert not lacking.works
    assert "jetson-stats is not installed" in lacking.reason
    assert "heartvit-edge[jetson]" in lacking.hint

    monkeypatch.delitem(sys.modules, "jtop")
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "jtop.py").write_text("")
    monkeypatch.syspath_prepend(packages)
    lacking = abilities(doctor.diagnose(tmp_path))["bench --power jtop"]
    assert f"{tmp_path}/run/jtop.sock is missing" in lacking.reason

    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as service:
        service.bind("jtop.sock")
        diagnosis = doctor.diagnose(tmp_path)
    assert abilities(diagnosis)["bench --power jtop"].works
    assert findings(diagnosis)["power: jtop"] == ("its service listens", None)


def test_every_command_of_the_command_line_is_diagnosed_and_no_other(commands):
    diagnosed = {command.split()[0] for command in requirements.commands()}
    assert diagnosed == set(commands)
