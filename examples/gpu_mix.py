"""Which mix of GPUs serves a trace at least cost?  The simulator's throughputs into an integer programme.

The question and the programme are Melange's (Griggs et al., arXiv 2404.14527); the throughputs are simulated
here: each type of GPU alone, for each class of request lengths, at growing concurrency, as long as a token
takes no longer than the SLO allows.  Prices are those of the paper, in USD per hour.

    python examples/gpu_mix.py              # two SLOs, four rates; less than a minute
"""

from __future__ import annotations

from typing import Any

import numpy as np

import codesign
from codesign.explore.mix import cheapest_mix, single_type

USD_PER_HOUR = {"l4": 0.70, "a10": 1.01, "a100": 3.67, "h100": 7.52}
PROMPT_EDGES, OUTPUT_EDGES = (0, 128, 512, 2048, 10**9), (0, 64, 256, 10**9)
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64, 128)
SLOS_S = (0.120, 0.040)  # mean time per output token
RATES_PER_S = (1.0, 4.0, 12.0, 40.0)
EXPERIMENT: dict[str, Any] = {
    "model": "llama-2-7b",
    "system": {"from": "workstation", "device": "l4"},
    "workload": {"requests": {"count": 8, "concurrency": 8, "prompt_tokens": 64, "output_tokens": 64}},
    "policies": {"batching": {"name": "chunked_prefill", "token_budget": 1024, "max_sequences": 128}},
}


def classes_of(dataset: str, count: int = 2000) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return mean lengths (prompt, output) of each class of a dataset's requests, and its share of them."""
    requests = {"dataset": dataset, "count": count, "rate": "1 /s"}
    found = codesign.load_experiment({**EXPERIMENT, "workload": {"requests": requests}}).requests()
    prompts, outputs = np.asarray(found.prompt_tokens), np.asarray(found.output_tokens)
    which = np.digitize(prompts, PROMPT_EDGES) * len(OUTPUT_EDGES) + np.digitize(outputs, OUTPUT_EDGES)
    names, counts = np.unique(which, return_counts=True)
    lengths = [(round(prompts[which == n].mean()), round(outputs[which == n].mean())) for n in names]
    return lengths, counts / count


def simulated(lengths: list[tuple[int, int]]) -> codesign.Sweep:
    """Run every class on every type of GPU at every concurrency."""
    prompts, outputs = zip(*lengths, strict=True)
    requests = "workload.requests"
    return codesign.sweep({
        "experiment": EXPERIMENT,
        "axes": {"system.device": list(USD_PER_HOUR)},
        "zip": [
            {f"{requests}.prompt_tokens": list(prompts), f"{requests}.output_tokens": list(outputs)},
            {f"{requests}.concurrency": list(CONCURRENCY), f"{requests}.count": [3 * c for c in CONCURRENCY]},
        ],
    })  # fmt: skip


def throughputs(found: codesign.Sweep, lengths: list[tuple[int, int]], slo_s: float) -> np.ndarray:
    """Return requests/s of a class on a type of GPU within the SLO; 0 where none meets it; (B, G)."""
    out = np.zeros((len(lengths), len(USD_PER_HOUR)))
    keys = [f"workload.requests.{kind}_tokens" for kind in ("prompt", "output")]
    for row in found.table.to_pylist():
        if row["status"] == "ok" and row["tpot_s.mean"] <= slo_s:
            at = lengths.index((row[keys[0]], row[keys[1]]))
            g = list(USD_PER_HOUR).index(row["system.device"])
            out[at, g] = max(out[at, g], row["requests_per_s"])
    return out


def main(dataset: str = "sharegpt") -> list[dict[str, Any]]:
    """Print the cheapest mix for each SLO and rate, and what each type alone would cost."""
    lengths, shares = classes_of(dataset)
    found, rows = simulated(lengths), []
    prices = list(USD_PER_HOUR.values())
    print(f"{dataset}: {len(lengths)} classes of requests, {len(found)} simulations: {found.counts}")
    for slo_s in SLOS_S:
        speeds = throughputs(found, lengths, slo_s)
        for rate in RATES_PER_S:
            mix = cheapest_mix(rate * shares, speeds, prices)
            alone = dict(zip(USD_PER_HOUR, single_type(rate * shares, speeds, prices), strict=True))
            saved = {name: 1 - mix.usd_per_hour / usd for name, usd in alone.items() if usd}
            machines = {name: int(n) for name, n in zip(USD_PER_HOUR, mix.machines, strict=True) if n}
            rows.append({"slo_s": slo_s, "rate": rate, "machines": machines, "usd_per_hour": mix.usd_per_hour,
                         "saved": saved})  # fmt: skip
            told = ", ".join(f"{100 * share:.0f} % below {name} alone" for name, share in saved.items())
            print(f"TPOT <= {slo_s * 1e3:.0f} ms, {rate:g} requests/s:", machines, end=", ")
            print(f"{mix.usd_per_hour:.2f} $/h: {told}")
    return rows


if __name__ == "__main__":
    main()
