"""A ``tensorrt`` module as strict as the surface of one release: what the release lacks, the module lacks.

``tests/golden/tensorrt_api/<version>.json`` maps each class to its members and each method to its signature, read off
NVIDIA's own Python bindings. A class made from it has these members and no others, a method takes only the number of
arguments, the keyword names and the types of its signature, and a subclass may override only what is there. Whatever
member is used is written down.
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, ClassVar

SURFACES = Path(__file__).resolve().parents[1] / "golden" / "tensorrt_api"
VERSIONS = ("8.6.1", "10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
ENUM_PARTS = ("name", "value", "itemsize")

Surface = dict[str, dict[str, str]]


@functools.cache
def _text(version: str) -> str:
    return (SURFACES / f"{version}.json").read_text()


def read_surface(version: str) -> Surface:
    """Return class -> member -> signature of a release; the signature is empty for values and properties."""
    return json.loads(_text(version))


@functools.cache
def plain_signature(owner: str, member: str) -> inspect.Signature | None:
    """Return the signature of the newest release that writes one; later ones overload it and must still take it."""
    for version in reversed(VERSIONS):
        text = read_surface(version).get(owner, {}).get(member)
        if text and (signature := parse_signature(text)):
            return signature
    return None


@functools.cache
def parse_signature(text: str) -> inspect.Signature | None:
    """Return the signature that pybind11 wrote; None for ``(*args, **kwargs)``, which stands for several."""
    opening = text.index("(")
    depth, parts, start, closing = 0, [], opening + 1, None
    for position in range(opening, len(text)):
        letter = text[position]
        if letter in "([{<":
            depth += 1
        elif letter in ")]}>":
            depth -= 1
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
        if depth == 0:
            closing = position
            break
    assert closing is not None, f"unbalanced signature {text!r}"
    if parts and parts[0].startswith("*"):
        return None
    parameters = []
    for part in filter(None, parts):
        declared, has_default, _ = part.partition(" = ")
        name, _, annotation = declared.partition(": ")
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if has_default else inspect.Parameter.empty,
                annotation="ints" if "[" in annotation else annotation.rpartition(".")[2].rpartition("::")[2],
            )
        )
    required = [number for number, one in enumerate(parameters) if one.default is inspect.Parameter.empty]
    for number in range(max(required, default=0)):  # C++ can place a default before a required argument, Python not
        parameters[number] = parameters[number].replace(default=inspect.Parameter.empty)
    return inspect.Signature(parameters)


class StrictEnum(enum.Enum):
    """pybind11's enums convert to int on request and equal nothing but themselves."""

    def __int__(self) -> int:
        return self.value

    __index__ = __int__


class _Property:
    """One property of a class: unset until it is set, and written down when it is used."""

    def __init__(self, strict: StrictModule, owner: str, name: str) -> None:
        self._strict, self._owner, self._name = strict, owner, name

    def __get__(self, instance: Any, _owner: type) -> Any:
        if instance is None:
            return self
        self._strict.touch(f"{self._owner}.{self._name}")
        try:
            return instance._values[self._name]
        except KeyError:
            raise AttributeError(f"{self._owner}.{self._name} was not set") from None

    def __set__(self, instance: Any, value: Any) -> None:
        self._strict.touch(f"{self._owner}.{self._name}")
        instance._values[self._name] = value


class StrictObject:
    """Base of the classes: only members of the surface may be read or set from outside.

    What an imitation itself keeps has a leading underscore.
    """

    _members: ClassVar[dict[str, str]] = {}
    _strict: ClassVar[Any] = None
    _owner: ClassVar[str] = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        made = object.__new__(cls)
        object.__setattr__(made, "_values", {})
        return made

    def __init_subclass__(cls) -> None:
        """Refuse to override what the release has not, or with other parameters."""
        if cls.__module__ == __name__:
            return
        for name, method in vars(cls).items():
            if isinstance(method, FunctionType) and not name.startswith("_"):
                if name not in cls._members:
                    raise TypeError(f"{cls._owner} has no method {name!r} to override")
                wanted = parse_signature(cls._members[name]) if cls._members[name] else None
                taken = list(inspect.signature(method).parameters)
                if wanted is not None and taken != list(wanted.parameters):
                    raise TypeError(f"{cls._owner}.{name} takes {list(wanted.parameters)}, the override {taken}")

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self).__module__ == __name__ and self._members.get(name) != "":
            raise AttributeError(f"{type(self).__name__} has no property {name!r} that can be set")
        object.__setattr__(self, name, value)


