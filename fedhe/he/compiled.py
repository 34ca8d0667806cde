"""Compiles a function of arrays to machine code that runs without the interpreter's lock."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The compiled function. What the compiler made is kept beside the module or in the user's cache folder.

    Where neither can be written, as in an image that is read-only, it is compiled anew at each start, some seconds.
    """
    try:
        return cast("Callable[Arguments, Result]", njit(function, nogil=True, cache=True))
    except RuntimeError:  # numba's "no locator available"
        return cast("Callable[Arguments, Result]", njit(function, nogil=True))
