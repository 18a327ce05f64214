"""A small model on a workstation, of which something lives in another tier, and other machines for it."""

LAYERS = 6
PCIE = 25.6e9  # bytes/s of the workstation's link, each way
NODE = {"from": "dgx-h100", "devices_per_node": 4}
POOL = {
    "device": {"from": "cpu-ddr5"}, "devices": 1,
    "link": {"bandwidth": "32 GB/s", "latency": "5 us", "energy_per_byte": "6 pJ/bit"},
}  # fmt: skip


def away(requests, memory=None, **more):
    """Return an experiment of requests that are there from the start."""
    return {
        "model": {"from": "llama-3.1-8b", "num_hidden_layers": LAYERS},
        "system": {"from": "workstation", "device": "a40"},
        "memory": memory or {},
        "cost_model": "roofline",
        "workload": {"requests": {"batch": True, **requests}},
        **more,
    }
