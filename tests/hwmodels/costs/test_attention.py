"""Attention: what bounds a kernel on a device, and what a new device inherits."""

import numpy as np
import pytest

from hwmodels.costs.attention import attended_pairs, decode, prefill
from hwmodels.costs.gemm import gemm
from hwmodels.costs.machine import machine_of
from hwmodels.costs.namespace import SCALAR, VECTOR
from hwmodels.load import load_device

H100, H200 = load_device("h100"), load_device("h200")
DECODE = "attention_decode/fa3/fa3-bf16"


def decode_s(device, batch, length, section=DECODE, **constants):
    machine = machine_of(device, override={f"{section}.{name}": value for name, value in constants.items()})
    return decode(SCALAR, machine, batch, batch * length, 32, 8, 512.0, 512.0, 512.0, True, True,
                  section).seconds()  # fmt: skip


@pytest.mark.parametrize("window", [0, 3, 100])
def test_pairs_are_those_that_a_loop_counts(window):
    for q_len, kv_len in ((1, 1), (5, 5), (4, 9), (40, 90)):
        keys = [min(window, p + 1) if window else p + 1 for p in range(kv_len - q_len, kv_len)]
        assert attended_pairs(VECTOR, np.array(q_len), np.array(kv_len), np.array(window)) == sum(keys)


def test_a_long_decode_follows_the_bandwidth_and_a_short_one_does_not():
    long, short = (decode_s(H200, 256, n) / decode_s(H100, 256, n) for n in (16384, 8))
    assert long == pytest.approx(H100.memory["hbm"].bandwidth / H200.memory["hbm"].bandwidth, rel=0.12)
    assert short == pytest.approx(1.0, rel=0.02)


def test_a_unit_reads_no_faster_than_its_pace_whatever_the_memory():
    """Law: where the pace of a unit (bytes a clock) bounds, more bandwidth does not help."""
    slow = {"unit_bytes": 1.0}
    pace_s = 64 * 16384 * 8 * 512.0 / (1.0 * H100.compute.clock * H100.compute.units)
    assert decode_s(H100, 64, 16384, **slow) > 0.9 * pace_s
    assert decode_s(H200, 64, 16384, **slow) == pytest.approx(decode_s(H100, 64, 16384, **slow), rel=0.05)


@pytest.mark.parametrize("name", ["h100", "h200", "b200", "rtx-pro-6000", "a100"])
def test_long_prompts_reach_a_share_of_the_peak_that_kernels_reach(name):
    machine = machine_of(load_device(name))
    terms = prefill(SCALAR, machine, 1, 32768, 32768, 64, 8, 128, 128, 0, 2.0, "bf16",
                    "attention_prefill/bf16-bf16")  # fmt: skip
    assert 0.4 < terms.flop / terms.seconds() / machine.peak("bf16") < 0.8


def test_latents_are_read_by_many_blocks_on_new_devices_alone():
    section = "mla_decode"
    splits = {name: machine_of(load_device(name)).section(section)["max_splits"]
              for name in ("a100", "l40s", "h100", "b200", "rtx-5090")}  # fmt: skip
    assert max(splits["a100"], splits["l40s"]) < 3 < min(splits["h100"], splits["b200"], splits["rtx-5090"])


def test_every_group_of_a_grouped_product_is_quantised():
    machine = machine_of(H100)
    one, many = (gemm(SCALAR, machine, 4096, 128, 512, "fp8", "fp8", "gemm/fp8", True, groups)
                 for groups in (1, 64))  # fmt: skip
    plain = gemm(SCALAR, machine, 4096, 128, 512, "fp8", "fp8", "gemm/fp8", False, 64)
    once = gemm(SCALAR, machine, 4096, 128, 512, "fp8", "fp8", "gemm/fp8", False, 1)
    assert many.memory - plain.memory == pytest.approx(64 * (one.memory - once.memory))
