"""Refit the host's constants of an engine's profile: ``python -m codesign.validation.engine_fit vllm``.

Each constant is the best of a few round values, one after the other, round after round, until none changes.
Only `calibration_rows` count: all others, and all rows of models that are not in FITTED_MODELS, are
predicted, not fitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from codesign.base.errors import unknown_name
from codesign.validation import serving

GRIDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "step": ("ms", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)),
    "per_sequence": ("us", (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)),
    "launch_layer": ("us", (0.0, 150.0, 300.0, 450.0, 600.0)),
    "request": ("ms", (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)),
    "prompt_token": ("us", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)),
}
START = {"step": 0.4, "per_sequence": 20.0, "launch_layer": 150.0, "request": 2.0, "prompt_token": 4.0}
ROWS, ROUNDS = 20, 4


def calibration_rows(engine: str, data: Path, limit: int = ROWS) -> list[serving.Row]:
    """Return the rows that an engine's constants are fitted on, evenly thinned to about `limit`.

    Raises
    ------
    ConfigError   no measured rows of such an engine
    """
    rows = {serving.configuration(row): row for row in serving.read_rows(data) if not serving.left_out(row)}
    if engine not in {row["backend"] for row in rows.values()}:
        raise unknown_name("engine", engine, sorted({row["backend"] for row in rows.values()}))
    fitted = [row for key, row in sorted(rows.items()) if row["backend"] == engine and serving.is_fitted(row)]
    return fitted[:: max(1, len(fitted) // limit)]


def loss(engine: str, constants: Mapping[str, str], rows: Sequence[serving.Row]) -> float:
    """Return the mean of |ln(ours / measured)|, each at most ln 2, over both times of the rows.

    A `doubtful_ttft` does not count.
    """
    sizes = []
    for row in rows:
        point = serving.simulate_row(row, {"from": engine, **constants})
        for metric in ("tpot",) if serving.doubtful_ttft(row) else ("ttft", "tpot"):
            sizes.append(min(math.log(2.0), abs(math.log1p(point.error(metric)))))
    return sum(sizes) / len(sizes)


def fit(engine: str, rows: Sequence[serving.Row], start: Mapping[str, float]) -> tuple[dict[str, str], float]:
    """Return the constants, as a profile writes them, and their loss.

    Parameters
    ----------
    start : mapping    first value of each of GRIDS, in its unit
    """
    chosen = dict(start)
    best = loss(engine, written(chosen), rows)
    for _ in range(ROUNDS):
        before = dict(chosen)
        for name, (_, grid) in GRIDS.items():
            for value in _neighbours(grid, chosen[name]):
                found = loss(engine, written({**chosen, name: value}), rows)
                if found < best:
                    best, chosen[name] = found, value
        if chosen == before:
            break
    return written(chosen), best


def _neighbours(grid: Sequence[float], value: float) -> list[float]:
    """Return the values of the grid next to the one nearest to `value`, and that one."""
    place = min(range(len(grid)), key=lambda i: abs(grid[i] - value))
    return [grid[i] for i in range(max(0, place - 1), min(len(grid), place + 2)) if grid[i] != value]


def written(values: Mapping[str, float]) -> dict[str, str]:
    """Return constants as a profile writes them."""
    return {name: f"{value:g} {GRIDS[name][0]}" for name, value in values.items()}


@click.command()
@click.argument("engine")
@click.option("--data", type=click.Path(path_type=Path), default=serving.MEASURED, show_default=True)
@click.option("--rows", type=click.IntRange(min=1), default=ROWS, show_default=True, help="About so many.")
def main(engine: str, data: Path, rows: int) -> None:
    """Print the constants that suit the calibration rows of ENGINE best, and how far they are off."""
    chosen = calibration_rows(engine, data, rows)
    constants, found = fit(engine, chosen, START)
    for name, value in constants.items():
        click.echo(f"{name}: {value}")
    click.echo(f"{len(chosen)} rows; mean |ln(ours / measured)| {found:.3f}")


if __name__ == "__main__":
    main()
