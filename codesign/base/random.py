"""Named random streams: one seed, one independent child per cause.

Adding a component, a worker or a design point changes no other component's draws, because a stream
depends on the seed and on its own name alone.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def stream_key(seed: int, *names: str | int) -> int:
    """Return the 64-bit key of a named stream (for counter-based draws: ``hash(key, counter)``)."""
    text = "\x1f".join(str(name) for name in (seed, *names))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of a named stream.

    Law: ``stream(s, a)`` and ``stream(s, b)`` are independent for a != b; equal arguments give equal draws.
    """
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *names)))
