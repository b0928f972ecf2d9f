"""A net as it answers on a GPU: its deploy form, replayed as one CUDA graph.

The deploy form has dense convolutions for each split, and no norms. At small batches a GPU is done
with a launch before Python asks for the next: so the launches of a shape are recorded when it comes
for the second time, and replayed from then on.

No GPU was at hand when this was written: the choice and the form are tested, the recording is not,
and nothing was measured.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.compute import Compute
from resnestkit.deploy.form import make_deploy_form

Images = Float[Tensor, "b c h w"]
Logits = Float[Tensor, "b k"]

_MOST = 4
"""Shapes that are recorded: each keeps its own memory."""


def make_runner(model: nn.Module, compute: Compute, in_channels: int) -> Callable[[Images], Logits]:
    """What to call with images that are placed: the net itself, but on a GPU its deploy form."""
    if compute.device.type != "cuda":
        return compute.place(model)
    # Made before the model moves: it then takes up no GPU memory while it is made.
    form = choose_form(model, compute, in_channels)
    compute.place(model)
    return Recorded(compute.place(form))


def choose_form(model: nn.Module, compute: Compute, in_channels: int) -> nn.Module:
    """The form in which a net answers on a device."""
    return make_deploy_form(model, in_channels) if compute.device.type == "cuda" else model


class Recorded:
    """A net in evaluation, whose launches are recorded for the shapes that come again.

    What cannot be recorded is computed as ever. Its parameters must want no gradients: autocast
    would keep their copies in bfloat16 for the next call, which a recording cannot.
    """

    def __init__(self, net: Callable[[Images], Logits]) -> None:
        self._net = net
        self._seen: Counter[torch.Size] = Counter()
        self._recordings: dict[torch.Size, Callable[[Images], Logits] | None] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Images) -> Logits:
        """Logits, which the next call leaves alone."""
        # A recording has one place for its images: one thread at a time.
        with self._lock:
            self._seen[images.shape] += 1
            new = images.shape not in self._recordings and self._seen[images.shape] > 1
            if new and len(self._recordings) < _MOST:
                self._recordings[images.shape] = _record(self._net, images)
            run = self._recordings.get(images.shape)
            return (run or self._net)(images)


def _record(net: Callable[[Images], Logits], images: Images) -> Callable[[Images], Logits] | None:
    """The net's launches for a shape; None where they cannot be recorded."""
    try:
        with torch.cuda.device(images.device):
            held = images.clone()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # in torch itself
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # cuDNN chooses, and must be done with that
                for _ in range(3):
                    net(held)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                made = net(held)
    except RuntimeError:  # such as too little memory, or an operation that waits for the GPU
        return None

    def replay(images: Images) -> Logits:
        held.copy_(images)
        graph.replay()
        return made.clone()

    return replay
