from __future__ import annotations

import sys

from tigrismount.demo.command import run_child

CODE = """
import ctypes
from tigrismount.privacy import keep_out_of_core_dumps
PR_GET_DUMPABLE = 3
dumpable = lambda: ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
before = dumpable()
keep_out_of_core_dumps()
print(before, dumpable())
"""


def test_a_process_that_keeps_to_itself_is_not_dumpable():
    assert run_child(sys.executable, "-c", CODE).check().output == "1 0\n"
