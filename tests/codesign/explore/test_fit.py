"""What a design point holds is what the plan of its run would hold."""

from pathlib import Path

import pytest

import codesign
from codesign.explore.fit import fit_of
from codesign.lower.plan import build_plan

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_fit_is_that_of_the_plan(path):
    experiment = codesign.load_experiment(path)
    plan = build_plan(experiment)
    assert fit_of(experiment, plan.parallel) == plan.residency
