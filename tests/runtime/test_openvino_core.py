"""Signals live through OpenVINO's cores."""

import subprocess
import sys

import pytest

PROGRAM = """
import signal
import numpy as np
import openvino
from openvino import opset13 as operations
from resnestkit.runtime.openvino_core import openvino_core, signal_stack_kept

def compile_by(core):
    x = operations.parameter([4], np.float32)
    return core.compile_model(openvino.Model([operations.relu(x)], [x]), "CPU")

def cross():
    '''Two cores, of which the older ends first.'''
    one, two = (openvino.Core() for _ in range(2))
    kept = [compile_by(one), compile_by(two)]
    del one, kept[0]
    del two, kept[0]

assert openvino_core() is openvino_core()
compile_by(openvino_core())
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
{cross}
signal.raise_signal(signal.SIGTERM)
assert heard == [signal.SIGTERM]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are kept on Linux alone")
def test_signals_are_heard_after_cores_of_others() -> None:
    program = PROGRAM.replace("{cross}", "with signal_stack_kept():\n    cross()")
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", program], check=True)
