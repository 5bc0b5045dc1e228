"""Intervals must cover what they say they cover, at the numbers of boots really used.

The rest are laws that must always hold.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from ansible.module_utils.onecopy.analysis import statistics
from ansible.module_utils.onecopy.analysis.density import fit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

SECONDS = st.floats(min_value=1e-3, max_value=1e3, allow_nan=False)
BOOTS = st.lists(st.lists(SECONDS, min_size=1, max_size=4), min_size=2, max_size=8)
SIMULATIONS = 8000


def sample(boots: list[list[float]]) -> dict[str, list[float]]:
    return {f"boot{number:03}": values for number, values in enumerate(boots)}


@pytest.mark.parametrize("boots", [2, 3, 4, 5, 7, 10])
def test_the_interval_covers_what_it_says(boots: int) -> None:
    generator = np.random.default_rng(boots)
    hits = 0
    for _ in range(1000):
        luck = generator.normal(0, 0.05, (boots, 1)) + generator.normal(0, 0.02, (boots, 3))
        found = statistics.estimate(sample(np.exp(luck).tolist()), logs=True)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert 0.92 <= hits / 1000 <= 0.98


@pytest.mark.parametrize("boots", [2, 3, 5, 10])
def test_the_interval_of_skewed_noise_covers_less_and_how_much_is_told(boots: int) -> None:
    generator = np.random.default_rng(boots)
    hits = 0
    for medians in generator.exponential(1.0, (2000, boots)):
        found = statistics.estimate(sample([[value] for value in medians.tolist()]))
        assert found.test is not None
        low, high = found.test.interval()
        hits += low <= 1.0 <= high
    assert 0.86 <= hits / 2000 <= 0.93


@pytest.mark.parametrize("cap", [6, 10, 20, 40])
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2, 0.4])
def test_skewed_noise_and_looking_at_the_interval_cover_less_and_how_much_is_told(spread: float, cap: int) -> None:
    generator = np.random.default_rng(cap)
    stopped = stop_all(1 + spread * (generator.exponential(1.0, (SIMULATIONS, cap)) - 1), 0.05)
    reach = stats.t.ppf((1 + statistics.ADAPTIVE_CONFIDENCE) / 2, stopped.boots - 1) * stopped.error
    assert 0.845 <= float((np.abs(stopped.mean - 1) <= reach).mean()) <= 0.965


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.floats(min_value=0.002, max_value=0.4),
    st.integers(min_value=6, max_value=40),
    st.floats(min_value=0.02, max_value=0.2),
)
def test_the_interval_covers_when_looking_at_it_decides_how_often_to_boot(
    spread: float, cap: int, half_width: float
) -> None:
    # The rule and the interval of the module, for many runs at once: booting them one by one takes minutes.
    medians = np.random.default_rng(cap).normal(1.0, spread, (SIMULATIONS, cap))
    stopped = stop_all(medians, half_width)
    reach = stats.t.ppf((1 + statistics.ADAPTIVE_CONFIDENCE) / 2, stopped.boots - 1) * stopped.error
    hits = float((np.abs(stopped.mean - 1) <= reach).mean())
    assert 0.92 <= hits <= 0.98, f"{hits} at {stopped.boots.mean():.1f} boots"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.floats(min_value=0.002, max_value=0.3),
    st.floats(min_value=0.002, max_value=0.3),
    st.integers(min_value=6, max_value=40),
)
def test_a_ratio_of_two_systems_that_stopped_by_themselves_covers_what_it_says(
    one: float, other: float, cap: int
) -> None:
    generator = np.random.default_rng(cap)
    of, to = (
        stop_all(np.exp(generator.normal(0, spread, (SIMULATIONS, cap))), 0.05, logs=True) for spread in (one, other)
    )
    error = np.hypot(of.error, to.error)
    freedom = error**4 / (of.error**4 / (of.boots - 1) + to.error**4 / (to.boots - 1))
    reach = stats.t.ppf((1 + statistics.ADAPTIVE_CONFIDENCE) / 2, freedom) * error
    assert 0.92 <= float((np.abs(of.mean - to.mean) <= reach).mean()) <= 0.98


@dataclass
class Stopped:
    """Of many runs: mean over the boots, its standard error, and how many boots there were."""

    mean: np.ndarray
    error: np.ndarray
    boots: np.ndarray


def stop_all(medians: np.ndarray, half_width: float, *, logs: bool = False) -> Stopped:
    """Each row is a run that stops by the module's rule; checked against the module on the first of them."""
    runs, cap = medians.shape
    found = Stopped(np.zeros(runs), np.zeros(runs), np.zeros(runs))
    done = np.zeros(runs, bool)
    for boots in range(2, cap + 1):
        seen = medians[:, :boots]
        reach = stats.t.ppf((1 + statistics.ADAPTIVE_CONFIDENCE) / 2, boots - 1) * seen.std(axis=1, ddof=1) / boots**0.5
        narrow = (reach / np.median(seen, axis=1) <= half_width) & (boots >= statistics.ADAPTIVE_MINIMUM_BOOTS)
        stopping = ~done & (narrow | (boots == cap))
        values = np.log(seen) if logs else seen
        found.mean[stopping] = values.mean(axis=1)[stopping]
        found.error[stopping] = (values.std(axis=1, ddof=1) / boots**0.5)[stopping]
        found.boots[stopping] = boots
        done |= stopping
        module = statistics.stop(seen[0].tolist(), cap=cap, half_width=half_width)
        assert module.done == bool(narrow[0] or boots == cap)
    return found


