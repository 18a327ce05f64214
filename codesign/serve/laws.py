"""Conservation laws, checked at the end of every run: cheap, and stopping the run if violated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from codesign.base.errors import InvariantError
from codesign.serve.cluster import Cluster
from codesign.serve.lane import ITERATION_COLUMNS
from ext.iteration import TALLY

_CLOSE = 1e-9  # sums of the same floats in another order


def check_laws(cluster: Cluster) -> dict[str, bool]:
    """Check every law of a finished run.

    Returns
    -------
    dict    name of the law -> True

    Raises
    ------
    InvariantError   law, place and seed of the first violation
    """
    held = {}
    for law, place, found in _violations(cluster, _last_end_s(cluster)):
        if found:
            raise InvariantError(law, place, found, cluster.experiment.seed)
        held[law] = True
    return held


def _violations(cluster: Cluster, end_s: float) -> Iterator[tuple[str, str, str]]:
    yield "requests in = completed + refused + unfinished", "cluster", _requests(cluster)
    yield "output tokens given = tokens of completed and running requests", "cluster", _tokens(cluster)
    for i, engine in enumerate(cluster.engines):
        yield "routed (token, layer, expert) = executed", f"engine {i}", _routed(engine.tally)
        yield "bytes sent = bytes received", f"engine {i}", _bytes(engine.tally)
        yield "no resource is busy for longer than the run", f"engine {i}", _busy(engine, end_s)
    yield "seconds of the critical paths fill the iterations", "cluster", _paths(cluster)
    for i, group in enumerate(cluster.groups):
        memory, running = group.memory, [*group.prefilling, *group.decoding]
        held = sum(sequence.kv_bytes for sequence in running)
        held += memory.prefix.held_bytes if memory.prefix else 0
        left = memory.held_bytes - held + memory.swapped_bytes - sum(s.swapped_bytes for s in group.swapped)
        yield "KV bytes taken = given back + held", f"group {i}", f"{left} bytes" if left else ""
    yield "arrival <= admission <= first token <= end", "requests", _causality(cluster)
    yield from cluster.own_laws()


def _last_end_s(cluster: Cluster) -> float:
    """Return when the last iteration ends: later than the horizon, if that cut it."""
    columns = len(ITERATION_COLUMNS)
    return max(cluster.shared.log[1::columns], default=0.0)


def _requests(cluster: Cluster) -> str:
    inside = len(
        {
            s
            for group in cluster.groups
            for s in (*group.waiting, *group.prefilling, *group.decoding, *group.swapped)
        }
    )
    inside += cluster.at_front_end + cluster.waiting_elsewhere
    if cluster.submitted == cluster.finished + cluster.refused + inside:
        return ""
    return f"{cluster.submitted} in, {cluster.finished} done, {cluster.refused} refused, {inside} inside"


def _tokens(cluster: Cluster) -> str:
    done = ~np.isnan(cluster.table[:, 3])
    expected = int(cluster.requests.output_tokens[done].sum())
    for group in cluster.groups:
        expected += sum(s.generated + s.decode_steps(group.step) for s in group.decoding)
        expected += sum(s.generated for s in (*group.prefilling, *group.swapped))
    expected += sum({s: s.generated for group in cluster.groups for s in group.waiting}.values())
    given = cluster.shared.output_tokens
    return "" if given == expected else f"{given} given, {expected} expected"


def _routed(tally: np.ndarray) -> str:
    routed, executed = tally[TALLY.index("routed")], tally[TALLY.index("executed")]
    return "" if routed == executed else f"{routed:.0f} routed, {executed:.0f} executed"


def _bytes(tally: np.ndarray) -> str:
    for link in ("link", "network"):
        sent, received = tally[TALLY.index(f"{link}_sent")], tally[TALLY.index(f"{link}_received")]
        if abs(sent - received) > _CLOSE * max(sent, received):
            return f"{link}: {sent:.17g} B sent, {received:.17g} B received"
    return ""


def _busy(engine: object, end_s: float) -> str:
    busy_s = engine.busy_s  # type: ignore[attr-defined]
    worst = int(np.argmax(busy_s)) if len(busy_s) else 0
    if not len(busy_s) or busy_s[worst] <= end_s * (1 + _CLOSE):
        return ""
    return f"resource {worst}: {busy_s[worst]:.17g} s busy in {end_s:.17g} s"


def _paths(cluster: Cluster) -> str:
    log = np.array(cluster.shared.log).reshape(-1, len(ITERATION_COLUMNS))
    spent = float((log[:, 1] - log[:, 0]).sum())
    found = sum(float(e.path_parts.sum() + e.tally[TALLY.index("queued_s")]) for e in cluster.engines)
    return (
        "" if abs(spent - found) <= 1e-6 * max(spent, 1e-9) else f"{found:.17g} s on paths of {spent:.17g} s"
    )


def _causality(cluster: Cluster) -> str:
    times = cluster.table[:, :4]
    wrong = np.flatnonzero((np.diff(times, axis=1) < 0).any(axis=1))
    return f"request {wrong[0]}: {times[wrong[0]].tolist()}" if len(wrong) else ""
