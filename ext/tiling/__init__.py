"""Tiles of a matrix product: how long each choice of tile and split takes, and which is the fastest.

``choose`` and ``choose_one`` search all choices (compiled where built, with their plain twin in
``reference``); ``tile_times`` gives the times of one.
"""

from __future__ import annotations

from ext.backend import kernels

from .reference import DEPTH, Rates, tile_times

_kernels = kernels("ext.tiling", cython="_choose")
choose, choose_one = _kernels.choose, _kernels.choose_one

__all__ = ["DEPTH", "Rates", "choose", "choose_one", "tile_times"]
