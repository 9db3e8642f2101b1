"""Pruning as a stage: shares that add up, losses that fall, channels that are really gone, replays that give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from text_models import check, draw, load, three_ways

from qcompress.data import DataOptions, cut, open_dataset
from qcompress.errors import RecipeError
from qcompress.graph import Model
from qcompress.operators import find_layers
from qcompress.pipeline import prepared_from
from qcompress.planning.make import PlanSettings, open_workplace
from qcompress.planning.pruning import EXACT, prune_model, rank_prunes, replay_pruning, stored_exactly
from qcompress.planning.pruning.channels import choose_channels, find_candidates
from qcompress.planning.pruning.sparsity import SHARES, allot_shares, loss_at
from qcompress.planning.pruning.stage import walk_settings
from qcompress.planning.work import Workplace
from qcompress.progress import SILENT
from qcompress.recipe import RECIPES, Pruning
from qcompress.structure import multiply_adds, shapes_after
from qcompress.types import CHANNELS, Criterion, Pattern, Spread

NET = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 6, 8, 8] image) => (float[n, 10] scores) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    ra = Relu (a)
    b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (ra, w2, b2)
    rb = Relu (b)
    pool = GlobalAveragePool (rb)
    flat = Flatten (pool)
    hidden = Gemm <transB = 1> (flat, w3, b3)
    rh = Relu (hidden)
    scores = Gemm <transB = 1> (rh, w4, b4)
}"""
WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "w1": (24, 6, 3, 3),
    "w2": (32, 24, 3, 3),
    "w3": (64, 32),
    "w4": (10, 64),
    "b1": (24,),
    "b2": (32,),
    "b3": (64,),
    "b4": (10,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and images whose channels go together."""
    place = tmp_path_factory.mktemp("net")
    load(place, NET, WEIGHTS)
    mix = draw("mixed", 6, 6) + 0.4
    np.savez(place / "data.npz", image=np.einsum("ncij,cd->ndij", draw("images", 64, 6, 8, 8), mix).astype(np.float32) * 3)
    return place


def work_on(folder: Path, pruning: Pruning, data: bool = True) -> Workplace:
    model = prepared_from(load(folder, NET, WEIGHTS))
    recipe = replace(RECIPES["prune"], pruning=pruning)
    parts = cut(open_dataset(str(folder / "data.npz"), model.inputs, DataOptions()), 0.25, 0) if data else None
    return open_workplace(model, recipe, parts, PlanSettings(threads=1), SILENT)


def zeros_of(model: Model) -> dict[str, float]:
    return {layer.name: float((layer.array == 0.0).mean()) for layer in find_layers(model) if not layer.reason}


def total_share(model: Model) -> float:
    layers = [layer for layer in find_layers(model) if not layer.reason]
    return sum(int((layer.array == 0.0).sum()) for layer in layers) / sum(layer.array.size for layer in layers)


@pytest.mark.parametrize(
    ("criterion", "spread"),
    [
        *((criterion, Spread.LAYER) for criterion in Criterion),
        (Criterion.OPTIMAL_BRAIN, Spread.MEASURED),
        (Criterion.TAYLOR, Spread.GLOBAL),
    ],
)
def test_the_asked_share_is_zero_in_the_end(folder: Path, criterion: Criterion, spread: Spread) -> None:
    work = work_on(folder, Pruning(amount=0.5, spread=spread, criterion=criterion))

    pruned = prune_model(work, PlanSettings(threads=1))

    room = 0.06 if spread is not Spread.LAYER else 0.001  # shares of single layers are tenths
    assert total_share(pruned.model) == pytest.approx(0.5, abs=room)
    assert total_share(work.model) == 0.0, "the model that is planned on stays what it was"
    if spread is Spread.LAYER:
        assert all(share == pytest.approx(0.5, abs=0.001) for share in zeros_of(pruned.model).values())
    assert pruned.loss is not None
    assert 0.0 < pruned.loss < 1.0


def test_solving_again_and_measured_shares_each_lose_less(folder: Path) -> None:
    def loss(**changes: object) -> float:
        pruning = Pruning(amount=0.6, criterion=Criterion.MAGNITUDE, **changes)  # type: ignore[arg-type]
        return prune_model(work_on(folder, pruning), PlanSettings(threads=1)).loss or 0.0

    plain = loss(spread=Spread.LAYER, compensate=False)
    solved = loss(spread=Spread.LAYER)
    assert solved < 0.5 * plain
    assert loss(spread=Spread.MEASURED) < solved


@pytest.mark.parametrize("text", ["2:4", "4:8"])
def test_of_any_run_so_many_stay(folder: Path, text: str) -> None:
    pattern = Pattern.parse(text)
    pruned = prune_model(work_on(folder, Pruning(pattern=pattern)), PlanSettings(threads=1))
    for layer in find_layers(pruned.model):
        if layer.name in pruned.prunes:
            inputs = layer.array.reshape(layer.shape[0], -1)  # (outputs, summed)
            whole = inputs.shape[1] // pattern.of * pattern.of
            runs = (inputs[:, :whole] != 0.0).reshape(layer.shape[0], -1, pattern.of).sum(axis=2)
            assert runs.max() <= pattern.kept


def test_a_threshold_says_how_many(folder: Path) -> None:
    pruning = Pruning(threshold=0.05, criterion=Criterion.MAGNITUDE, compensate=False)
    work = work_on(folder, pruning)
    pruned = prune_model(work, PlanSettings(threads=1))
    own = {layer.name: layer.array for layer in find_layers(pruned.model)}
    for layer in find_layers(work.model):
        if layer.name in pruned.prunes:
            expected = np.where(np.abs(layer.array) < 0.05, 0.0, layer.array)
            assert np.array_equal(own[layer.name], expected)


def test_channels_are_gone_and_the_model_still_runs(folder: Path) -> None:
    work = work_on(folder, Pruning(amount=0.3, pattern=CHANNELS))
    pruned = prune_model(work, PlanSettings(threads=1))

    check(pruned.model)
    assert pruned.channels
    shapes = {layer.name: layer.shape for layer in find_layers(pruned.model)}
    assert np.prod(shapes["w2"]) < np.prod(WEIGHTS["w2"])
    image = {"image": draw("one image", 3, 6, 8, 8)}
    ways = three_ways(pruned.model, image)
    for name, outputs in ways.items():
        assert outputs[0].shape == (3, 10), name
        assert np.allclose(outputs[0], ways["all"][0], atol=1e-4), name


def test_channels_that_no_gradient_reaches_are_left_alone(tmp_path: Path) -> None:
    text = NET.replace(
        "scores = Gemm <transB = 1> (rh, w4, b4)",
        """open = Gemm <transB = 1> (rh, w4, b4)
    side = Gemm <transB = 1> (flat, w5)
    rs = Relu (side)
    closed = Gemm <transB = 1> (rs, w6)
    bent = Asinh (closed)
    scores = Add (open, bent)""",
    )
    model = prepared_from(load(tmp_path, text, {**WEIGHTS, "w5": (48, 32), "w6": (10, 48)}))
    np.savez(tmp_path / "data.npz", image=draw("images", 16, 6, 8, 8))
    parts = cut(open_dataset(str(tmp_path / "data.npz"), model.inputs, DataOptions()), 0.25, 0)
    recipe = replace(RECIPES["prune"], pruning=Pruning(amount=0.1, pattern=CHANNELS))
    work = open_workplace(model, recipe, parts, PlanSettings(threads=1), SILENT)
    read = {}
    for criterion in (Criterion.MAGNITUDE, Criterion.TAYLOR):
        candidates = find_candidates(work, criterion, walk_settings(work))
        read[criterion] = {item.constant for group in candidates.groups for item in group.consumers}
    assert read[Criterion.MAGNITUDE] - read[Criterion.TAYLOR] >= {"w6"}
    assert "w4" in read[Criterion.TAYLOR]
    assert "no gradient reaches all that reads it" in candidates.reasons.values()


def test_what_reads_cut_channels_is_solved_again(folder: Path) -> None:
    losses = [
        prune_model(work_on(folder, Pruning(amount=0.3, pattern=CHANNELS, compensate=again)), PlanSettings(threads=1)).loss
        for again in (True, False)
    ]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[0] < 0.5 * losses[1]


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.5])
def test_as_many_multiply_adds_go_as_were_asked(folder: Path, amount: float) -> None:
    work = work_on(folder, Pruning(amount=amount, pattern=CHANNELS))
    candidates = find_candidates(work, Criterion.MAGNITUDE, walk_settings(work))
    kept = choose_channels(work, candidates, amount, (None, 0, walk_settings(work)))
    for group in candidates.groups:
        units = kept.get(group.name, tuple(range(group.units)))
        assert sorted(set(units)) == list(units)
        assert set(units) <= set(range(group.units))
    counts = {name: len(units) for name, units in kept.items()}
    left = sum(multiply_adds(work.model, shapes_after(work.model, candidates.found, work.shapes, counts)).values())
    share = 1.0 - left / sum(candidates.costs.values())
    assert amount <= share <= amount + 0.15  # 24 channels go eight at a time


@pytest.mark.parametrize(
    "pruning",
    [
        Pruning(amount=0.5),
        Pruning(amount=0.5, criterion=Criterion.TAYLOR),
        Pruning(amount=0.3, pattern=CHANNELS),
        Pruning(pattern=Pattern.parse("2:4")),
    ],
    ids=["unstructured", "taylor", "channel", "2:4"],
)
def test_replayed_decisions_give_the_same_bytes(folder: Path, pruning: Pruning) -> None:
    first = prune_model(work_on(folder, pruning), PlanSettings(threads=1))
    again = replay_pruning(work_on(folder, pruning), first.prunes, first.channels)
    assert again.model.serialize() == first.model.serialize()


def test_losses_by_share_rise(folder: Path) -> None:
    for pruning in (Pruning(amount=0.5), Pruning(amount=0.5, pattern=CHANNELS)):
        found = rank_prunes(work_on(folder, pruning), PlanSettings(threads=1))
        worst = [max(item.losses.values()) for item in found]
        assert worst == sorted(worst, reverse=True)
        for item in found:
            shares = sorted(item.losses)
            assert item.losses[shares[-1]] >= item.losses[shares[0]]


def test_dense_weights_are_left_as_they_are(folder: Path) -> None:
    pruned = prune_model(work_on(folder, Pruning(amount=0.5, spread=Spread.LAYER)), PlanSettings(threads=1))
    work = replace(work_on(folder, Pruning(amount=0.5)), model=pruned.model, layers=find_layers(pruned.model))
    plan = stored_exactly(work, {"w2": pruned.prunes["w2"]})
    assert plan.weights["w2"].scheme == EXACT  # type: ignore[union-attr]
    assert plan.weights["w3"].reason == "is not pruned"  # type: ignore[union-attr]


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    for pruning, data, words in (
        (Pruning(amount=0.5), False, "without data"),
        (Pruning(amount=0.5, criterion=Criterion.TAYLOR), False, "needs data"),
        (Pruning(amount=0.5, pattern=CHANNELS), False, "there is none"),
    ):
        with pytest.raises(RecipeError, match=words):
            prune_model(work_on(folder, pruning, data), PlanSettings(threads=1))
    with pytest.raises(RecipeError, match="does not say how much"):
        Pruning(pattern=CHANNELS)
    with pytest.raises(RecipeError, match="does not have"):
        replay_pruning(work_on(folder, Pruning(amount=0.5)), {}, {"no such group": (0,)})


@pytest.mark.parametrize("seed", range(6))
def test_no_other_shares_lose_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {"a": 100, "b": 370, "c": 55}
    known = {
        (name, share): float(loss) for name in sizes for share, loss in zip((0.3, 0.7), np.sort(rng.random(2)), strict=True)
    }
    found = allot_shares(sizes, known, 0.5)
    curves = {name: {share: known[name, share] for share in (0.3, 0.7)} for name in sizes}

    def loss(shares: Mapping[str, float]) -> float:
        return sum(loss_at(curves[name], share) for name, share in shares.items())

    def gone(shares: Mapping[str, float]) -> float:
        return sum(sizes[name] * share for name, share in shares.items())

    others = [dict(zip(sizes, shares, strict=True)) for shares in product(SHARES, repeat=3)]
    assert gone(found) >= 0.5 * sum(sizes.values()) - 0.51
    assert loss(found) == pytest.approx(min(loss(item) for item in others if gone(item) >= 0.5 * sum(sizes.values()) - 0.51))


def test_losses_between_those_measured() -> None:
    curve = {0.3: 0.001, 0.5: 0.004, 0.7: 0.03}
    assert loss_at(curve, 0.0) == 0.0
    for share, loss in curve.items():
        assert loss_at(curve, share) == pytest.approx(loss)
    values = [loss_at(curve, share) for share in SHARES]
    assert values == sorted(values)
    assert loss_at({0.5: 0.0}, 0.9) >= 0.0


CHAIN = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 16, 6, 6] x) => (float[n, 8, 6, 6] y) {
    a = Conv (x, w1)
    r = Relu (a)
    b = Conv (r, w2)
    c = Relu (b)
    y = Conv (c, w3)
}"""
CHAIN_WEIGHTS = {"w1": (32, 16, 1, 1), "w2": (32, 32, 1, 1), "w3": (8, 32, 1, 1)}


def chain(folder: Path, text: str = CHAIN, weights: Mapping[str, tuple[int, ...]] = CHAIN_WEIGHTS) -> Workplace:
    model = prepared_from(load(folder, text, weights))
    (given,) = model.inputs
    shape = [size for size in given.shape or () if isinstance(size, int)]
    np.savez(folder / "chain.npz", **{given.name: draw("chain", 48, *shape) + 0.5})
    recipe = replace(RECIPES["prune"], pruning=Pruning(amount=0.3, pattern=CHANNELS))
    parts = cut(open_dataset(str(folder / "chain.npz"), model.inputs, DataOptions()), 0.25, 0)
    return open_workplace(model, recipe, parts, PlanSettings(threads=1), SILENT)


def test_layers_without_biases_get_them_for_the_channels_that_stay(tmp_path: Path) -> None:
    pruned = prune_model(chain(tmp_path), PlanSettings(threads=1))
    check(pruned.model)
    assert pruned.loss is not None
    assert pruned.loss < 0.2
    for node in pruned.model.graph:
        if node.op_type == "Conv" and len(node.inputs) > 2:
            weight, bias = node.inputs[1], node.inputs[2]
            assert weight is not None
            assert bias is not None
            assert weight.shape is not None
            assert bias.shape is not None
            assert bias.shape[0] == weight.shape[0]


def test_a_head_too_small_to_store_is_read_by_fewer_channels(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 16] x) => (float[n, 1] y) {
        h = Gemm (x, w, b)
        r = Relu (h)
        y = MatMul (r, w2)
    }"""
    pruned = prune_model(chain(tmp_path, text, {"w": (16, 40), "b": (40,), "w2": (40, 1)}), PlanSettings(threads=1))
    check(pruned.model)
    assert {layer.name: layer.shape for layer in find_layers(pruned.model)}["w2"][0] < 40


def test_a_plan_that_needs_data_is_not_replayed_without(folder: Path) -> None:
    first = prune_model(work_on(folder, Pruning(amount=0.5, spread=Spread.LAYER)), PlanSettings(threads=1))
    with pytest.raises(RecipeError, match="by data, and there is none"):
        replay_pruning(work_on(folder, Pruning(amount=0.5), data=False), first.prunes, {})


@pytest.mark.parametrize("units", [(), (3, 1), (-1, 2), (2, 2), (0, 10**6)])
def test_damaged_channels_of_a_plan_are_refused(folder: Path, units: tuple[int, ...]) -> None:
    work = work_on(folder, Pruning(amount=0.3, pattern=CHANNELS))
    name = find_candidates(work, Criterion.MAGNITUDE, walk_settings(work)).groups[0].name
    with pytest.raises(RecipeError, match="does not have"):
        replay_pruning(work, {}, {name: units})
