"""A double of the package ``jtop``: the part of its client that the sampler uses, with readings that a test hands out.

What a client gives was recorded from jetson-stats 7.2.2: a rail that carries the whole input stands in ``tot``, under
its name, and not in ``rail``; ``uptime`` is the tick of the service.
"""

from __future__ import annotations

import importlib.machinery
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any


def reading(milliwatt: int) -> dict[str, Any]:
    """Return one rail as the service gives it; ``avg`` is no mean of anything and differs from ``power``."""
    return {"volt": 5000, "curr": milliwatt // 5, "power": milliwatt, "avg": milliwatt // 2, "online": True}


def nano_power(vdd_in: int, vdd_cpu_gpu_cv: int = 1500, vdd_soc: int = 900) -> dict[str, Any]:
    """Return the rails of an Orin NX or Nano, where VDD_IN carries the whole module."""
    rails = {"VDD_CPU_GPU_CV": reading(vdd_cpu_gpu_cv), "VDD_SOC": reading(vdd_soc)}
    return {"rail": rails, "tot": reading(vdd_in) | {"name": "VDD_IN"}}


def agx_power(*milliwatt: int) -> dict[str, Any]:
    """Return the rails of an AGX Orin, in the alphabetical order of the service; its total is a plain sum."""
    labels = ("VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0")
    rails = {label: reading(value) for label, value in zip(labels, milliwatt, strict=True)}
    return {"rail": rails, "tot": {"power": sum(milliwatt), "avg": 0}}


class JtopException(Exception):
    """Stands for the package's own error."""


class FakeModel:
    """The part of the package's power mode controller that is used; a change takes effect after some looks at it."""

    def __init__(self, name: str, models: list[str], takes: int = 2) -> None:
        self.models = models
        self.takes = takes
        self.refuses: set[str] = set()
        self.set_to: list[str] = []
        self._name = name
        self._pending: tuple[int, str] | None = None

    @property
    def name(self) -> str:
        if self._pending is not None:
            left, name = self._pending
            self._pending = (left - 1, name) if left > 1 else None
            if self._pending is None:
                self._name = name
        return self._name

    def is_running(self) -> bool:
        return self._pending is not None

    def change(self, name: str) -> None:
        self.set_to.append(name)
        if name not in self.models:
            raise JtopException(f"NV Power Model {name} does not exists!")
        if name not in self.refuses:
            self._pending = (self.takes, name)


class FakeService:
    """What the double's clients connect to.

    Attributes:
        clients: Every client that was made, in order.
        refusal: Raised when a client connects, unless None.
        death: What the client's thread met, after which it has ended; None while it runs.
        interval_s: The interval at which the service runs.
        model: The board's power modes; None for a board without nvpmodel.
    """

    def __init__(self, ticks: Iterable[tuple[float, dict[str, Any]]], model: FakeModel | None = None) -> None:
        self.ticks: Iterator[tuple[float, dict[str, Any]]] = iter(ticks)
        self.clients: list[Any] = []
        self.refusal: BaseException | None = None
        self.death: BaseException | None = None
        self.ended = threading.Event()
        self.interval_s = 0.1
        self.model = model

    def package(self) -> types.ModuleType:
        """Return the module to put in place of ``jtop``."""
        service = self

        class Client:
            def __init__(self, interval: float) -> None:
                service.clients.append(self)
                self.asked_interval = interval
                self.observers: list[Callable[[Any], None]] = []
                self.power: dict[str, Any] = {}
                self.uptime = timedelta()

            @property
            def interval(self) -> float:
                return service.interval_s

            @property
            def nvpmodel(self) -> FakeModel | None:
                return service.model

            @nvpmodel.setter
            def nvpmodel(self, name: str) -> None:
                assert service.model is not None
                service.model.change(name)

            def attach(self, observer: Callable[[Any], None]) -> None:
                self.observers.append(observer)

            def start(self) -> None:
                if service.refusal is not None:
                    raise service.refusal

            def join(self) -> None:
                service.ended.wait()

            def ok(self, spin: bool = False) -> bool:
                if not spin:
                    raise AssertionError("ok() without spin ends the client after three slow intervals")
                if service.death is not None:
                    raise service.death
                return True

        module = types.ModuleType("jtop")
        module.__spec__ = importlib.machinery.ModuleSpec("jtop", None)
        module.jtop = Client
        module.JtopException = JtopException
        return module

    def tick(self) -> None:
        """Send the next reading to the latest client, as the service's thread does."""
        client = self.clients[-1]
        uptime, client.power = next(self.ticks)
        client.uptime = timedelta(seconds=uptime)
        for observer in client.observers:
            observer(client)

    def die(self, error: BaseException) -> None:
        """End the client's thread with this error."""
        self.death = error
        self.ended.set()
