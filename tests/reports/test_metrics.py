from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tpu_deploy.errors import BadInput
from tpu_deploy.reports.metrics import CLEAREST, Score, metric_named

RNG = np.random.default_rng(0)


def score(name: str, outputs: list[Any], labels: Any = None, exact: list[Any] | None = None) -> Score:
    """The figure over samples, an array of outputs each."""
    metric = metric_named(name, lambda module, function: None)
    rows = [
        metric.row({"y": y}, None if labels is None else np.asarray(labels[k]), {"y": exact[k]} if exact else {})
        for k, y in enumerate(outputs)
    ]
    return metric.score(rows)


def test_topk_counts_any_accepted_class_among_the_largest() -> None:
    outputs = [np.array([[0.1, 0.7, 0.2]])] * 3
    assert score("topk", outputs, [[1], [2], [0]]).value == pytest.approx(1 / 3)
    assert score("top2", outputs, [[1], [2], [0]]).value == pytest.approx(2 / 3)
    assert score("top1", outputs, [[2, 1], [0, -1], [1, -1]]).value == pytest.approx(2 / 3)
    assert score("top1", [each.reshape(1, 3, 1, 1) for each in outputs], [1, 1, 0]).value == pytest.approx(2 / 3)


def test_a_share_has_the_standard_error_of_a_share() -> None:
    labels = np.arange(100) % 4 > 0
    found = score("topk", [np.array([[0.0, 1.0]])] * 100, labels)
    assert found.value == 0.75
    assert found.error == pytest.approx(math.sqrt(0.75 * 0.25 / 99))
    assert math.isnan(score("topk", [np.array([[0.0, 1.0]])], [1]).error)


@pytest.mark.parametrize(("shape", "axis"), [((1, 5, 6, 7), 1), ((1, 9, 5), 2), ((1, 5), 1)])
def test_agreement_is_the_share_of_positions_of_one_class(shape: tuple[int, ...], axis: int) -> None:
    ours, theirs = RNG.normal(size=shape), RNG.normal(size=shape)
    expected = np.mean(ours.argmax(axis) == theirs.argmax(axis))
    assert score("agreement", [ours], exact=[theirs]).value == expected
    assert score("agreement", [theirs], exact=[theirs]).value == 1


def test_positions_are_held_against_a_label_for_each() -> None:
    outputs = RNG.normal(size=(1, 5, 6, 7))
    assert score("topk", [outputs], [outputs[0].argmax(0)]).value == 1
    with pytest.raises(BadInput, match="3, but the network answers at 42 positions"):
        score("topk", [outputs], [np.zeros(3)])


def test_psnr_takes_its_peak_from_the_labels() -> None:
    labels = RNG.uniform(size=(2, 3, 4, 4)).astype(np.float32)
    outputs = [each[None] + 0.1 for each in labels]
    assert score("psnr", outputs, labels).value == pytest.approx(20.0, abs=1e-3)
    pixels = (labels * 200).astype(np.uint8)
    assert score("psnr", [each[None] + 25.5 for each in pixels], pixels).value == pytest.approx(20.0)
    assert score("psnr", [each[None] for each in labels], labels).value == CLEAREST


def test_sqnr_pools_energies_and_its_error_is_that_of_samples_drawn_again() -> None:
    exact = [RNG.normal(size=(1, 50)) for _ in range(200)]
    ours = [each + RNG.normal(0, RNG.uniform(0.05, 0.2), each.shape) for each in exact]
    found = score("sqnr", ours, exact=exact)
    noise = np.array([np.square(a - b).sum() for a, b in zip(ours, exact, strict=True)])
    signal = np.array([np.square(each).sum() for each in exact])
    assert found.value == pytest.approx(10 * np.log10(signal.sum() / noise.sum()))
    drawn = [RNG.integers(0, 200, 200) for _ in range(500)]
    again = [10 * np.log10(signal[rows].sum() / noise[rows].sum()) for rows in drawn]
    assert found.error == pytest.approx(np.std(again), rel=0.15)
    assert score("sqnr", exact, exact=exact).value == math.inf
    assert score("sqnr", exact, exact=exact).to_json()["value"] is None


@pytest.mark.parametrize("name", ["top0", "accuracy", "", "top-1"])
def test_unknown_metrics_are_named_with_the_known(name: str) -> None:
    with pytest.raises(BadInput, match=r"--metric .*: is unknown; known: topk"):
        metric_named(name, lambda module, function: None)


def test_more_places_than_classes_are_refused() -> None:
    with pytest.raises(BadInput, match="only 3 classes"):
        score("top5", [np.zeros((1, 3))], [0])


def own(function: Any) -> Any:
    return metric_named("m:f", lambda module, name: function)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda outputs, label: 1 / 0, r"raised ZeroDivisionError: division by zero \(.*test_metrics\.py, line \d+\)"),
        (lambda outputs, label: math.nan, "returned nan"),
        (lambda outputs, label: "good", "raised ValueError"),
        (lambda outputs, label: None, "raised TypeError"),
        (3, "is no function"),
    ],
)
def test_faults_of_the_users_function_are_one_line(function: Any, told: str) -> None:
    with pytest.raises(BadInput, match=f"--metric m:f: {told}"):
        own(function).row({"y": np.zeros(1)}, None, {})


def test_the_users_function_sees_outputs_and_label() -> None:
    metric = own(lambda outputs, label: outputs["y"].sum() - label)
    rows = [metric.row({"y": np.array([[1.0, 2.0]])}, np.array(value), {}) for value in (1, 3)]
    assert metric.score(rows) == Score("m:f", 1.0, 1.0, "")


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (3, "3 is no class; the network has 3, 0 to 2"),
        (-100, "-100 is no class"),
        (0.5, "0.5 is no class"),
        ([-1, -1], "a sample has no class"),
        ([0, 0, 1], r"\[0, 0, 1\] names a class twice; give numbers of classes"),
    ],
)
def test_labels_that_can_never_be_right_are_refused(label: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        score("topk", [np.array([[0.1, 0.7, 0.2]])], [label])


def test_a_function_that_wants_to_end_the_program_is_refused_by_name() -> None:
    def leaves(outputs: Any, label: Any) -> float:
        raise SystemExit(3)

    metric = metric_named("own:leaves", lambda module, function: leaves)
    with pytest.raises(BadInput, match="--metric own:leaves: raised SystemExit: 3"):
        metric.row({"y": np.zeros((1, 3))}, None, {})
