"""An objective that needs torch, as one would write it: torch is imported with the module."""

import time

import torch


def torch_objective(x: float) -> float:
    """Return when the function began."""
    began = time.monotonic()
    return began if float(torch.tensor([x]).sum()) < 10 else 0.0
