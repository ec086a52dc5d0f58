"""Warnings of Ax, BoTorch and their use of pandas and torch about themselves; ours would still be errors."""

import pytest

AX = [
    pytest.mark.filterwarnings(f"ignore::{category}")
    for category in (
        "DeprecationWarning:ax", "DeprecationWarning:botorch", "DeprecationWarning:torch",
        "DeprecationWarning:linear_operator", "linear_operator.utils.warnings.NumericalWarning",
        "pandas.errors.Pandas4Warning", "botorch.exceptions.warnings.BotorchWarning",
        "RuntimeWarning:botorch",
    )
]  # fmt: skip
