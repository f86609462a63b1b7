"""distributer.load.histogram and the measurement that carries it."""

from __future__ import annotations

import math
import random

import pytest

from distributer.load.histogram import Histogram
from distributer.load.measurement import Measurement


def test_percentiles_of_small_values_are_exact() -> None:
    histogram = Histogram.of(range(1, 101))
    assert [histogram.percentile_ns(percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert histogram.max_ns == 100
    assert len(histogram) == 100


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_right_to_one_percent(percent: float) -> None:
    values = [int(random.Random(number).lognormvariate(13, 2)) for number in range(5000)]
    exact = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
    assert Histogram.of(values).percentile_ns(percent) == pytest.approx(exact, rel=0.01)


def test_one_slow_answer_is_the_maximum_but_not_the_99th_percentile() -> None:
    histogram = Histogram.of([1000] * 999 + [1_000_000_000])
    assert histogram.percentile_ns(99) == 1000
    assert histogram.max_ns == pytest.approx(1_000_000_000, rel=0.01)


def test_an_empty_histogram_answers_zero() -> None:
    assert (Histogram().percentile_ns(50), Histogram().max_ns, len(Histogram())) == (0, 0, 0)


def test_a_measurement_survives_the_way_through_json() -> None:
    sent = Measurement(
        window_s=2.0,
        latencies=Histogram.of([100, 100, 5_000_000]),
        proxy_cpu_s=0.5,
        load_cpu_s=0.25,
        errors={"reset": 2},
        backends={"8000": 2, "8001": 1},
    )
    read = Measurement.from_json(sent.to_json())
    assert read.latencies.counts() == sent.latencies.counts()
    assert (read.window_s, read.proxy_cpu_s, read.load_cpu_s) == (2.0, 0.5, 0.25)
    assert (read.errors, read.backends) == (sent.errors, sent.backends)


def test_a_measurement_derives_its_figures() -> None:
    measurement = Measurement(window_s=2.0, latencies=Histogram.of([100] * 1000), proxy_cpu_s=0.5)
    assert measurement.answers == 1000
    assert measurement.requests_per_s == 500
    assert measurement.cpu_us_per_request == 500
    assert measurement.core_busy == 0.25


def test_without_answers_or_proxy_there_is_no_cpu_figure() -> None:
    assert Measurement(window_s=1.0, latencies=Histogram(), proxy_cpu_s=0.5).cpu_us_per_request is None
    assert Measurement(window_s=1.0, latencies=Histogram.of([1])).cpu_us_per_request is None
