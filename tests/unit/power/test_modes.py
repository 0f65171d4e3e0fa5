"""Power modes by name: set, checked, and put back."""

from __future__ import annotations

import pytest
from fakes.jtop_process import READY, process

from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.power.modes import PowerModes


def test_modes_are_set_and_told_and_the_former_is_told_when_it_is_back():
    told = []
    with PowerModes(told.append, process(READY)) as modes:
        assert (modes.former, modes.names) == ("MAXN", ("MAXN", "15W"))
        modes.set("15W")
    assert told == ["power mode: 15W", "power mode: MAXN again"]


def test_the_service_is_asked_for_the_rate_that_readings_need_since_its_first_client_sets_it():
    with PowerModes(lambda _: None, process(READY), interval_s=0.125) as modes:
        assert modes._client._process.args[-1] == "0.125"


def test_nothing_is_told_where_no_mode_was_set():
    told = []
    with PowerModes(told.append, process(READY)) as modes:
        modes.check(["15W"])
    assert told == []


def test_a_mode_that_the_board_has_not_is_an_input_error_that_names_those_it_has():
    with (
        PowerModes(lambda _: None, process(READY)) as modes,
        pytest.raises(InputError, match="no power mode 50W, only MAXN, 15W"),
    ):
        modes.check(["15W", "50W"])


def test_a_board_without_modes_is_a_machine_error():
    ready = ("say", {"ready": {"interval_s": 0.1, "mode": None, "modes": []}})
    with pytest.raises(MachineError, match="no power modes"):
        PowerModes(lambda _: None, process(ready)).__enter__()


def test_a_former_mode_that_is_not_back_is_raised_with_the_command_that_sets_it():
    with pytest.raises(MachineError, match="former power mode MAXN may not be in force: gone") as caught:
        with PowerModes(lambda _: None, process(READY, modes={"at the end": "gone"})) as modes:
            modes.set("15W")
    assert "sudo nvpmodel" in caught.value.hint


def test_it_is_told_beside_the_error_that_ended_the_run():
    told = []
    with pytest.raises(KeyboardInterrupt):
        with PowerModes(told.append, process(READY, modes={"at the end": "gone"})) as modes:
            modes.set("15W")
            raise KeyboardInterrupt
    assert "former power mode MAXN may not be in force: gone; sudo nvpmodel" in told[-1]


def test_a_service_that_went_away_is_a_machine_error():
    with pytest.raises(MachineError, match="jtop"):
        with PowerModes(lambda _: None, process(READY, ("exit", 3))) as modes:
            modes._client._process.wait()
            modes.set("15W")
