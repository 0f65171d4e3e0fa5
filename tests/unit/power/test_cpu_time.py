"""The processor time of other processes, from /proc/stat."""

from __future__ import annotations

import os

import pytest

from heartvit_edge.power.cpu_time import OthersCpuTime

HERTZ = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def tell(tmp_path):
    def write(user_s, idle_s, disk_s=0.0, steal_s=0.0, guest_s=0.0):
        times = (user_s, 0, 0, idle_s, disk_s, 0, 0, steal_s, guest_s, 0)
        text = " ".join(str(round(seconds * HERTZ)) for seconds in times)
        (tmp_path / "stat").write_text(f"cpu  {text}\ncpu0 1 2 3 4\n")

    return write


def test_what_is_neither_idle_nor_ours_is_of_others(tmp_path, tell):
    ours = iter([1.0, 2.0])
    others = OthersCpuTime(tmp_path, lambda: next(ours))
    tell(user_s=10, idle_s=100)
    assert others.look() is None
    # Eight seconds of core time: one ours, two stolen by another machine, one another's, four idle or for a disk.
    tell(user_s=12, idle_s=103, disk_s=1, steal_s=2)
    assert others.look() == pytest.approx(3 / 8)


def test_time_of_guests_is_not_counted_twice(tmp_path, tell):
    others = OthersCpuTime(tmp_path, lambda: 0.0)
    tell(user_s=0, idle_s=0)
    others.look()
    tell(user_s=1, idle_s=1, guest_s=1)
    assert others.look() == pytest.approx(0.5)


def test_rounding_makes_no_share_below_zero_and_no_time_gives_none(tmp_path, tell):
    ours = iter([0.0, 1.02, 1.02])
    others = OthersCpuTime(tmp_path, lambda: next(ours))
    tell(user_s=0, idle_s=0)
    others.look()
    tell(user_s=1, idle_s=1)
    assert others.look() == 0.0
    assert others.look() is None


@pytest.mark.parametrize("text", [None, "", "intr 5", "cpu 1 2 3"])
def test_a_machine_that_does_not_tell_gives_none(tmp_path, text):
    if text is not None:
        (tmp_path / "stat").write_text(text)
    others = OthersCpuTime(tmp_path)
    assert (others.look(), others.look()) == (None, None)
