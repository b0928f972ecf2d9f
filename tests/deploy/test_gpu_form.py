"""What a classifier runs on a GPU: chosen and computed on a CPU; the recording itself needs one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from builders import randomize_norms
from torch import Tensor, nn

from resnestkit import create_model
from resnestkit.compute import Compute, choose_compute
from resnestkit.deploy import gpu_form
from resnestkit.deploy.form import UnrolledBottleneck
from resnestkit.deploy.gpu_form import Recorded, choose_form, make_runner

CPU = choose_compute("cpu", "float32")
CUDA = replace(CPU, device=torch.device("cuda"))


def make_net() -> nn.Module:
    net = create_model("resnest14", classes=3)
    randomize_norms(net, torch.randn(2, 3, 48, 48))
    return net.eval()


def test_a_gpu_gets_dense_convolutions_for_each_split_and_no_norms() -> None:
    net = make_net()
    images = torch.randn(2, 3, 41, 33)
    form = choose_form(net, CUDA, 3)
    CPU.place(form)  # as it would be placed there
    blocks = [part for part in form.modules() if isinstance(part, UnrolledBottleneck)]
    assert len(blocks) == 4
    for conv in (conv for block in blocks for conv in block.convs):
        assert conv.groups == 1
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    norms = [name for name, part in form.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms == []
    assert not any(parameter.requires_grad for parameter in form.parameters())
    with torch.inference_mode():
        expected, found = net(images), form(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_runner_of_a_gpu_is_a_recorded_form(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net()
    assert make_runner(net, CPU, 3) is net
    placed: list[nn.Module] = []
    monkeypatch.setattr(Compute, "place", lambda _self, model: placed.append(model) or model)
    runner = make_runner(net, CUDA, 3)
    assert isinstance(runner, Recorded)
    assert placed[0] is net
    images = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        torch.testing.assert_close(runner(images), net(images), rtol=1e-4, atol=1e-4)


def test_a_shape_is_recorded_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []

    def record(
        net: Callable[[Tensor], Tensor], images: Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        recorded.append(len(images))
        return None if len(images) == 1 else lambda images: -net(images)

    monkeypatch.setattr(gpu_form, "_record", record)
    run = Recorded(lambda images: images + 1)
    for count in range(1, 8):
        images = torch.zeros(count, 1, 1, 1)
        assert float(run(images)[0]) == 1
        again = {1: 1, 2: -1, 3: -1, 4: -1}.get(count, 1)  # one failed, and four are enough
        assert float(run(images)[0]) == again
        assert float(run(images)[0]) == again
    assert recorded == [1, 2, 3, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_recording_gives_what_the_form_gives() -> None:
    compute = choose_compute("cuda", "float32")
    net = make_net()
    images = torch.randn(3, 4, 3, 64, 64)
    with torch.inference_mode():
        expected = [net(batch) for batch in images]
        runner = make_runner(net, compute, 3)
        for batch, wanted in zip(images, expected, strict=True):
            placed = batch.to("cuda", memory_format=torch.channels_last)
            torch.testing.assert_close(runner(placed).cpu(), wanted, rtol=1e-2, atol=1e-2)
