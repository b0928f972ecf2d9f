"""Split attention as functions: what readers ask about it, and what must hold for any input."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resnestkit.ops import attention_weights, join, pool_splits, weigh_splits


@dataclass(frozen=True)
class Case:
    """Splits and logits of some size, drawn from a seed. c is channels per cardinal group."""

    batch: int
    radix: int
    cardinality: int
    c: int
    height: int
    width: int
    scale: float
    seed: int

    @property
    def channels(self) -> int:
        return self.cardinality * self.c

    def draw(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        count = self.radix * self.channels
        splits = torch.randn(
            self.batch, count, self.height, self.width, generator=generator, dtype=torch.float64
        )
        logits = torch.randn(self.batch, count, 1, 1, generator=generator, dtype=torch.float64)
        return splits, self.scale * logits

    def weights(self, logits: Tensor) -> Tensor:
        return attention_weights(logits, self.radix, self.cardinality)


def cases(least_radix: int = 1, most_radix: int = 4) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        batch=st.integers(1, 3),
        radix=st.integers(least_radix, most_radix),
        cardinality=st.sampled_from([1, 2, 4]),
        c=st.integers(1, 5),
        height=st.integers(1, 4),
        width=st.integers(1, 4),
        scale=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0]),
        seed=st.integers(0, 2**31),
    )


several_splits = cases(least_radix=2)
one_split = cases(most_radix=1)

# --- What readers ask -------------------------------------------------------------------------


def test_a_softmax_over_one_element_is_the_constant_one() -> None:
    """Why radix 1 is not a softmax: it would not gate at all."""
    logits = torch.tensor([-5.0, 0.0, 3.0]).view(1, 3, 1, 1)
    assert torch.equal(torch.softmax(logits.view(1, 1, 3), dim=1), torch.ones(1, 1, 3))
    assert not (attention_weights(logits, radix=1, cardinality=1) > 0.99).any()


def test_the_sigmoid_is_the_softmax_of_x_and_zero() -> None:
    """So radix 1 is one split against nothing."""
    x = torch.linspace(-8, 8, 9, dtype=torch.float64).view(1, 9, 1, 1)
    alone = attention_weights(x, radix=1, cardinality=1)
    against_nothing = attention_weights(
        torch.cat([x, torch.zeros_like(x)], 1), radix=2, cardinality=1
    )
    torch.testing.assert_close(alone, against_nothing[:, :9], rtol=1e-12, atol=0.0)


def test_the_two_way_softmax_is_the_sigmoid_of_a_difference() -> None:
    """So radix 2 has as many degrees of freedom as radix 1, and spends two logits on each."""
    first, second = torch.randn(2, 1, 9, 1, 1, dtype=torch.float64).unbind(0)
    weights = attention_weights(torch.cat([first, second], 1), radix=2, cardinality=1)
    torch.testing.assert_close(weights[:, :9], torch.sigmoid(first - second), rtol=1e-12, atol=0.0)


def test_logits_are_cardinality_major_and_weights_radix_major() -> None:
    """The one place where the two layouts meet: each logit moves its own weight the most."""
    radix, cardinality, c = 3, 2, 4
    for k in range(cardinality):
        for r in range(radix):
            for channel in range(c):
                logits = torch.zeros(1, radix * cardinality * c, 1, 1)
                logits[0, k * radix * c + r * c + channel] = 50.0
                weights = attention_weights(logits, radix, cardinality).flatten()
                expected = torch.full((radix, cardinality, c), 1 / 3)
                expected[:, k, channel] = 0.0
                expected[r, k, channel] = 1.0
                torch.testing.assert_close(weights, expected.flatten())


# --- What must hold for any input -----------------------------------------------------------


@given(cases())
def test_weights_lie_between_zero_and_one(case: Case) -> None:
    splits, logits = case.draw()
    weights = case.weights(logits)
    assert weights.shape == (*splits.shape[:2], 1, 1)
    assert ((weights >= 0) & (weights <= 1)).all()


@given(several_splits)
def test_weights_sum_to_one_over_the_radix(case: Case) -> None:
    _, logits = case.draw()
    total = case.weights(logits).view(case.batch, case.radix, case.channels).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0.0)


@given(one_split)
def test_the_weight_of_one_split_is_less_than_one(case: Case) -> None:
    _, logits = case.draw()
    assert (case.weights(logits.clamp(-30, 30)) < 1).all()


@given(several_splits)
def test_the_joined_map_lies_between_its_splits(case: Case) -> None:
    splits, logits = case.draw()
    joined = weigh_splits(splits, case.weights(logits), case.radix)
    by_split = splits.view(case.batch, case.radix, case.channels, case.height, case.width)
    assert joined.shape == by_split.shape[:1] + by_split.shape[2:]
    assert (joined >= by_split.amin(1) - 1e-9).all()
    assert (joined <= by_split.amax(1) + 1e-9).all()


@given(several_splits)
def test_equal_logits_average_the_splits(case: Case) -> None:
    splits, logits = case.draw()
    joined = weigh_splits(splits, case.weights(torch.zeros_like(logits)), case.radix)
    mean = torch.stack(splits.chunk(case.radix, 1)).mean(0)
    torch.testing.assert_close(joined, mean, rtol=1e-9, atol=1e-12)


@given(several_splits)
def test_only_differences_of_logits_count(case: Case) -> None:
    """A number added to every split's logit of a channel changes nothing."""
    _, logits = case.draw()
    grouped = logits.view(case.batch, case.cardinality, case.radix, case.c)
    shifted = (grouped + torch.randn(case.batch, case.cardinality, 1, case.c)).view_as(logits)
    torch.testing.assert_close(case.weights(shifted), case.weights(logits), rtol=1e-9, atol=1e-12)


