"""Dispatch and combine: how often a token travels, and that the slowest path sets the time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.costs.exchange import copies, exchange
from hwmodels.costs.namespace import SCALAR, VECTOR
from hwmodels.costs.rows import predict, warm_machine
from hwmodels.load import load_device, load_system

MACHINE = warm_machine(load_device("h100"))[0]
SYSTEM = load_system("dgx-h100")
LINKS = SYSTEM.intra_node, SYSTEM.inter_node


@given(top_k=st.integers(1, 32), local=st.integers(1, 8), nodes=st.integers(1, 8), once=st.booleans())
def test_a_token_travels_at_most_once_per_expert(top_k, local, nodes, once):
    near, far = copies(once, float(top_k), float(local * nodes), float(nodes))
    assert 0 <= near <= top_k
    assert -1e-9 <= far <= top_k
    if nodes == 1:
        assert far == 0
    if local * nodes == 1:
        assert near == 0


def test_fewer_units_copy_more_slowly():
    sent = (1e9, 0.0)
    times = [exchange(SCALAR, MACHINE, "dispatch", sent, n, LINKS).seconds() for n in (4.0, 24.0, 0.0)]
    assert times[0] > times[1] >= times[2]
    assert times[2] > 1e9 / LINKS[0].bandwidth


def test_nodes_make_it_slower():
    near = exchange(VECTOR, MACHINE, "combine", (np.array([1e8]), np.array([0.0])), np.zeros(1), LINKS)
    far = exchange(VECTOR, MACHINE, "combine", (np.array([5e7]), np.array([5e7])), np.zeros(1), LINKS)
    assert far.seconds() > near.seconds()


def test_tables_name_what_is_not_covered():
    columns = {"num_tokens": np.array([64.0]), "hidden_size": np.array([7168.0]), "topk": np.array([8.0]),
               "op": np.array(["dispatch"], dtype=object), "kernel": np.array(["deepep_ll"], dtype=object),
               "ep": np.array([np.nan])}  # fmt: skip
    assert predict("moe_alltoall", columns, load_device("h100")).seconds[0] == pytest.approx(50e-6, rel=0.8)
    columns["op"][0] = "gather"
    assert predict("moe_alltoall", columns, load_device("h100")).reason[0] == "op 'gather' is not modelled"
    assert "no system" in predict("moe_alltoall", {**columns, "op": np.array(["combine"], dtype=object)},
                                  load_device("mi250x-gcd")).reason[0]  # fmt: skip
