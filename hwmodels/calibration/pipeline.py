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
from .fit import Rows, Target, fit, median_error
from .plan import Plan, layers, plan_of
from .select import Selection, robust_cost

SAMPLE = 1000  # rows of a section and device; a fixed draw
FEWEST = 60  # rows below which an implementation has no section of its own
_HOLD = 0.2
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
                sections = _fitted(table_of(operator).section(group.names))
                paced = float(own.seconds[group.rows].min()) > _SLOW_LAUNCH_S
                if paced and "host_s" in plan_of(sections[0]).free:
                    sections = sections[-1:]  # the host's pace says nothing of the device
                for section in sections:
                    found.setdefault(section, []).append((gpu, group))
        return dict(sorted(found.items(), key=lambda item: (item[0].count("/"), item[0])))

    def _fit(self, operator: str, section: str, rows: Measured, members: Members) -> None:
        gpus = list(dict.fromkeys(gpu for gpu, _ in members))
        targets = {gpu: self._target(operator, section, rows, members, gpu) for gpu in gpus}
        whole = Target(section, table_of(operator), [r for each in targets.values() for r in each.rows])
        plan, lines = plan_of(section), [ARCHITECTURES[gpu] for gpu in gpus]
        if "/" in section:
            inherited = self._inherited(section, lines)
            own = _cheapest(whole, inherited, plan, lines)
        else:
            inherited = _best(whole, plan)
            free, gain = _candidates(plan, lines), plan.gain / 2
            known = {name: value for name, value in plan.start.items() if "@" in name}
            search = Selection(whole, inherited, free, _HOLD, gain, tuple(plan.free), known)
            own = {**inherited, **search.run()}
        self.constants.pop(section, None)
        if own:
            self.constants[section] = layers(own)
        self.counts[section] = sum(len(group.rows) for _, group in members)
        best = Selection(whole, inherited, {}, _HOLD, plan.gain).constants(own)
        shown = ", ".join(f"{gpu} {median_error(target, best):.1%}" for gpu, target in targets.items())
        self.say(f"{section}: {self.counts[section]} rows, {len(own)} constants, median error {shown}")

    def _inherited(self, section: str, lines: Sequence[str]) -> dict[str, float]:
        """Return the constants of the section above, ``name@architecture`` where one has its own."""
        known, above = Constants(self.constants), section.rpartition("/")[0]
        while above not in known.sections:
            above = above.rpartition("/")[0]
        shared = known.section(above, "")
        own = {line: known.section(above, line) for line in lines}
        return shared | {f"{name}@{line}": value for line, values in own.items()
                         for name, value in values.items() if value != shared[name]}  # fmt: skip

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


def _candidates(plan: Plan, lines: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return what may leave the inherited: constants of all architectures and of each."""
    each = {f"{name}@{line}": bounds for line in lines for name, bounds in plan.free.items()}
    return plan.free | (each if len(set(lines)) > 1 else {})


def _cheapest(target: Target, inherited: Mapping[str, float], plan: Plan,
              lines: Sequence[str]) -> dict[str, float]:  # fmt: skip
    """Return the few constants of an implementation, with the best of its choices."""
    fastest_s = min(float(each.seconds.min()) for each in target.rows)
    waits = "host_s" in plan.free and fastest_s > _SLOW_LAUNCH_S and inherited["host_s"] < 1e-6
    found = []
    for values in product(*plan.choices.values()):
        other = {name: value for name, value in zip(plan.choices, values, strict=True)
                 if inherited[name] != value}  # fmt: skip
        other |= {"host_s": 0.8 * fastest_s} if waits else {}
        search = Selection(target, {**inherited, **other}, _candidates(plan, lines), _HOLD, plan.gain)
        own = search.run()
        cost = robust_cost(target, search.constants(own))
        found.append((cost * (1.0 + plan.gain) ** len({**other, **own}), {**other, **own}))
    return min(found, key=lambda each: each[0])[1]


def _best(target: Target, plan: Plan) -> dict[str, float]:
    """Fit an operator's own constants once for each combination of choices; return the best."""
    found = []
    for values in product(*plan.choices.values()):
        chosen = {**plan.start, **dict(zip(plan.choices, values, strict=True))}
        constants = fit(target, chosen, plan.free, _HOLD)
        found.append((robust_cost(target, constants), constants))
    return min(found, key=lambda each: each[0])[1]


def _fitted(names: Sequence[str]) -> list[str]:
    """Return the sections that rows are fitted to: their own, and those above that the rows may fall to.

    A module holds more than its kernel, and an eager launch waits for its host, so the sections above are
    not fitted to their rows.
    """
    parts = names[0].split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return (
        [names[0]]
        if parts[-1] in ("module", "eager")
        else [each for each in above if each.startswith(names[-1])]
    )
