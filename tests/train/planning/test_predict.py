"""Predicted seconds and bytes against numbers worked out by hand."""

import pytest

from train.planning.predict import (
    DEVICES,
    Job,
    Link,
    all_reduce_seconds,
    gradient_bytes,
    predict,
    verdict,
    with_overrides,
)

GIGA = 1e9
ROWS = 2560


@pytest.mark.parametrize(("gbit", "expected_seconds"), [(10, 1.12), (25, 0.45), (100, 0.11)])
def test_all_reduce_of_the_flagship_in_bf16(gbit, expected_seconds):
    num_bytes = gradient_bytes(418_900_000, "bf16")
    assert all_reduce_seconds(num_bytes, 4, Link.nominal(gbit).bytes_per_second) == pytest.approx(
        expected_seconds, abs=0.005
    )
    assert gradient_bytes(418_900_000, "none") == 2 * num_bytes


def flagship_job(path, flops_per_row, compression="bf16", **once):
    return Job(path, ROWS, 4, 64, flops_per_row, 418_900_000, gradient_bytes(418_900_000, compression), True, **once)


@pytest.mark.parametrize(
    ("gbit", "best_plain", "cached"),  # speed-up of 4 over 1 for well-configured plain training, and with the cache
    [(10, 1.1, 0.12), (25, 2.0, 0.29), (100, 3.1, 0.90)],
)
def test_four_pods_help_the_plain_path_and_not_the_cached_one(gbit, best_plain, cached):
    link, device = Link.nominal(gbit), DEVICES["l40s"]
    jobs = [
        (flagship_job("plain", 1985 * GIGA), best_plain),
        (flagship_job("sharing + cache", 95.6 * GIGA, once_flops=248.5 * GIGA * ROWS), cached),
    ]
    for job, expected in jobs:
        one, four = (predict(job, device, link, num_ranks) for num_ranks in (1, 4))
        assert one.total_seconds / four.total_seconds == pytest.approx(expected, rel=0.12)


def test_predicted_seconds_add_up():
    job = Job("sharing + cache", 100, 2, 40, 1e12, 1000, 4000, True, once_flops=60e12, once_bytes=8e9)
    device = with_overrides(DEVICES["l40s"], tflops=10.0, memory_bytes=None)  # 2 TFLOPS at 20 %
    prediction = predict(job, device, Link(1e9, "test"), num_ranks=2)
    assert prediction.num_steps == 6
    assert prediction.caching_seconds == pytest.approx(60 / 2 / 2 + 8 / 2)
    assert prediction.compute_seconds == pytest.approx(200 / 6 / 2 / 2, rel=1e-6)
    assert prediction.exchange_seconds == pytest.approx(4e-6)
    assert prediction.total_seconds == pytest.approx(19 + 50, rel=1e-5)


def test_cores_that_are_shared_are_not_multiplied():
    shared = DEVICES["l40s"].__class__("CPU", 1, 1, 8e9, 1e10, 0.5, True)
    job = flagship_job("plain", GIGA)
    one, two = (predict(job, shared, Link(1e12, "test"), num_ranks) for num_ranks in (1, 2))
    assert one.total_seconds < two.total_seconds
    sentence = verdict(job, shared, one, two)
    assert sentence.startswith("On the plain path, 2 processes on this machine would be slower than 1 (0.")
    assert "they share the same cores" in sentence
    assert shared.memory_bytes_per_rank(2) == 4e9


def test_the_sentence_says_which_and_why():
    job = flagship_job("sharing + cache", 95.6 * GIGA, "none", once_flops=248.5 * GIGA * ROWS)
    one, four = (predict(job, DEVICES["l40s"], Link.nominal(10), num_ranks) for num_ranks in (1, 4))
    assert verdict(job, DEVICES["l40s"], one, four) == (
        "With sharing + cache, 4 devices would be slower than 1 (0.07 x, predicted), because each step computes for "
        "0.035 s (0.098 s on 1) and then exchanges 1.7 GB of gradients for 2.2 s."
    )
