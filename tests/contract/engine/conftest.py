"""The shared suite's assertions explain themselves only if pytest rewrites them."""

import pytest

pytest.register_assert_rewrite(
    "tests.contract.engine.suite", "tests.contract.engine.features", "tests.contract.engine.portable_data"
)
