"""Why a run took as long as it did: attribution of time, elasticities, advice.

``from codesign.explain import explain`` gives `codesign.explain.explanation.explain`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Reach `explain` lazily."""
    if name != "explain":
        raise AttributeError(f"module 'codesign.explain' has no attribute {name!r}")
    from codesign.explain.explanation import explain

    return explain
