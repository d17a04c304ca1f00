import json
from dataclasses import replace

import numpy as np
import pytest

from tpu_deploy.calibration import collect_statistics
from tpu_deploy.calibration.advice import advise, confidence, duplicates, outliers
from tpu_deploy.calibration.recorder import Recorder
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.thresholds import METHODS, thresholds


def recorded(samples: list[np.ndarray]) -> Statistics:
    """The statistics of "x" and of two tensors that follow from it."""
    recorder = Recorder(["x", "twice", "root"], 0)
    for number, values in enumerate(samples):
        for index, made in enumerate((values, 2 * values, np.sign(values) * np.sqrt(np.abs(values)))):
            recorder.record(index, made.astype(np.float32), number)
    return replace(recorder.statistics("m"), samples=len(samples))


def drawn(count: int, spread: float, seed: int = 0) -> list[np.ndarray]:
    """Samples whose sizes differ by a factor of about e^spread."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 400)) * np.exp(spread * rng.normal()) for _ in range(count)]


@pytest.mark.parametrize("method", METHODS)
def test_the_error_told_is_about_that_between_samples_drawn_again(method: str) -> None:
    runs = [recorded(drawn(20, 0.5, seed)) for seed in range(25)]
    told = [confidence(run, method) for run in runs]
    found = np.log([thresholds(run, method)["twice"].threshold for run in runs])
    squares = [np.square(each.errors["twice"]) for each in told if each is not None]
    assert np.sqrt(np.mean(squares)) == pytest.approx(np.std(found), rel=0.6)


def test_samples_that_are_alike_are_enough_sooner() -> None:
    few, many = (confidence(recorded(drawn(20, spread)), "mse") for spread in (0.02, 1.0))
    assert few is not None and many is not None
    assert few.is_enough and few.wanted == 20
    assert not many.is_enough and many.wanted > 20
    assert set(few.errors) == {"x", "twice", "root"} and few.median <= few.most


def test_of_one_sample_nothing_is_known() -> None:
    statistics = recorded(drawn(1, 0.1))
    assert confidence(statistics, "mse") is None
    assert advise(statistics, "mse").lines() == [
        "samples: 1, too few to know how sure the thresholds are; some 20 to 100 are usual"
    ]


def test_samples_like_the_others_are_no_outliers() -> None:
    for seed in range(20):
        assert outliers(recorded(drawn(30, 0.3, seed)), ["x"]) == ()


@pytest.mark.parametrize(
    ("factor", "inputs", "reason"),
    [(30.0, ["x"], "largest value is"), (1 / 30, ["x"], "largest value is"), (30.0, [], "times the usual range")],
)
def test_a_sample_of_another_size_stands_out(factor: float, inputs: list[str], reason: str) -> None:
    samples = drawn(30, 0.1)
    samples[17] = factor * samples[17]
    found = outliers(recorded(samples), inputs)
    assert [each.sample for each in found] == [17] and reason in found[0].reason


def test_a_sample_of_a_single_value_stands_out() -> None:
    samples = drawn(12, 0.1)
    samples[3] = np.full((1, 400), 0.7)
    assert [(each.sample, each.reason) for each in outliers(recorded(samples), ["x"])] == [
        (3, "is a single value throughout")
    ]


def test_repeated_samples_are_found() -> None:
    samples = drawn(9, 0.1)
    samples[5], samples[8] = samples[2], samples[2]
    assert duplicates(recorded(samples)) == ((5, 2), (8, 2))


def test_copies_of_few_samples_are_not_enough() -> None:
    advice = advise(recorded(drawn(1, 0.1) * 10), "mse")
    assert advice.confidence is None
    assert advice.lines()[-1] == (
        "samples: 10, 1 of them different, too few to know how sure the thresholds are; some 20 to 100 are usual"
    )


def test_advice_is_the_same_from_shards_and_threads(small_network, pictures) -> None:
    from tpu_deploy.calibration import merge
    from tpu_deploy.calibration.shards import Shard

    whole = collect_statistics(small_network(), pictures, threads=1)
    parts = [collect_statistics(small_network(), pictures, shard=Shard(number, 2)) for number in (2, 1)]
    assert advise(merge(*parts), "mse", ["x"]) == advise(whole, "mse", ["x"])


def test_advice_is_plain_data_and_few_lines() -> None:
    samples = drawn(20, 0.1)
    samples[3:7] = [samples[0]] * 4
    samples[10] = 1000 * samples[10]
    advice = advise(recorded(samples), "mse", ["x"])
    assert json.loads(json.dumps(advice.to_json()))["outliers"][0]["sample"] == 10
    outlier, repeated, enough = advice.lines()
    assert outlier.startswith("outlier: sample 10 has an input")
    assert repeated.startswith("repeated: sample 3 is sample 0; ") and repeated.endswith("and 1 more")
    assert enough.startswith("samples: 20, 16 of them different, ")