@pytest.mark.parametrize("boots", [2, 3, 5, 10])
@pytest.mark.parametrize("other_spread", [0.01, 0.05])
def test_a_ratio_covers_what_it_says(boots: int, other_spread: float) -> None:
    generator = np.random.default_rng(boots)
    hits = 0
    for _ in range(1500):
        of, to = (sample(np.exp(generator.normal(0, spread, (boots, 2))).tolist()) for spread in (0.05, other_spread))
        found = statistics.geometric_mean_ratio({"cat": of}, {"cat": to})
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert 0.92 <= hits / 1500 <= 0.985


@pytest.mark.parametrize("guests", [(1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8) * 3])
@pytest.mark.parametrize(("grows", "least", "most"), [(False, 0.935, 0.965), (True, 0.80, 0.94)])
def test_a_slope_covers_what_it_says_and_less_where_noise_grows_with_the_guests(
    guests: tuple[int, ...], grows: bool, least: float, most: float
) -> None:
    generator = np.random.default_rng(len(guests))
    spread = 0.05 * np.array(guests if grows else [1.0] * len(guests))
    hits = 0
    for noise in generator.normal(0, spread, (2000, len(guests))):
        _, _, test = fit([[number, 1 + 0.9 * number + luck] for number, luck in zip(guests, noise, strict=True)])
        assert test is not None
        low, high = test.interval()
        hits += low <= 0.9 <= high
    assert least <= hits / 2000 <= most


@given(BOOTS)
def test_the_estimate_lies_among_the_boots_and_n_counts_boots(boots: list[list[float]]) -> None:
    found = statistics.estimate(sample(boots))
    medians = statistics.boot_medians(sample(boots))
    assert min(medians) <= found.value <= max(medians)
    assert found.n == len(boots)


@given(BOOTS, st.randoms(use_true_random=False))
def test_the_order_of_boots_and_trials_does_not_matter(boots: list[list[float]], shuffler: random.Random) -> None:
    shuffled = [list(values) for values in boots]
    for values in shuffled:
        shuffler.shuffle(values)
    items = list(sample(shuffled).items())
    shuffler.shuffle(items)
    assert statistics.estimate(dict(items)) == statistics.estimate(sample(boots))


@given(SECONDS)
def test_one_boot_has_no_interval(value: float) -> None:
    found = statistics.estimate({"only": [value, value]})
    assert (found.value, found.low, found.high, found.n) == (value, None, None, 1)


def test_no_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="no value"):
        statistics.estimate({"boot": []})


@given(BOOTS, BOOTS)
def test_a_ratio_turned_round_is_its_reciprocal(of: list[list[float]], to: list[list[float]]) -> None:
    there = statistics.geometric_mean_ratio({"cat": sample(of)}, {"cat": sample(to)})
    back = statistics.geometric_mean_ratio({"cat": sample(to)}, {"cat": sample(of)})
    assert math.isclose(there.value * back.value, 1.0, rel_tol=1e-9)
    assert there.p_against(1) == pytest.approx(back.p_against(1))


@given(BOOTS, st.floats(min_value=0.1, max_value=10))
def test_scaling_one_side_scales_the_ratio(boots: list[list[float]], factor: float) -> None:
    scaled = [[value * factor for value in values] for values in boots]
    found = statistics.geometric_mean_ratio({"cat": sample(scaled)}, {"cat": sample(boots)})
    assert math.isclose(found.value, factor, rel_tol=1e-9)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= factor * (1 + 1e-9)
    assert found.high >= factor * (1 - 1e-9)


