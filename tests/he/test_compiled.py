"""Compiled functions work where nothing can be kept of them."""

import subprocess
import sys

PROGRAM = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []  # as where neither the package's folder nor the user's can be written
import numpy as np
from fedhe.he.pack import pack, unpack
fields = np.arange(-50, 50)
assert (unpack(pack(fields, 16, 3), 16, 3, 100) == fields).all()
import fedhe.he.fast_engine
"""


def test_a_read_only_installation_compiles_at_each_start():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
