"""What the process that talks to jtop says and does, run here with a double of the package."""

from __future__ import annotations

import queue
import sys
from pathlib import Path

import pytest
from fakes.jetson_stats import FakeModel, FakeService, JtopException, agx_power, nano_power

from heartvit_edge.power import jtop_client


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(jtop_client.time, "sleep", lambda _: None)
    monkeypatch.setattr(jtop_client, "CONNECT_S", 0.0)

    def run(service, commands=()):
        monkeypatch.setitem(sys.modules, "jtop", service.package())
        said = []
        code = jtop_client.serve(0.1, commands, said.append)
        return code, said

    return run


def test_it_says_the_services_interval_and_modes_first_and_ends_with_its_input(serve):
    service = FakeService([], FakeModel("MAXN", ["MAXN", "15W"]))
    service.interval_s = 1.0  # another client came first
    assert serve(service) == (0, [{"ready": {"interval_s": 1.0, "mode": "MAXN", "modes": ["MAXN", "15W"]}}])
    assert service.clients[0].asked_interval == 0.1


def test_each_tick_is_said_with_power_never_avg_under_the_boards_labels(serve):
    service = FakeService([(100.0, nano_power(4000)), (100.5, nano_power(5200, 2000, 1000))])

    def commands():
        service.tick()
        service.tick()
        yield from ()

    _, (_, first, second) = serve(service, commands())
    assert first["reading"]["rails_mw"] == {"VDD_IN": 4000.0, "VDD_CPU_GPU_CV": 1500.0, "VDD_SOC": 900.0}
    assert second["reading"]["rails_mw"] == {"VDD_IN": 5200.0, "VDD_CPU_GPU_CV": 2000.0, "VDD_SOC": 1000.0}
    assert first["reading"]["stamp"] != second["reading"]["stamp"]
    assert first["reading"]["mode"] is None


def test_negotiated_limits_of_a_usb_port_and_jtops_own_sum_are_no_rails():
    power = agx_power(700, 1000, 2500, 3000)
    power["rail"]["ucsi-source-psy-0-00081"] = {"volt": 5000, "curr": 3000, "power": 15000, "online": True}
    assert jtop_client.rails_mw(power) == {
        "VDDQ_VDD2_1V8AO": 700.0,
        "VDD_CPU_CV": 1000.0,
        "VDD_GPU_SOC": 2500.0,
        "VIN_SYS_5V0": 3000.0,
    }


def test_a_service_that_is_slow_to_answer_at_first_is_asked_again(serve, monkeypatch):
    monkeypatch.setattr(jtop_client, "CONNECT_S", 60.0)
    service = FakeService([])
    service.refusal = JtopException("Error connection")
    package = service.package()
    start = package.jtop.start

    def second_time(client):
        if len(service.clients) == 3:
            service.refusal = None
        start(client)

    package.jtop.start = second_time
    service.package = lambda: package
    code, said = serve(service)
    assert (code, len(service.clients)) == (0, 3)
    assert "ready" in said[0]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (JtopException("Mismatch version jtop service: [4.2]\nand client: [7.2]"), "Mismatch version jtop service: "),
        (ConnectionResetError("the service closed"), "the service closed"),
        (queue.Empty(), "Empty"),
    ],
)
def test_a_service_that_refuses_is_said_in_its_own_words_on_one_line(serve, refusal, words):
    service = FakeService([])
    service.refusal = refusal
    code, ((name, said),) = (lambda code, said: (code, said[0].items()))(*serve(service))
    assert (code, name) == (1, "error")
    assert said.startswith(words)
    assert "\n" not in said


def test_a_service_that_dies_is_said_though_nobody_asks(monkeypatch):
    service = FakeService([])
    said = queue.SimpleQueue()

    def commands():
        service.die(JtopException("Lost connection with jtop server"))
        assert said.get(timeout=5) == {"error": "Lost connection with jtop server"}
        yield from ()

    monkeypatch.setitem(sys.modules, "jtop", service.package())

    def keep(message):
        if "error" in message:
            said.put(message)

    assert jtop_client.serve(0.1, commands(), keep) == 0


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    said = []
    assert jtop_client.serve(0.1, (), said.append) == 1
    assert "cannot be imported" in said[0]["error"]
    assert said[0]["missing"]


def test_modes_are_set_by_name_in_turn_and_the_former_is_put_back_when_the_input_ends(serve):
    model = FakeModel("30W", ["MAXN", "15W", "30W"])
    code, (_, *answers) = serve(FakeService([], model), ["MAXN\n", "15W\n"])
    assert code == 0
    assert answers == [{"mode": "MAXN", "failure": None}, {"mode": "15W", "failure": None}]
    assert model.set_to == ["MAXN", "15W", "30W"]
    assert model.name == "30W"


def test_a_mode_that_others_set_is_left_as_it_is(serve):
    model = FakeModel("30W", ["MAXN", "15W", "30W"])
    service = FakeService([], model)

    def commands():
        model.change("15W")
        yield from ()

    serve(service, commands())
    assert model.set_to == ["15W"]


def test_a_mode_that_the_board_does_not_take_is_said_and_the_former_put_back(serve):
    model = FakeModel("30W", ["MAXN", "30W"])
    model.refuses = {"MAXN"}
    code, (_, answer) = serve(FakeService([], model), ["MAXN\n"])
    assert code == 0
    assert answer == {
        "mode": "30W",
        "failure": "the board did not take power mode MAXN within 20 s and is in 30W",
    }


def test_a_former_mode_that_cannot_be_put_back_is_the_last_that_is_said(serve):
    model = FakeModel("30W", ["MAXN", "30W"])

    def commands():
        yield "MAXN\n"
        model.refuses = {"30W"}

    code, said = serve(FakeService([], model), commands())
    assert (code, said[-1]) == (1, {"error": "the board did not take power mode 30W within 20 s and is in MAXN"})


def test_no_other_file_of_the_package_imports_jtop(repository):
    package = repository / "heartvit_edge"
    found = [
        path.relative_to(package)
        for path in package.rglob("*.py")
        if any(line.split()[:2] in (["from", "jtop"], ["import", "jtop"]) for line in path.read_text().splitlines())
    ]
    assert found == [Path("power/jtop_client.py")]
