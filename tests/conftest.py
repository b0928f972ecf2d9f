"""What every test shares: a seed, one thread, and examples without a deadline.

The nets' inputs are so small that a second thread mostly waits, and on a busy machine for long.
"""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("resnestkit", deadline=None, derandomize=True)
settings.load_profile("resnestkit")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
