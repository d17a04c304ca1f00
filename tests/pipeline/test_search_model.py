"""What a search foresees: noise adds up, casts cost, and minimum cuts are the best mixtures there are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_model import images, planted_model
from random_top_networks import random_top

import tpu_deploy
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.search_cost import CAST, FLOAT, INTEGER, SUMS, Busy, CastRates, Costs, Timed, timed
from tpu_deploy.pipeline.search_cuts import Cuts
from tpu_deploy.pipeline.search_model import Model, reversions
from tpu_deploy.pipeline.search_noise import OWN, READ, RESULT, Noise, Probe, noisy_places, rounding
from tpu_deploy.pipeline.search_samples import digest, divided, spread
from tpu_deploy.pipeline.search_target import SIMILARITY, SQNR, Drop, SimilarityJudge, target_of
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.precision import precisions_of
from tpu_deploy.reports.metrics import metric_named

CHIP = "bm1684x"


def wiring_of(
    reads: dict[str, tuple[str, ...]],
    products: set[str],
    outputs: tuple[str, ...],
    sums: Collection[str] = (),
    floats: Collection[str] = (),
) -> Wiring:
    """A wiring of operations that each make the tensor of their name; what no operation makes is an input."""
    readers: dict[str, tuple[str, ...]] = {}
    for name, tensors in reads.items():
        for tensor in tensors:
            readers[tensor] = (*readers.get(tensor, ()), name)
    return Wiring(
        operations=tuple(reads),
        reads=reads,
        makers={name: name for name in reads},
        readers=readers,
        shapes=dict.fromkeys([*readers, *reads], (1, 64, 4, 4)),
        outputs=outputs,
        products=frozenset(products),
        only_sums=frozenset(sums),
        only_float=frozenset(floats),
        only_int8=frozenset(),
        moving=(),
    )


def costs_of(wiring: Wiring, forms: dict[str, dict[str, Busy]], cast: float = 1.0) -> Costs:
    """Costs by operation and form; a cast takes 16 elements times `cast`."""
    by_form = {form: {name: each[form] for name, each in forms.items()} for form in (INTEGER, SUMS, FLOAT)}
    return Costs(wiring, by_form, CastRates(cast, cast, 64))


def noise_of(wiring: Wiring, draw: random.Random) -> Noise:
    """Noise of one batch and output, by places; what all readers round is the sum of what each does."""
    sizes: dict[tuple[str, ...], float] = {(OWN, name): draw.random() for name in wiring.operations}
    for tensor in [*wiring.readers, *wiring.operations]:
        readers = wiring.readers.get(tensor, ())
        reads = {(READ, tensor, reader): draw.random() for reader in readers}
        sizes |= reads if wiring.uses(tensor) > 1 else {}
        sizes[RESULT, tensor] = sum(reads.values()) or draw.random()
    return Noise(tuple(sizes), np.array(list(sizes.values())).reshape(-1, 1, 1))


def random_model(seed: int) -> Model:
    """A network of up to five operations, with branches, and random costs: float may be the cheaper form.

    Some operations and sums are float in any mixture.
    """
    draw = random.Random(seed)
    reads: dict[str, tuple[str, ...]] = {}
    for index in range(draw.randint(2, 5)):
        known = ["x", *reads]
        reads[f"op{index}"] = tuple(dict.fromkeys(draw.choice(known[-3:]) for _ in range(draw.randint(1, 2))))
    products = {name for name in reads if draw.random() < 0.6}
    floats = {name for name in reads if draw.random() < 0.2}
    sums = {name for name in reads if name in products - floats and draw.random() < 0.3}
    wiring = wiring_of(reads, products, (f"op{len(reads) - 1}",), sums, floats)
    forms = {
        name: {form: Busy(draw.randint(0, 60), draw.randint(0, 60)) for form in (INTEGER, SUMS, FLOAT)}
        for name in reads
    }
    return Model(wiring, noise_of(wiring, draw), costs_of(wiring, forms, draw.choice([0.0, 0.5, 3.0])))


def mixtures(wiring: Wiring) -> Iterator[Mixture]:
    """Every mixture of a small network."""
    forms = [(INTEGER, SUMS, FLOAT) if name in wiring.products else (INTEGER, FLOAT) for name in wiring.operations]
    for chosen in itertools.product(*forms):
        named = list(zip(wiring.operations, chosen, strict=True))
        yield Mixture(*(frozenset(name for name, form in named if form == wanted) for wanted in (FLOAT, SUMS)))


def paid(model: Model, mixture: Mixture, price: float, share: float) -> float:
    """Cycles of both engines, weighed, and noise at a price; float outputs of INT8 operations are casts, too."""
    wiring, steps = model.wiring, model.costs.steps(mixture).sum(axis=0)
    returned = [t for t in wiring.outputs if not wiring.is_made_float(t, mixture)]
    widened = {tensor for tensor, _, _ in model.costs.casts(mixture)}
    more = sum(model.costs.dequantizing(tensor).tiu for tensor in returned if tensor not in widened)
    cycles = (steps[0] + more) * (1 - share) + steps[1] * share
    return float(cycles) + price * model.noise.total(wiring, mixture)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), price=st.floats(0, 200), share=st.floats(0, 1))
def test_a_cut_is_the_best_of_all_mixtures(seed: int, price: float, share: float) -> None:
    model = random_model(seed)
    found = Cuts(model.wiring, model.noise, model.costs).best(price, np.full(len(model.wiring.operations), share))
    completed = [model.wiring.completed(each) for each in (found, *mixtures(model.wiring))]
    paid_for, *others = (paid(model, each, price, share) for each in completed)
    assert paid_for == pytest.approx(min(others), rel=1e-4, abs=1e-3)


def chain(length: int, cast: float) -> Model:
    """A chain in which float costs 10 more; every second operation makes noise of its own."""
    names = [f"op{index}" for index in range(length)]
    reads = {name: (before,) for name, before in zip(names, ["x", *names], strict=False)}
    wiring = wiring_of(reads, set(), (names[-1],))
    form = {INTEGER: Busy(10, 0), SUMS: Busy(10, 0), FLOAT: Busy(20, 0)}
    places = tuple((OWN, name) for name in names)
    energies = np.array([index % 2 for index in range(length)], float).reshape(-1, 1, 1)
    return Model(wiring, Noise(places, energies), costs_of(wiring, dict.fromkeys(names, form), cast))


def test_dear_casts_join_float_operations_into_runs() -> None:
    alone, joined = (chain(9, cast).cheapest(0.0) for cast in (0.1, 0.5))
    assert alone.mixture.floats == {"op1", "op3", "op5", "op7"}
    assert joined.mixture.floats == {f"op{index}" for index in range(1, 8)}


def test_casts_are_part_of_the_cycles() -> None:
    model = chain(3, cast=1.0)
    one = Mixture(frozenset({"op1"}))
    assert model.foreseen(Mixture()).cycles == 30
    assert model.foreseen(one).cycles == 30 + 10 + 2 * 16
    assert model.foreseen(Mixture(frozenset({"op1", "op2"}))).cycles == 30 + 20 + 16


def test_loads_run_ahead_of_computing() -> None:
    wiring = wiring_of({"a": ("x",), "b": ("a",)}, set(), ("b",))
    both = {form: Busy(30, 10) for form in (INTEGER, SUMS, FLOAT)}
    late = {form: Busy(5, 100) for form in (INTEGER, SUMS, FLOAT)}
    costs = costs_of(wiring, {"a": both, "b": late})
    assert costs.cycles(Mixture()) == 10 + 100 + 5
    assert costs_of(wiring, {"a": late, "b": both}).cycles(Mixture()) == 100 + 10 + 30


def test_what_a_compiled_mixture_moves_beyond_the_foreseen_is_put_down_to_its_casts() -> None:
    model = chain(3, cast=1.0)
    seen = Timed(1000, {"op0": Busy(10, 0), "op1": Busy(36, 600), "op2": Busy(26, 4)})
    learned = model.learned(Mixture(frozenset({"op1"})), seen)
    assert learned.costs.extra == {(CAST, "op0"): 300, (CAST, "op1"): 300}
    alone = model.learned(Mixture(), Timed(1000, {"op1": Busy(10, 600)}))
    assert alone.costs.extra == {(INTEGER, "op1"): 600}


def test_sums_that_nothing_reads_as_floats_go_back_with_their_reader() -> None:
    wiring = wiring_of({"a": ("x",), "b": ("a",), "c": ("b",)}, {"a"}, ("c",))
    found = set(reversions(wiring, Mixture(frozenset({"b"}), frozenset({"a"}))))
    assert found == {Mixture(), Mixture(frozenset({"b"}))}


def test_the_worst_batch_counts_most_where_that_is_asked_for() -> None:
    wiring = wiring_of({"a": ("x",), "b": ("a",)}, set(), ("b",))
    energies = np.array([[[0.0], [0.9]], [[0.5], [0.5]]])
    even, worst = (Noise(((OWN, "a"), (OWN, "b")), energies, power) for power in (1.0, 8.0))
    assert even.size((OWN, "a")) < even.size((OWN, "b"))
    assert worst.size((OWN, "a")) > worst.size((OWN, "b"))
    assert even.total(wiring, Mixture()) == pytest.approx((0.5 + 1.4) / 2)
    assert worst.total(wiring, Mixture()) == pytest.approx(1.4, rel=0.1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_movements_follow_as_they_do_in_plans(seed: int) -> None:
    network, draw = random_top(seed), random.Random(seed)
    wiring = Wiring.of(network, "F16", QuantizationPlan({}, precisions_of(network)))
    floats = frozenset(name for name in wiring.computing if draw.random() < 0.5)
    results = frozenset(n for n in wiring.computing if n in wiring.products - floats and draw.random() < 0.5)
    planned = precisions_of(network, "INT8", dict.fromkeys(floats, "F16"), dict.fromkeys(results, "F16"))
    completed = wiring.completed(Mixture(floats, results))
    assert completed.floats == {name for name, precision in planned.items() if precision != "INT8"}


class Planted:
    """The planted network, its model of noise and cycles, and a judge."""

    def __init__(self) -> None:
        source = Source.of(planted_model(outlier=1.0))
        self.top: Network = canonical_network(source, None)
        feeds = [{"image": image[None]} for image in images(6)]
        table = tpu_deploy.calibrate(source.given, feeds)
        self.plan = lambda scheme: make_plan(self.top, table, scheme)
        self.wiring = Wiring.of(self.top, "F16", self.plan(Scheme()))
        products = dict.fromkeys(sorted(self.wiring.products), "F32")
        probe = Probe(self.top, self.wiring, self.plan(Scheme()), self.plan(Scheme(results=products)), CHIP)
        rows = [probe.measured(feed)[0] for feed in feeds[:2]]
        noise = Noise(probe.places, np.array(rows).transpose(1, 0, 2))
        sums = Mixture(results=frozenset(products))
        compiled = [timed(self.lowered(each), self.wiring, CHIP) for each in (Mixture(), sums, self.wiring.all_float)]
        self.model = Model(self.wiring, noise, Costs.of(self.wiring, *compiled, CastRates.of("F16", CHIP)))
        self.judge = SimilarityJudge(self.top, feeds[:2])

    def lowered(self, mixture: Mixture) -> Network:
        floats, results = (dict.fromkeys(sorted(each), "F16") for each in (mixture.floats, mixture.results))
        return lower_to_tpu(self.top, self.plan(Scheme(operations=floats, results=results)), CHIP)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


MIXTURES = (
    Mixture(),
    Mixture(frozenset({"conv3"}), frozenset({"conv2"})),
    Mixture(frozenset({"conv1", "conv4"}), frozenset({"conv3", "conv5"})),
)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_noise_and_cycles_are_foreseen(planted: Planted, mixture: Mixture) -> None:
    foreseen = planted.model.foreseen(mixture)
    assert timed(planted.lowered(mixture), planted.wiring, CHIP).cycles == pytest.approx(foreseen.cycles, rel=0.05)
    figures = planted.judge.figures(planted.lowered(mixture))
    assert figures[SQNR] == pytest.approx(-10 * math.log10(foreseen.noise), abs=1.0)
    assert 1 - figures[SIMILARITY] == pytest.approx(1 - planted.model.similarity(mixture), rel=0.3)


def test_float_rounds_nowhere_and_every_place_of_int8_is_measured(planted: Planted) -> None:
    wiring = planted.wiring
    assert set(noisy_places(wiring, wiring.all_float)) == set()
    assert set(noisy_places(wiring, Mixture())) <= set(planted.model.noise.places)
    assert rounding(wiring, "conv1", "conv2") == (RESULT, "conv1")


def test_a_judge_compares_with_the_float_network(planted: Planted) -> None:
    floats = FloatNetwork(planted.top)
    feed = {"image": images(1)}
    exact = floats.values(feed)[name_of(planted.top.outputs[0])]
    assert np.isfinite(exact).all()
    figures = SimilarityJudge(planted.top, [feed]).figures(planted.lowered(planted.wiring.all_float))
    assert figures[SIMILARITY] > 0.99999 and figures[SQNR] > 50


@pytest.mark.parametrize(
    "text, figure, least, words",
    [
        ("similarity>=0.99", SIMILARITY, 0.99, "similarity >= 0.99"),
        (" Cosine >= 99.5% ", SIMILARITY, 0.995, "cosine >= 0.995"),
        ("sqnr≥20dB", SQNR, 20.0, "sqnr >= 20 dB"),
    ],
)
def test_a_target_is_what_its_words_say(text: str, figure: str, least: float, words: str) -> None:
    target = target_of(text)
    assert (target.figure, target.least, target.words) == (figure, pytest.approx(least), words)
    assert target.is_reached({figure: least}) and not target.is_reached({figure: math.nan})


def test_a_drop_is_in_points_of_percentages_else_of_the_float_figure_or_in_units() -> None:
    topk, own = metric_named("topk", lambda *_: None), metric_named("m:f", lambda *_: len)
    assert Drop.of("0.5%").target(topk, 0.72, False).least == pytest.approx(0.715)
    assert Drop.of("0.5").target(topk, 0.72, False).least == pytest.approx(0.715)
    assert Drop.of("10%").target(own, 20.0, False).least == pytest.approx(18)
    assert Drop.of("10").target(own, 20.0, False).least == pytest.approx(10)
    error = Drop.of("10%").target(own, 20.0, True)
    assert error.least == pytest.approx(22)
    assert error.is_reached({"metric": 21.9}) and not error.is_reached({"metric": 22.1})
    assert error.worth({"metric": 1.0}) > error.worth({"metric": 2.0})


def test_samples_serve_for_one_thing_where_there_are_enough() -> None:
    learned, judged = divided(10, calibrates=True)
    assert (learned, judged) == ([0, 1, 2, 4, 5, 6, 8, 9], [3, 7])
    assert divided(10, calibrates=False) == (judged, learned)
    assert divided(3, calibrates=True) == ([0, 1, 2], [0, 1, 2])
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]


def test_digests_tell_feeds_apart() -> None:
    ones, zeros = {"a": np.ones(3)}, {"a": np.zeros(3)}
    assert digest([ones]) == digest([{"a": np.ones(3)}])
    assert len({digest([ones]), digest([zeros]), digest([{"b": np.ones(3)}]), digest([ones, ones])}) == 4
