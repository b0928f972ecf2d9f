"""OpenVINO's one core of this process, and the signal stack that it must not take away.

A core that first uses the processor gives the thread a signal stack of its own, and on its end puts
back the one before, but only if its own is still in use. Of two cores that do not end in the
reverse order, the one that ends last puts back the stack of the one that is gone (openvino 2026.4,
the CPU plugin's set-up). The next signal that Python hears, be it Ctrl-C or the end of a child
process, then ends the process without a word. So there is one core here, which never ends.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resnestkit.extras import require


@functools.cache
def openvino_core() -> Any:
    """The core that reads and compiles. Raises UserError if OpenVINO is not installed."""
    require("openvino", "deploy")
    import openvino  # noqa: PLC0415  (an extra)

    core = openvino.Core()
    # Read, not mapped: who replaces or cuts the file leaves a loaded net alone.
    core.set_property({"ENABLE_MMAP": False})
    # The processor is used here and now, so that whoever makes a core after it ends before it.
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


class _SignalStack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Around a library that makes cores of its own: afterwards signals have the stack they had."""
    if not sys.platform.startswith("linux"):
        yield
        return
    openvino_core()
    change = ctypes.CDLL(None).sigaltstack
    before = _SignalStack()
    change(None, ctypes.byref(before))
    try:
        yield
    finally:
        change(ctypes.byref(before), None)
