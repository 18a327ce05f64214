"""Make the generated parts of the documentation again (``make docs``): figures from runs, pages from code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import components

import codesign
from codesign.study import library, table
from codesign.study.evaluate import run_study

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).parent / "figures"
PLANS = [(8, 1), (4, 2), (2, 4), (1, 8)]
REQUESTS = 200
# in this order from the bottom; what is not named is summed under "other"
KINDS = {
    "experts": "#4269d0",
    "attention": "#6cc5b0",
    "dispatch": "#efb118",
    "combine": "#f7d774",
    "collective": "#ff725c",
    "waiting": "#a463f2",
    "overhead": "#9c9c9c",
    "other": "#d8d8d8",
}
PARTS = ["memory", "compute", "launch", "link_latency", "link_bandwidth", "engine"]


def plan_results() -> dict[str, codesign.Result]:
    """Run the Mixtral example under four parallel plans."""
    base = codesign.load_experiment(ROOT / "examples/mixtral-dgx-h100.yaml")
    results = {}
    for tensor, expert in PLANS:
        degrees = {"parallel.tensor": tensor, "parallel.expert": expert, "workload.requests.count": REQUESTS}
        results[f"tensor {tensor}\nexpert {expert}"] = codesign.simulate(base.replace(degrees))
    return results


def per_token_ms(result: codesign.Result) -> dict[str, float]:
    """Return run time by kind, per iteration, in milliseconds; idle time left out."""
    scale = 1e3 / result.summary["iterations"]
    named = {kind: result.breakdown_s.get(kind, 0.0) * scale for kind in KINDS}
    rest = sum(s for kind, s in result.breakdown_s.items() if kind not in KINDS and kind != "idle")
    return {**named, "other": rest * scale}


def draw_plans(results: dict[str, codesign.Result], path: Path) -> None:
    """Draw where the time of each plan goes, beside what each part's speed would change."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "codesign", "font.size": 9, "svg.fonttype": "path"})
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_time(left, results)
    _draw_elasticities(right, results)
    figure.savefig(path, metadata={"Date": None})


def _draw_time(axes: Any, results: dict[str, codesign.Result]) -> None:
    bars = {label: per_token_ms(result) for label, result in results.items()}
    bottom = [0.0] * len(bars)
    for kind, color in KINDS.items():
        heights = [bar[kind] for bar in bars.values()]
        axes.bar(list(bars), heights, bottom=bottom, color=color, label=kind, width=0.7)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axes.set_ylabel("ms per iteration")
    axes.set_title("where the time goes")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_elasticities(axes: Any, results: dict[str, codesign.Result]) -> None:
    height = 0.8 / len(results)
    for i, (label, result) in enumerate(results.items()):
        shares = [-result.elasticities.get(part, 0.0) for part in PARTS]
        places = [row + (i - (len(results) - 1) / 2) * height for row in range(len(PARTS))]
        axes.barh(places, shares, height=height, label=label.replace("\n", ", "), color=f"{0.2 + 0.2 * i}")
    axes.set_yticks(range(len(PARTS)), [part.replace("_", " ") for part in PARTS])
    axes.invert_yaxis()
    axes.set_xlabel("% less time for 1 % more speed")
    axes.set_title("what would help")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def write_studies(path: Path) -> None:
    """Run every study on its full grid and write the page of their figures."""
    found = [run_study(library.load_study(name), full=True).to_dict() for name in library.names()]
    path.write_text(table.markdown(found), encoding="utf-8")


def main() -> None:
    """Draw all figures, write all generated pages."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    draw_plans(plan_results(), FIGURES / "plans.svg")
    components.main()
    write_studies(Path(__file__).parent / "studies.md")


if __name__ == "__main__":
    main()