def test_equal_counts_have_an_interval_of_no_width() -> None:
    found = statistics.estimate(sample([[2.0], [2.0], [2.0]]))
    assert (found.low, found.high) == (2.0, 2.0)
    ratio = statistics.geometric_mean_ratio({"cat": sample([[2.0], [2.0]])}, {"cat": sample([[1.0], [1.0]])})
    assert (ratio.low, ratio.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert (ratio.p_against(1), ratio.p_against(2)) == (0.0, 1.0)


def test_the_least_that_could_have_been_told_apart_is_what_is_just_significant() -> None:
    of, to = sample([[1.0], [1.1], [1.05]]), sample([[1.0], [0.9], [0.95]])
    ratio = statistics.geometric_mean_ratio({"cat": of}, {"cat": to})
    factor = ratio.tells_apart(0.01)
    assert ratio.test is not None
    assert factor is not None
    assert statistics.TTest(math.log(factor), ratio.test.error, ratio.test.freedom).p_against(0) == pytest.approx(0.01)
    equal = statistics.geometric_mean_ratio({"cat": sample([[2.0], [2.0]])}, {"cat": sample([[1.0], [1.0]])})
    assert equal.tells_apart(0.01) == 1.0
    wild = statistics.geometric_mean_ratio({"cat": sample([[1.0], [1e9]])}, {"cat": sample([[1.0], [1.0]])})
    assert wild.tells_apart(1e-4) == pytest.approx(1e9)
    assert statistics.geometric_mean_ratio({"cat": {"a": [1.0]}}, {"cat": of}).tells_apart(0.01) is None


def test_a_workload_that_a_boot_lacks_is_left_out_of_the_geometric_mean() -> None:
    of = {"cat": {"a": [2.0], "b": [2.0]}, "find": {"a": [8.0]}}
    to = {"cat": {"c": [1.0], "d": [1.0]}, "find": {"c": [1.0], "d": [1.0]}}
    found = statistics.geometric_mean_ratio(of, to)
    assert (found.workloads, found.value) == (("cat",), pytest.approx(2.0))


@pytest.mark.parametrize("of", [{}, {"cat": {}}, {"cat": {"a": [0.0], "b": [1.0]}}, {"cat": {"a": [-1.0], "b": [1.0]}}])
def test_what_has_no_ratio_is_an_error(of: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  two messages, one kind
        statistics.geometric_mean_ratio(of, {"cat": {"c": [1.0], "d": [1.0]}})


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = statistics.holm(p_values)
    assert all(one <= other <= 1 for one, other in zip(p_values, adjusted, strict=True))
    ranked = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [adjusted[index] for index in ranked] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_outliers_are_named_not_removed() -> None:
    values = [1.0, 1.01, 0.99, 1.02, 0.98, 5.0]
    assert statistics.outliers(values) == [5]
    assert statistics.outliers([1.0, 1.0, 1.0, 1.0, 9.0]) == []
    assert statistics.outliers([1.0, 9.0]) == []


@pytest.mark.parametrize(
    ("medians", "done", "reason"),
    [
        ([], False, None),
        ([1.0], False, None),
        ([1.0, 1.0, 1.0, 1.0], False, None),
        ([1.0, 1.0, 1.0, 1.0, 1.0], True, "half_width"),
        ([1.0, 2.0, 1.0, 2.0, 1.0], False, None),
        ([1.0, 2.0] * 5, True, "cap"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], True, "half_width"),
    ],
)
def test_when_to_stop(medians: list[float], done: bool, reason: str | None) -> None:
    found = statistics.stop(medians, cap=10)
    assert (found.done, found.reason) == (done, reason)


def test_a_cap_below_the_minimum_is_obeyed() -> None:
    assert statistics.stop([1.0, 1.0], cap=2) == statistics.Stop(True, "half_width", 0.0)
    assert statistics.stop([1.0, 2.0], cap=2).reason == "cap"


@settings(max_examples=20)
@given(st.integers(min_value=0, max_value=2**31))
def test_the_bootstrap_is_seeded_and_lies_among_the_values(seed: int) -> None:
    boots = sample([[1.0 + 0.01 * number, 1.0] for number in range(10)])
    found = statistics.bootstrap(boots, seed=seed)
    assert found == statistics.bootstrap(boots, seed=seed)
    assert 1.0 <= found[0] <= found[1] <= 1.09
