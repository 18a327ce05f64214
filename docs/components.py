"""Write ``docs/components.md``: every slot and every component, from their docstrings and settings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

PAGE = Path(__file__).parent / "components.md"
INTRODUCTION = """\
# Components

What an experiment can choose, slot by slot. A component is written as its name, or as
`{name: ..., setting: ...}` (routing: `{generator: ..., setting: ...}`); `-s` sets one setting, as
`-s policies.batching.token_budget=1024`. How to add one stands in
[CONTRIBUTING.md](../CONTRIBUTING.md). `make docs` writes this page from the code.
"""
PARAMETER = re.compile(r"^(\w[\w, ]*?) : ", re.MULTILINE)
# key in an experiment file, module, registry, protocol
SLOTS = [
    ("policies.batching", "codesign.policies.batching", "BATCHINGS", "Batching"),
    ("policies.preemption", "codesign.policies.preemption", "PREEMPTIONS", "Preemption"),
    ("policies.load_balance", "codesign.policies.load_balance", "LOAD_BALANCES", "LoadBalance"),
    ("policies.placement", "codesign.policies.placement", "PLACEMENTS", "Placement"),
    ("policies.dispatch", "codesign.policies.dispatch", "DISPATCHES", "Dispatch"),
    ("policies.expert_cache", "codesign.policies.expert_cache", "EXPERT_CACHES", "ExpertCache"),
    (
        "policies.expert_cache.prefetch.predictor",
        "codesign.policies.expert_predictors",
        "PREDICTORS",
        "Predictor",
    ),
    ("policies.switching", "codesign.policies.switching", "SWITCHINGS", "Switching"),
    ("policies.units", "codesign.policies.units", "UNITS", "Units"),
    ("precision.experts.bits", "codesign.policies.expert_bits", "EXPERT_BITS", "ExpertBits"),
    ("workload.routing", "workloads.routing", "GENERATORS", "RoutingGenerator"),
    ("workload.routing.router", "workloads.routers.base", "ROUTERS", "Router"),
    ("workload.requests.arrivals", "workloads.requests.arrivals", "ARRIVALS", "Arrivals"),
    ("workload.requests.prompt_tokens, output_tokens", "workloads.requests.lengths", "LENGTHS", "Lengths"),
    ("cost_model", "hwmodels.costs.model", "COST_MODELS", "CostModel"),
]


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(line for slot in SLOTS for line in _slot(*slot))])


def headings(text: str) -> list[str]:
    """Return the slots and components of a page, in order."""
    return [line for line in text.splitlines() if line.startswith("#")]


def _slot(key: str, module: str, registry: str, protocol: str) -> Iterator[str]:
    package = import_module(module)
    components = getattr(package, registry)
    yield f"## `{key}`\n"
    yield f"{_text(getattr(package, protocol))}\n"
    group = components.slot.replace(" ", "_")
    yield f"In `{_file(package)}`; from another package: entry points `codesign.{group}`.\n"
    for name in components.names():
        yield f"### {name}\n"
        component = components.get(name)
        yield f"{_text(component)}\n"
        yield from _settings(component)


def _file(package: Any) -> str:
    return package.__name__.replace(".", "/") + ("/" if hasattr(package, "__path__") else ".py")


def _text(thing: Any) -> str:
    """Return a docstring as Markdown: what describes a parameter becomes a list, a table keeps its lines."""
    text = inspect.cleandoc(thing.__doc__ or "(no description)").replace("``", "`")
    if "----" in text or "====" in text:
        first, _, rest = text.partition("\n\n")
        return f"{first}\n\n```text\n{rest}\n```"
    return PARAMETER.sub(r"- `\1`: ", text)


def _settings(component: Any) -> Iterator[str]:
    if not dataclasses.is_dataclass(component):
        return
    shown = [field for field in dataclasses.fields(component) if field.init]
    hints = get_type_hints(component)
    if not shown:
        return
    yield "| setting | type | default |\n| --- | --- | --- |"
    for field in shown:
        yield f"| `{field.name}` | {_kind(hints[field.name])} | {_default(field)} |"
    yield ""


def _kind(hint: Any) -> str:
    text = str(hint) if hasattr(hint, "__args__") else str(getattr(hint, "__name__", hint))
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("|", "or")


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default}`"
    return "required" if field.default_factory is dataclasses.MISSING else f"`{field.default_factory()}`"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
