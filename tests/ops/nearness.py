"""What the tests of CPU and GPU kernels share: maps, norms, and how near is near enough."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnestkit.ops.fused import use_kernels


def make_map(
    *shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0, device: str = "cpu"
) -> Tensor:
    made = (torch.randn(shape) + mean).to(device, dtype)
    return made.contiguous(memory_format=torch.channels_last).requires_grad_()


def make_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, -1.0, 1.5)
    nn.init.normal_(norm.bias)
    assert norm.running_mean is not None
    nn.init.normal_(norm.running_mean)
    return norm


def assert_as_near(
    function: Callable[..., Tensor], inputs: list[Tensor], module: nn.Module, factor: float = 5.0
) -> None:
    """The kernels are as near to float64 as the plain form is, within a factor, in every value."""
    exact = run(function, [x.detach().double().requires_grad_() for x in inputs], module.double())
    module.float()
    plain = run(function, inputs, module)
    with use_kernels():
        ours = run(function, inputs, module)
    for true, one, other in zip(exact, plain, ours, strict=True):
        # A bias before a norm has a gradient of noise alone, hence the least error.
        least = 1e-6 * max(float(value.abs().max()) for value in exact)
        error = float((one - true).abs().max())
        assert float((other - true).abs().max()) <= max(factor * error, least)


def run(function: Callable[..., Tensor], inputs: list[Tensor], module: nn.Module) -> list[Tensor]:
    """Value, gradients of the inputs and of the parameters, and buffers, which are put back."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    leaves = [*inputs, *module.parameters()]
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(out.shape, generator=generator).to(out)
    gradients = torch.autograd.grad(out, leaves, wanted)
    found = [value.double() for value in (out.detach(), *gradients, *module.buffers())]
    module.load_state_dict(state)
    return found
