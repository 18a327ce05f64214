"""What a user chooses: each slot a file, each choice in it a registered component.

==============  =============================================================
`batching`      what a data group computes next
`preemption`    what becomes of a sequence's cache when its memory is needed
`load_balance`  which data group serves a request
`placement`     which expert group holds each expert
`dispatch`      how token vectors travel to the experts and back
`expert_cache`  which experts are held when they live in another tier
`prefetch`      which of them are expected, by a predictor (below `expert_cache`)
`expert_bits`   in how many bits each expert's weights are stored (``precision.experts.bits``)
`switching`     which expert model of a composition is served next
`units`         which unit computes an expert, xPU or PIM
==============  =============================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.policies.batching import BATCHINGS, Batching
from codesign.policies.load_balance import LOAD_BALANCES, LoadBalance
from codesign.policies.preemption import PREEMPTIONS, Preemption

if TYPE_CHECKING:
    from codesign.experiment import Experiment


@dataclass(frozen=True)
class Policies:
    """The serving policies of an experiment."""

    batching: Batching
    preemption: Preemption
    load_balance: LoadBalance


def build_policies(experiment: Experiment) -> Policies:
    """Build the components that the experiment names.

    Raises
    ------
    ConfigError   unknown name or setting
    """
    return Policies(
        batching=BATCHINGS.build(experiment.part("policies", "batching")),
        preemption=PREEMPTIONS.build(experiment.part("policies", "preemption")),
        load_balance=LOAD_BALANCES.build(experiment.part("policies", "load_balance")),
    )
