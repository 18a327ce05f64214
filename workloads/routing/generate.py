"""Streams of whole sequences drawn from a fit: lengths and domains as fitted, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from codesign.base.random import stream
from workloads.routing.fits import Fit
from workloads.routing.latent import LatentStream
from workloads.routing.trace import Block, Header

_BLOCK_IDS = 4 * 2**20


def header_of(fit: Fit, seed: int) -> Header:
    """Return the header of a stream that is drawn from a fit."""
    shape = fit.shape()
    return Header(
        shape.n_experts, shape.top_k, shape.moe_layers, tuple(fit.domains), fit.name,
        f"drawn by codesign from the fit of {fit.name or 'a trace'}, seed {seed}",
    )  # fmt: skip


def generate(fit: Fit, tokens: int, seed: int) -> Iterator[Block]:
    """Draw `tokens` tokens of successive sequences; memory holds one block.

    Law: the same fit, number and seed give the same tokens; a longer stream begins with a shorter one.
    """
    source, draw = LatentStream(fit.model, seed), stream(seed, "routing", "sequences")
    quantiles, shares = np.array(fit.lengths, np.float64), np.array(list(fit.domains.values()))
    most = max(_BLOCK_IDS // max(1, source.n_layers * source.top_k), 1)
    number, left, position, domain = -1, 0, 0, 0
    done = 0
    while done < tokens:
        spans: list[tuple[int, int, int, int]] = []
        room = min(most, tokens - done)
        while room > 0:
            if left == 0:
                number, position = number + 1, 0
                at = draw.random() * (len(quantiles) - 1)
                left = max(int(np.interp(at, np.arange(len(quantiles)), quantiles)), 1)
                domain = int(draw.choice(len(shares), p=shares))
                source.set_domain(number, domain)
            n = min(left, room)
            spans.append((number, position, n, domain))
            position, left, room = position + n, left - n, room - n
        requests, starts, lengths, domains = (
            np.array(column, np.int64) for column in zip(*spans, strict=True)
        )
        yield Block(
            source.draw(requests, starts, lengths), np.repeat(requests, lengths), np.repeat(domains, lengths)
        )
        for finished in requests[:-1].tolist() + ([number] if left == 0 else []):
            source.forget(finished)
        done += int(lengths.sum())
