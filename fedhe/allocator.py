"""Keeps freed memory from piling up: the C library gives each thread a heap of its own, and chunks pass through all."""

import ctypes

_M_ARENA_MAX = -8  # of glibc's mallopt
_ARENAS = 2


def share_heaps() -> None:
    """Has all threads that come share two heaps; to be called at a program's start. No effect but with glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
