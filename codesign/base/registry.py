"""Slots and their components: one `Protocol` per slot, one ``@register`` beside each class.

A component is a class (a dataclass whose fields are its settings) or a plain function.  A third party
adds one from its own package through the entry-point group ``codesign.<slot>``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from codesign.base.document import Document, dotted, validate
from codesign.base.errors import ConfigError, unknown_name

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """The components of one slot, by name."""

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self._known: dict[str, Any] = {}
        self._outside: dict[str, Any] | None = None

    def register(self, name: str) -> Callable[[C], C]:
        """Register the decorated class or function under `name`."""

        def decorate(component: C) -> C:
            if name in self._known:
                raise ConfigError(f"{self.slot} {name!r} is registered twice")
            if isinstance(component, type):
                component.name = name  # type: ignore[attr-defined]
                component.__pydantic_config__ = {  # type: ignore[attr-defined]
                    "extra": "forbid",
                    "allow_inf_nan": False,
                }
            self._known[name] = component
            return component

        return decorate

    def _entry_points(self) -> dict[str, Any]:
        if self._outside is None:
            found = entry_points(group=f"codesign.{self.slot.replace(' ', '_')}")
            self._outside = {point.name: point for point in found}
        return self._outside

    def names(self) -> list[str]:
        """Return all names, those of other packages included, sorted."""
        return sorted({*self._known, *self._entry_points()})

    def get(self, name: str, where: str = "") -> Any:
        """Return the component called `name`.

        Raises
        ------
        ConfigError   unknown name, with the nearest one
        """
        if name in self._known:
            return self._known[name]
        if name in self._entry_points():
            return self._entry_points()[name].load()
        raise unknown_name(self.slot, name, self.names(), where)

    def build(self, document: Document) -> T:
        """Build a component from ``name`` or ``{name: ..., setting: ...}``.

        Raises
        ------
        ConfigError   unknown name or setting, a setting of the wrong kind
        """
        data = document.data
        settings = {"name": data} if isinstance(data, str) else data
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            raise document.error(
                (),
                f"a {self.slot} is written as a name or {{name: ..., settings}};"
                f" choose from {', '.join(self.names())}",
                data,
            )
        key = dotted((*document.prefix, "name"))
        component = self.get(settings["name"], f"{document.where(('name',))}: {key}")
        rest = {key: value for key, value in settings.items() if key != "name"}
        inner = Document(rest, document.origin, document.lines, document.origins, document.prefix)
        built: T = validate(component, inner)
        return built
