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


PARENT = """
import subprocess, sys, threading
child = "import time; from tigrismount.privacy import end_with_parent as e; e(); print(1, flush=True); time.sleep(600)"
def start():
    global process
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    process.stdout.read(1)
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(process.wait())
"""


def test_a_process_ends_with_the_thread_that_started_it():
    assert run_child(sys.executable, "-c", PARENT).check().output == "-9\n"
