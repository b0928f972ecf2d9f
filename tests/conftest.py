"""What every test shares: a seed, and examples without a deadline (machines differ in speed)."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("resnestkit", deadline=None, derandomize=True)
settings.load_profile("resnestkit")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
