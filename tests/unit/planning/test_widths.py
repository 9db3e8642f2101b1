"""Widths from losses: the solver's answers against every other choice, losses between those measured, and the bisection."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qcompress.planning.widths import WIDTHS, allot, allot_loss, search_bound, spread_widths


def some_losses(seed: int, names: list[str]) -> dict[tuple[str, int], float]:
    rng = np.random.default_rng(seed)
    losses = {}
    for name in names:
        steps = rng.uniform(0.0, 1.0, len(WIDTHS) - 1)
        falling = np.cumsum(steps)[::-1]  # the narrowest loses most
        losses.update({(name, width): float(loss) for width, loss in zip(WIDTHS, [*falling, 0.0], strict=True)})
    return losses


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_of_as_many_bits_loses_less(seed: int) -> None:
    names = ["a", "b", "c", "d"]
    sizes = dict(zip(names, (100, 37, 260, 5), strict=True))
    losses = some_losses(seed, names)
    most = 4.3 * sum(sizes.values())

    found = allot(sizes, losses, most)

    def loss(widths: tuple[int, ...]) -> float:
        return sum(losses[name, width] for name, width in zip(names, widths, strict=True))

    def bits(widths: tuple[int, ...]) -> int:
        return sum(sizes[name] * width for name, width in zip(names, widths, strict=True))

    own = tuple(found[name] for name in names)
    assert bits(own) <= most
    assert loss(own) == pytest.approx(min(loss(widths) for widths in product(WIDTHS, repeat=4) if bits(widths) <= most))


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_within_the_loss_has_fewer_bits(seed: int) -> None:
    names = ["a", "b", "c"]
    sizes = dict(zip(names, (64, 640, 10), strict=True))
    losses = some_losses(seed, names)

    found = allot_loss(sizes, losses, 2.5)

    choices = [dict(zip(names, widths, strict=True)) for widths in product(WIDTHS, repeat=3)]
    kept = [item for item in choices if sum(losses[name, width] for name, width in item.items()) <= 2.5]
    least = min(sum(sizes[name] * width for name, width in item.items()) for item in kept)
    assert sum(sizes[name] * width for name, width in found.items()) == least


def test_nothing_is_narrow_enough() -> None:
    assert allot({"a": 1000}, some_losses(0, ["a"]), 1999.0) == {"a": 2}


def test_losses_between_those_measured() -> None:
    assert spread_widths({4: 0.04}) == {8: 0.0, 6: 0.0025, 5: 0.01, 4: 0.04, 3: 0.16, 2: 0.64}


def test_fewer_bits_never_lose_less_however_noisy_the_measurement() -> None:
    found = spread_widths({2: 0.5, 3: 0.1, 4: 0.2, 5: 0.01, 6: 0.02})

    assert [found[width] for width in WIDTHS] == sorted((found[width] for width in WIDTHS), reverse=True)
    assert found[3] == 0.2  # as much as 4 bits lose, though it measured less


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [0.001, 0.1, 3.0])
def test_the_bound_is_found(power: float, start: float) -> None:
    tried: list[tuple[float, float]] = []

    def loss_of(bound: float) -> float:
        tried.append((bound, 0.4 * bound**power))
        return tried[-1][1]

    search_bound(start, 0.05, 25, loss_of)

    inside = [loss for _, loss in tried if loss <= 0.05]
    assert max(inside) >= 0.9 * 0.05
    assert len(tried) < 25
