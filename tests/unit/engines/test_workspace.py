"""A build may use half of what is free, and does not begin with too little."""

from __future__ import annotations

import pytest
from fakes import boards
from fakes.machines import DESKTOP, orin

from heartvit_edge.engines import workspace
from heartvit_edge.errors import MachineError


def test_a_jetson_s_free_memory_is_what_the_kernel_can_give_its_cache_included(tmp_path):
    root = boards.write_agx_orin(tmp_path)
    assert workspace.free_memory(orin("10.3.0"), root) == (50331648 << 10, 64339268 << 10)


def test_elsewhere_the_gpu_is_asked(monkeypatch):
    monkeypatch.setattr(workspace, "gpu_memory", lambda: (3, 8))
    assert workspace.free_memory(DESKTOP) == (3, 8)


def test_a_jetson_that_does_not_tell_its_free_memory_is_an_error(tmp_path):
    with pytest.raises(MachineError, match="has no MemAvailable"):
        workspace.free_memory(orin("10.3.0"), tmp_path)


def test_the_limit_is_half_of_what_is_free_in_whole_mib():
    assert workspace.workspace_bytes((301 << 20) + 5, 1 << 30) == 150 << 20


def test_too_little_memory_is_told_with_what_is_needed_and_what_is_free():
    assert workspace.workspace_bytes(128 << 20, 1 << 30) == 64 << 20
    with pytest.raises(MachineError, match=r"64 MiB of workspace are needed.*127 of 1024 MiB are free") as caught:
        workspace.workspace_bytes(127 << 20, 1 << 30)
    assert "systemctl isolate multi-user.target" in caught.value.hint


@pytest.mark.jetson
def test_this_board_has_memory_to_build_with():
    from heartvit_edge.engines.fingerprint import detect_machine

    free, total = workspace.free_memory(detect_machine())
    assert 0 < free < total
