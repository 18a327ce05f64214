"""``python -m hwmodels.calibration``: refit the constants from the measured tables, reproducibly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from hwmodels.costs.machine import CONSTANTS_FILE, Constants
from hwmodels.costs.tables import TABLES

from .data import DEFAULT_FOLDER, DEVICES
from .leave_out import errors_without
from .pipeline import Calibration
from .plan import bare, owner

_HEAD = """\
# Fitted constants of the operator costs; written by `python -m hwmodels.calibration`, not by hand.
# A section is an operator or operator/implementation (which holds only what differs); `default` is what any
# device inherits, an architecture's own values stand below it.  An alias names the section that stands for
# implementations that nobody measured.  Names are explained in the formulas of hwmodels/costs.
# The rows are those of the training shapes of the measured tables (aiconfigurator-core 0.12.0, Apache-2.0).
"""


@click.command()
@click.argument("operators", nargs=-1, metavar="[OP]...")
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True)
@click.option("--leave-out", "left_out", multiple=True, type=click.Choice(sorted(DEVICES)),
              help="Fit without this GPU (or more), print the errors on it, write nothing.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=CONSTANTS_FILE)
def main(operators: tuple[str, ...], data: Path, left_out: tuple[str, ...], output: Path) -> None:
    """Refit the constants of the operator costs (all, or those of OP) on the training shapes of DATA.

    The fit starts from fixed values, so that it gives the same constants whatever the file holds.
    """
    chosen = operators or tuple(TABLES)
    constants: dict[str, Any] = yaml.safe_load(CONSTANTS_FILE.read_text())
    if left_out:
        constants = bare(constants, TABLES)  # nothing may be known of that GPU, by no operator
        chosen = tuple(dict.fromkeys(("gemm", *chosen))) if "mla" in chosen else chosen
    else:
        constants = bare(constants, chosen)
    calibration = Calibration(constants, data, [gpu for gpu in DEVICES if gpu not in left_out])

    def say(text: str) -> None:
        """Report a section, and keep it should the run be killed."""
        click.echo(text, err=True)
        if not left_out:
            write(constants, calibration.counts, output)

    calibration.say = say
    calibration.run(chosen)
    for gpu in left_out:
        for operator in chosen:
            click.echo(errors_without(gpu, operator, data, constants))
    if not left_out:
        click.echo(f"{output}: {sum(calibration.counts.values())} rows fitted, {count(constants)} constants")


def count(constants: Mapping[str, Any]) -> int:
    """Count the fitted constants of all sections and architectures."""
    return sum(len(layer) for layers in Constants(constants).sections.values() for layer in layers.values())


def write(constants: dict[str, Any], counts: dict[str, int], place: Path) -> None:
    """Write the constants file; the source of each section names its rows."""
    sources = dict(constants.get("sources", {}))
    for section, count in counts.items():
        sources[section] = f"fitted to {count} rows of {owner(section)}"
    rest = {name: values for name, values in constants.items() if name != "sources"}
    sources = {section: source for section, source in sources.items() if section in rest}
    ordered = {"sources": dict(sorted(sources.items())), **rest}
    text = yaml.dump(ordered, Dumper=_Plain, sort_keys=False, width=108, default_flow_style=None)
    place.write_text(_HEAD + text)


class _Plain(yaml.SafeDumper):
    """YAML without anchors: equal values are written out."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value in full."""
        return True


if __name__ == "__main__":
    main()
