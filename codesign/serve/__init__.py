"""Serving over time: arrivals, load balancing, batching, KV memory, iterations of engines (SimPy)."""