@given(several_splits, st.randoms())
def test_the_order_of_the_splits_does_not_matter(case: Case, random: object) -> None:
    """Splits permuted together with their logits join to the same map, and pool to the same."""
    splits, logits = case.draw()
    order = list(range(case.radix))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = torch.cat([splits.chunk(case.radix, 1)[r] for r in order], 1)
    grouped = logits.view(case.batch, case.cardinality, case.radix, case.c)
    moved_logits = grouped[:, :, order].reshape(logits.shape)
    torch.testing.assert_close(
        weigh_splits(moved, case.weights(moved_logits), case.radix),
        weigh_splits(splits, case.weights(logits), case.radix),
        rtol=1e-9,
        atol=1e-12,
    )
    torch.testing.assert_close(pool_splits(moved, case.radix), pool_splits(splits, case.radix))


@given(cases())
def test_pooling_is_the_mean_of_the_sum_of_the_splits(case: Case) -> None:
    splits, _ = case.draw()
    summed = sum(splits.chunk(case.radix, 1))
    assert isinstance(summed, Tensor)
    expected = summed.mean((2, 3), keepdim=True)
    torch.testing.assert_close(pool_splits(splits, case.radix), expected, rtol=1e-9, atol=1e-12)


@given(cases())
def test_joining_is_linear_in_the_splits(case: Case) -> None:
    splits, logits = case.draw()
    weights = case.weights(logits)
    other = torch.randn_like(splits)
    together = weigh_splits(2 * splits + other, weights, case.radix)
    apart = 2 * weigh_splits(splits, weights, case.radix) + weigh_splits(other, weights, case.radix)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


@given(cases())
def test_cardinal_groups_do_not_see_each_other(case: Case) -> None:
    """Each group's weights are those that it would have alone."""
    _, logits = case.draw()
    weights = case.weights(logits).view(case.batch, case.radix, case.cardinality, case.c)
    for k, own in enumerate(logits.chunk(case.cardinality, 1)):
        alone = attention_weights(own, case.radix, 1).view(case.batch, case.radix, case.c)
        torch.testing.assert_close(weights[:, :, k], alone, rtol=1e-12, atol=0.0)


# --- Types and layouts ------------------------------------------------------------------------


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_a_joined_map_keeps_the_type_of_its_splits(radix: int) -> None:
    """Autocast makes the softmax float32; maps must not follow."""
    splits = torch.randn(2, 4 * radix, 3, 3, dtype=torch.bfloat16)
    weights = attention_weights(torch.randn(2, 4 * radix, 1, 1), radix, cardinality=1)
    assert weights.dtype == torch.float32
    assert weigh_splits(splits, weights, radix).dtype == torch.bfloat16


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_a_joined_map_keeps_channels_last(radix: int) -> None:
    splits = torch.randn(2, 4 * radix, 3, 5).to(memory_format=torch.channels_last)
    weights = attention_weights(torch.randn(2, 4 * radix, 1, 1), radix, cardinality=1)
    joined = weigh_splits(splits, weights, radix)
    assert joined.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(joined, weigh_splits(splits.contiguous(), weights, radix))


def test_join_wants_a_weight_for_every_branch() -> None:
    branches, weights = torch.randn(3, 1, 2, 4, 4), torch.ones(2, 1, 2, 1, 1)
    with pytest.raises(ValueError, match="zip"):
        join(list(branches), list(weights))
