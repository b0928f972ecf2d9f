"""Split attention as one operation. The plain form here is what every faster form must equal."""

from resnestkit.ops.split_attention import attention_weights, join, pool_splits, weigh_splits

__all__ = ["attention_weights", "join", "pool_splits", "weigh_splits"]
