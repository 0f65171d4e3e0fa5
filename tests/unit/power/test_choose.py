from __future__ import annotations

import sys

import pytest
from fakes.jetson_stats import FakeService, JtopException, nano_power

from heartvit_edge.errors import MachineError
from heartvit_edge.power.choose import choose
from heartvit_edge.power.sampler import NoPowerError, PowerLostError


@pytest.fixture
def service(monkeypatch):
    fake = FakeService([(100.0, nano_power(4000))])
    monkeypatch.setitem(sys.modules, "jtop", fake.package())
    return fake


@pytest.fixture
def socket(tmp_path):
    path = tmp_path / "jtop.sock"
    path.touch()
    return path


def clock():
    return 0.0


@pytest.mark.parametrize("asked", ["auto", "jtop"])
def test_jtop_is_chosen_where_its_service_answers_and_closed_at_the_end(asked, service, socket):
    with choose(asked, interval_s=0.1, clock=clock, socket=socket) as sampler:
        assert sampler.name == "jtop"
        assert sampler.why
    assert service.clients[0].closed


def test_auto_without_a_service_reads_nothing_and_says_why(service, tmp_path):
    with choose("auto", interval_s=0.1, clock=clock, socket=tmp_path / "missing.sock") as sampler:
        assert sampler.name == "none"
        with pytest.raises(NoPowerError, match="jtop service is not running") as caught:
            sampler.stop()
    assert not isinstance(caught.value, PowerLostError)
    assert not service.clients


def test_auto_with_a_service_of_another_version_reads_nothing_and_says_why(service, socket):
    service.refusal = JtopException("Mismatch version")
    with choose("auto", interval_s=0.1, clock=clock, socket=socket) as sampler:
        assert sampler.name == "none"
        assert "Mismatch version" in sampler.why


def test_jtop_that_was_asked_for_and_is_missing_ends_the_command(service, tmp_path):
    with (
        pytest.raises(MachineError, match="jtop service is not running") as caught,
        choose("jtop", interval_s=0.1, clock=clock, socket=tmp_path / "missing.sock"),
    ):
        pass
    assert "systemctl" in caught.value.hint
    assert not service.clients


def test_none_reads_nothing_even_where_jtop_answers(service, socket):
    with (
        choose("none", interval_s=0.1, clock=clock, socket=socket) as sampler,
        pytest.raises(NoPowerError, match="--power none"),
    ):
        sampler.stop()
    assert not service.clients


def test_an_error_of_the_run_passes_through(service, socket):
    with pytest.raises(KeyboardInterrupt), choose("auto", interval_s=0.1, clock=clock, socket=socket):
        raise KeyboardInterrupt
    assert service.clients[0].closed
