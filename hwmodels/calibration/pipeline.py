"""The calibration: an operator's own section on all rows, then each implementation and architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.costs.machine import Constants, Machine
from hwmodels.costs.rows import Group, batch_of, groups, invalid_rows, table_of, uncovered, warm_machine
from hwmodels.costs.tables import TABLES
from hwmodels.load import load_device
from hwmodels.spec import System

from .data import ARCHITECTURES, DEVICES, Measured, read
from .fit import Rows, Target, fit, layered, median_error
from .plan import Plan, plan_of

SAMPLE = 1000  # rows of a section and device; a fixed draw
FEWEST = 60  # rows below which an implementation has no section of its own
_HOLD, _HOLD_ARCHITECTURE = 0.2, 0.6
_SLOW_LAUNCH_S = 40e-6  # no kernel of one launch takes this long for its smallest shape
Say = Callable[[str], None]
Members = Sequence[tuple[str, Group]]  # (gpu, rows of one implementation on it)


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass
class Calibration:
    """The state of one calibration: constants so far, the devices that may be looked at."""

    constants: dict[str, Any]  # as in the constants file
    folder: Path
    gpus: Sequence[str] = tuple(DEVICES)
    say: Say = _silent
    counts: dict[str, int] = field(default_factory=dict)  # rows of the training shapes by section

    def run(self, operators: Iterable[str] = tuple(TABLES)) -> None:
        """Fit the sections of each operator, in the order of the tables (modules contain GEMMs)."""
        for operator in operators:
            rows = read(operator, self.folder, self.gpus)
            rows = rows.where(~rows.test)
            for section, members in self._sections(operator, rows).items():
                if sum(len(group.rows) for _, group in members) >= FEWEST:
                    self._fit(operator, section, rows, members)

    def _machine(self, gpu: str) -> tuple[Machine, System | None]:
        return warm_machine(load_device(DEVICES[gpu]), Constants(self.constants))

    def _sections(self, operator: str, rows: Measured) -> dict[str, list[tuple[str, Group]]]:
        """Return for each section the groups of rows of each device; operators' own sections first."""
        found: dict[str, list[tuple[str, Group]]] = {}
        for gpu in self.gpus:
            (machine, system), own = self._machine(gpu), rows.where(rows.gpu == gpu)
            reason = invalid_rows(table_of(operator), own.columns)
            for group in groups(operator, own.columns, machine, reason):
                if uncovered(operator, group.names, machine, system):
                    continue
                for section in _fitted(table_of(operator).section(group.names)):
                    found.setdefault(section, []).append((gpu, group))
        return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))

    def _fit(self, operator: str, section: str, rows: Measured, members: Members) -> None:
        gpus = list(dict.fromkeys(gpu for gpu, _ in members))
        targets = {gpu: self._target(operator, section, rows, members, gpu) for gpu in gpus}
        whole = Target(section, table_of(operator), [r for each in targets.values() for r in each.rows])
        plan, lines = plan_of(section), [ARCHITECTURES[gpu] for gpu in gpus]
        parent = dict(self.constants[section.partition("/")[0]]["default"])
        best = _best(whole, _start(whole, parent, plan), plan)
        if len(gpus) > 1 and (section != operator or plan.by_architecture):
            best = _by_architecture(whole, best, plan, lines)
        shared = layered(best, "")
        base = parent if "/" in section else {}
        layers = {"default": _differences(shared, base)}
        layers |= {line: own for line in lines if (own := _differences(layered(best, line), shared))}
        self.constants[section] = layers
        self.counts[section] = sum(len(group.rows) for _, group in members)
        shown = ", ".join(f"{gpu} {median_error(target, best):.1%}" for gpu, target in targets.items())
        self.say(f"{section}: {self.counts[section]} rows, median error {shown}")

    def _target(self, operator: str, section: str, rows: Measured, members: Members, gpu: str) -> Target:
        """Return a fixed draw of the section's rows on one device."""
        rng, out = np.random.default_rng(0), []
        (machine, system), own = self._machine(gpu), rows.where(rows.gpu == gpu)
        mine = [group for name, group in members if name == gpu]
        share = min(1.0, SAMPLE / sum(len(group.rows) for group in mine))
        for group in mine:
            drawn = rng.permutation(group.rows)[: max(1, round(share * len(group.rows)))]
            part = Group(section, group.names, np.sort(drawn))
            batch = batch_of(part, own.columns, machine, system)
            out.append(Rows(batch, own.seconds[part.rows], ARCHITECTURES[gpu]))
        return Target(section, table_of(operator), out)


def _start(target: Target, parent: Mapping[str, float], plan: Plan) -> dict[str, float]:
    """Return where the fit starts: the operator's constants; the host's delay from the fastest row."""
    fastest_s = min(float(each.seconds.min()) for each in target.rows)
    waits = "host_s" in plan.free and fastest_s > _SLOW_LAUNCH_S
    return {**parent, "host_s": 0.8 * fastest_s} if waits else dict(parent)


def _best(target: Target, start: Mapping[str, float], plan: Plan) -> dict[str, float]:
    """Fit once for each combination of choices; return the best."""
    found = []
    for values in product(*plan.choices.values()):
        chosen = {**start, **dict(zip(plan.choices, values, strict=True))}
        constants = fit(target, chosen, plan.free, _HOLD)
        found.append((median_error(target, constants), constants))
    return min(found, key=lambda each: each[0])[1]


def _by_architecture(target: Target, best: dict[str, float], plan: Plan,
                     lines: Sequence[str]) -> dict[str, float]:  # fmt: skip
    """Fit constants of each architecture together with the shared ones; a new one gets their mean."""
    names = plan.by_architecture or tuple(plan.free)
    start = {**best, **{f"{name}@{line}": best[name] for name in names for line in lines}}
    free = {name: bounds for name, bounds in plan.free.items() if name not in names}
    free |= {f"{name}@{line}": plan.free[name] for name in names for line in lines}
    found = fit(target, start, free, _HOLD_ARCHITECTURE)
    for name in names:
        each = [found[f"{name}@{line}"] for line in lines]
        found[name] = float(f"{np.exp(np.mean(np.log(each))):.4g}")
    return found


def _fitted(names: Sequence[str]) -> list[str]:
    """Return the sections that rows are fitted to (the others are aliases): the operator's and their own."""
    pooled = [names[-1]] if "/" not in names[-1] and "-module" not in names[0] else []
    return list(dict.fromkeys([names[0], *pooled]))


def _differences(own: Mapping[str, float], parent: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in own.items() if parent.get(name) != value}