def keep(target: Any, /, **values: Any) -> Any:
    """Set an imitation's own attributes, and of the surface's properties those that this release has."""
    for name, value in values.items():
        if name.startswith("_"):
            object.__setattr__(target, name, value)
        elif name in target._members:
            target._values[name] = value
    return target


def peek(target: Any, name: str, default: Any = None) -> Any:
    """Return a property without writing down that it was used."""
    return target._values.get(name, default)


class StrictModule(ModuleType):
    """The module of one release."""

    def __init__(self, version: str, surface: Surface, called: Callable[[str, Any, dict[str, Any]], Any]) -> None:
        """Make every class.

        Args:
            version: What ``__version__`` says.
            surface: The classes.
            called: Does a method's work: told ``Class.member``, the instance and the arguments by name.
        """
        super().__init__("tensorrt")
        self.__version__ = version
        self._called = called
        self.used: set[str] = set()
        self.classes = {
            name: self._enum(name, members) if "value" in members else self._class(name, members)
            for name, members in surface.items()
        }
        self.used.clear()

    def touch(self, member: str) -> None:
        """Write down that a member was used."""
        self.used.add(member)

    def __getattr__(self, name: str) -> Any:
        try:
            found = self.__dict__["classes"][name]
        except KeyError:
            raise AttributeError(f"tensorrt {self.__version__} has no {name}") from None
        self.touch(name)
        return found

    def _enum(self, name: str, members: dict[str, str]) -> Any:
        touch = self.touch

        class Watching(enum.EnumMeta):
            def __getattribute__(cls, member: str) -> Any:
                known = type.__getattribute__(cls, "__dict__").get("_member_map_", {})
                if member in known:
                    touch(f"{name}.{member}")
                    return known[member]
                return super().__getattribute__(member)

        values = {member: number for number, member in enumerate(m for m in members if m not in ENUM_PARTS)}
        content = Watching.__prepare__(name, (StrictEnum,))
        for member, number in values.items():
            content[member] = number
        return Watching(name, (StrictEnum,), content)

    def _class(self, name: str, members: dict[str, str]) -> Any:
        if name == "IHostMemory":  # a buffer, as pybind11 declares it
            return type(name, (bytes,), {"nbytes": property(len)})
        content: dict[str, Any] = {"_members": members, "_strict": self, "_owner": name, "__module__": __name__}
        for member, text in members.items():
            content[member] = self._method(name, member, text) if text else _Property(self, name, member)
        if name != "ILogger":
            return type(name, (StrictObject,), content)
        severities = {member: number for number, member in enumerate(m for m in members if m.isupper())}
        levels = enum.Enum("Severity", severities)
        touch = self.touch

        class WatchingLevels(type):
            def __getattribute__(cls, member: str) -> Any:
                if member in severities:
                    touch(f"{name}.{member}")
                    return levels[member]
                return super().__getattribute__(member)

        return WatchingLevels(name, (StrictObject,), content | {"Severity": levels})

    def _method(self, owner: str, member: str, text: str) -> Callable[..., Any]:
        signature = parse_signature(text) or plain_signature(owner, member)
        name = f"{owner}.{member}"

        def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
            self.touch(name)
            assert signature is not None, f"no release writes the signature of {name}"
            bound = signature.bind(instance, *args, **kwargs)
            given = dict(list(bound.arguments.items())[1:])
            for parameter, value in given.items():
                self._check_type(f"{name}({parameter})", value, signature.parameters[parameter].annotation)
            return self._called(name, instance, given)

        return call

    def _check_type(self, what: str, value: Any, annotation: str) -> None:
        checks: dict[str, Callable[[Any], bool]] = {
            "str": lambda v: isinstance(v, str),
            "bool": lambda v: isinstance(v, bool),
            "int": lambda v: hasattr(v, "__int__") and not isinstance(v, str),
            "SupportsInt": lambda v: hasattr(v, "__int__") and not isinstance(v, str),
            "Dims": lambda v: isinstance(v, Sequence) and all(type(size) is int for size in v),
            "ints": lambda v: isinstance(v, Sequence) and all(type(size) is int for size in v),
            "buffer": lambda v: isinstance(v, bytes | memoryview),
            "Buffer": lambda v: isinstance(v, bytes | memoryview),
        }
        known = self.classes.get(annotation)
        fits = isinstance(value, known) if known else checks.get(annotation, lambda _: True)(value)
        if not fits:
            raise TypeError(f"{what} takes {annotation}, found {type(value).__name__}")
