"""The compiled twin of `ext.systolic.reference`."""
import numpy as np


def double_buffer(cycles, load_bytes, store_bytes, double bytes_per_cycle):
    """Return (cycles in all, cycles in which the array waits); as `ext.systolic.reference.double_buffer`."""
    cdef const double[::1] work = np.ascontiguousarray(cycles, dtype=np.float64)
    cdef const double[::1] load = np.ascontiguousarray(load_bytes, dtype=np.float64)
    cdef const double[::1] store = np.ascontiguousarray(store_bytes, dtype=np.float64)
    cdef double rate = 1.0 / bytes_per_cycle
    cdef double memory_free = 0.0, before = 0.0, last = 0.0, owed = 0.0, stalled = 0.0
    cdef double loaded, start, end
    cdef Py_ssize_t i
    if not (load.shape[0] == store.shape[0] == work.shape[0]):
        raise ValueError("cycles, load_bytes and store_bytes must be of one length")
    with nogil:
        for i in range(work.shape[0]):
            loaded = (memory_free if memory_free > before else before) + load[i] * rate
            memory_free = loaded
            if owed != 0.0:
                memory_free = (memory_free if memory_free > last else last) + owed * rate
            start = last if last > loaded else loaded
            stalled += start - last
            before = last
            last = start + work[i]
            owed = store[i]
        end = (memory_free if memory_free > last else last) + owed * rate
    return end, stalled + (end - last)
