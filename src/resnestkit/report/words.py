"""What people call the numbers that a training is judged by."""

from __future__ import annotations

SCORES = {"top1": "accuracy", "ap": "AP", "mask_ap": "mask AP", "miou": "mIoU", "pq": "PQ"}


def name_score(metric: str) -> str:
    """What people call a score: accuracy, or its own name."""
    return SCORES.get(metric, metric)
