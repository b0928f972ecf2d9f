"""Let pytest explain the assertions of the shared harness as it does those of the tests."""

import pytest

pytest.register_assert_rewrite("contract")
