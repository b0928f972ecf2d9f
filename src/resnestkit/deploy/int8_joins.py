"""Joins of splits in int8 without steps between their parts, in OpenVINO's form.

NNCF rounds every map to 8 bits after every operation, inside of a join of splits too: the
difference, the product and the sum of ``s1 + w * (s0 - s1)`` each for itself. OpenVINO runs a join
as one kernel, to which these steps are work that nobody needs, and each rounds once more. What
comes from convolutions, and what goes to the next one, keeps its step: by it they are int8.
"""

from __future__ import annotations

from typing import Any

_PARTS = frozenset({"Add", "Multiply", "Subtract"})
_SOURCES = frozenset({"Multiply", "Subtract", "Sigmoid", "ReduceMean", "Slice"})
"""Makers of the parts of a join: `Slice` takes a split's weights out of a softmax."""


def free_joins(model: Any) -> int:
    """Take the steps out of a model's joins, in place; how many they were."""
    steps = [op for op in model.get_ordered_ops() if _kind(op) == "FakeQuantize"]
    freed = [
        step
        for step in steps
        if _makes_part(step.input_value(0).get_node()) and all(map(_is_join, _users(step)))
    ]
    for step in freed:
        for target in list(step.output(0).get_target_inputs()):
            target.replace_source_output(step.input_value(0))
    return len(freed)


def _makes_part(op: Any) -> bool:
    """Whether an operation is inside of a join; a sum is, if it is not a convolution's bias."""
    if _kind(op) == "Add":
        return not any("Convolution" in _kind(value.get_node()) for value in op.input_values())
    return _kind(op) in _SOURCES


def _is_join(op: Any) -> bool:
    """Whether an operation joins splits.

    A sum before a ReLU is that of a block and its shortcut. It keeps the steps before it: OpenVINO
    computes it with a convolution only if both parts are in 8 bits, and that is quicker.
    """
    if _kind(op) == "Squeeze":  # of a split's weights
        return all(map(_is_join, _users(op)))
    return _kind(op) in _PARTS and not any(_kind(user) == "Relu" for user in _users(op))


def _kind(op: Any) -> str:
    return str(op.get_type_name())


def _users(op: Any) -> list[Any]:
    return [target.get_node() for target in op.output(0).get_target_inputs()]
