"""Devices that nobody measured: never below the roofline, not far above it, and growing with the shape."""

import numpy as np
import pytest

from hwmodels.costs.rows import complete, predict
from hwmodels.load import load_device

NEW = ("h200", "h20", "b200", "gb200", "mi300x", "mi355x", "rtx-4090", "rtx-5090", "a10", "v100", "l4")
LARGE = {
    "gemm": {"m": [8192, 16, 4096], "n": [8192, 8192, 16384], "k": [8192, 16384, 4096]},
    "attention_prefill": {"batch": [4, 1], "seq_len": [8192, 16384], "heads": [32, 64], "kv_heads": [8, 8],
                          "head_dim": [128, 128]},
    "attention_decode": {"batch": [256, 64], "kv_len": [8192, 32768], "heads": [32, 64], "kv_heads": [8, 8],
                         "head_dim": [128, 128]},
    "mla": {"batch": [64, 8], "seq_len": [1, 4096], "heads": [128, 128], "kv_len": [16384, 0]},
    "moe": {"num_tokens": [16384, 64], "hidden_size": [7168, 4096], "inter_size": [2048, 14336],
            "topk": [8, 2], "num_experts": [256, 8], "tp": [1, 1], "ep": [8, 1]},
}  # fmt: skip


def columns_of(operator, kind="bfloat16"):
    columns = {name: np.array(values, dtype=float) for name, values in LARGE[operator].items()}
    count = len(next(iter(columns.values())))
    if operator == "mla":
        columns["op"] = np.array(["mla_decode", "mla_prefill"], dtype=object)
    return complete(operator, columns | {"dtype": np.full(count, kind, dtype=object)})


@pytest.mark.parametrize("device", NEW)
@pytest.mark.parametrize("operator", LARGE)
def test_large_shapes_lie_between_the_roofline_and_five_times_it(device, operator):
    kind = "float16" if device == "v100" else "bfloat16"
    found = predict(operator, columns_of(operator, kind), load_device(device))
    assert (found.reason == "").all()
    ratio = found.seconds / found.roofline_s
    assert ratio.min() >= 0.999
    assert ratio.max() <= 5.0


@pytest.mark.parametrize("device", NEW)
@pytest.mark.parametrize("axis", ["m", "n", "k"])
def test_a_product_grows_with_each_side(device, axis):
    sizes = 2.0 ** np.arange(6, 15)
    shape = {name: np.full(9, 2048.0) for name in "mnk"} | {axis: sizes}
    shape["dtype"] = np.full(9, "float16", dtype=object)
    seconds = predict("gemm", shape, load_device(device)).seconds
    assert (np.diff(seconds) > -0.02 * seconds[1:]).all()
    assert seconds[-1] > 4 * seconds[3]


def test_more_bandwidth_helps_what_memory_bounds():
    shape = {"m": np.array([16.0]), "n": np.array([8192.0]), "k": np.array([16384.0])}
    faster = predict("gemm", shape, load_device("h200")).seconds
    slower = predict("gemm", shape, load_device("h100")).seconds
    assert 0.65 < (faster / slower)[0] < 0.85
