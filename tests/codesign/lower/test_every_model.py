"""Every model of the library runs under every kind of parallelism that divides it."""

from itertools import cycle

import pytest

import codesign
import workloads.models as models
from codesign.base.errors import ConfigError

PLANS = [
    {"tensor": 1}, {"tensor": 2}, {"tensor": 1, "data": 4, "expert": 4},
    {"tensor": 2, "data": 2, "expert": 2}, {"tensor": 1, "pipeline": 2},
]  # fmt: skip
ROOMY = {"from": "dgx-h100", "nodes": 4, "device": {"memory": {"hbm": {"capacity": "4000 GiB"}}}}
CASES = list(zip(models.names(), cycle(PLANS)))


@pytest.mark.parametrize(("name", "plan"), CASES, ids=[f"{name}-{plan}" for name, plan in CASES])
def test_a_prompt_and_a_few_tokens(name, plan):
    experiment = {
        "model": name,
        "system": ROOMY,
        "parallel": {**plan, "replicas": 1},
        "workload": {"requests": {"count": 2, "batch": True, "prompt_tokens": 30, "output_tokens": 4}},
        "policies": {"batching": {"name": "chunked_prefill", "token_budget": 16}},
    }
    try:
        result = codesign.simulate(experiment)
    except ConfigError as error:
        known = ("no experts; use replicas", "encoder-decoder", "must divide")
        assert any(reason in str(error) for reason in known)  # noqa: PT017
        return
    assert result.summary["requests"]["completed"] == 2
    assert result.summary["output_tokens"] == 8
    assert all(result.conservation.values())
