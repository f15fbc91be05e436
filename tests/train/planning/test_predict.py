"""The planner's arithmetic against numbers worked out by hand, and the command as a user meets it."""

import json

import pytest

from train.failure import ConfigError
from train.planning.cost import MicroBatch, ModelShape, Work, caching_flops, memory_bytes, row_work, training_flops
from train.planning.plan_report import PlanRequest
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
SMOLLM3 = ModelShape(
    num_layers=36,
    num_cached_layers=34,
    num_backward_layers=2,
    num_trained_layers=2,
    layer_parameters=78_118_912,
    key_value_parameters=2 * 2048 * 512,
    attention_width=2048,
    head_parameters=262_668_288,
    head_trains=True,
    hidden_size=2048,
    intermediate_size=11008,
    vocabulary_size=128_256,
)
"""36 layers of 78.12 M weights, a head of 262.7 M; the last two layers and the head train."""

PREFIX, OWN, LABELS, ROWS_PER_TREE, ROWS = 262, 46, 28, 32, 2560
PLAIN = row_work(PREFIX + OWN, LABELS)
OWN_PAIRS = OWN * PREFIX + OWN**2 / 2
TREE = Work(PREFIX / ROWS_PER_TREE + OWN, PREFIX**2 / 2 / ROWS_PER_TREE + OWN_PAIRS, LABELS)
ONCE = Work(PREFIX / ROWS + OWN, PREFIX**2 / 2 / ROWS + OWN_PAIRS, 0)


@pytest.mark.parametrize(
    ("flops", "gflops"),
    [
        (training_flops(SMOLLM3, PLAIN), 1985),
        (training_flops(SMOLLM3, TREE, labels_only=True), 375),
        (training_flops(SMOLLM3, TREE, from_cache=True, labels_only=True), 83.5),
        (training_flops(SMOLLM3, TREE, from_cache=True), 95.6),
        (caching_flops(SMOLLM3, ONCE), 248.5),
    ],
)
def test_work_of_a_row(flops, gflops):
    assert flops / GIGA == pytest.approx(gflops, rel=2e-3)


def test_a_small_model_by_hand():
    """3 layers of 10 weights, attention 4 wide, a head of 5; 7 tokens, 28 pairs, 2 labels."""
    shape = ModelShape(3, 2, 1, 1, 10, 4, 4, 5, True, 2, 2, 5)
    forward = 2 * 10 * 7 + 4 * 4 * 28
    assert training_flops(shape, row_work(7, 2)) == 2 * forward + 3 * forward + 6 * 5 * 2
    assert training_flops(shape, row_work(7, 2), from_cache=True) == 3 * forward + 6 * 5 * 2
    trimmed = 6 * (4 * 7 + 6 * 2) + 12 * 4 * 28 * 2 / 7
    assert training_flops(shape, row_work(7, 2), from_cache=True, labels_only=True) == trimmed + 6 * 5 * 2


def test_a_trained_embedding_sends_the_backward_pass_through_every_layer_and_checkpointing_computes_twice():
    tied = ModelShape(3, 2, 3, 1, 10, 4, 0, 5, True, 2, 2, 5)
    checkpointed = ModelShape(3, 2, 3, 1, 10, 4, 0, 5, True, 2, 2, 5, recomputes=True)
    product = 2 * 10 * 7
    assert training_flops(tied, row_work(7, 0)) == (2 * 2 + 3) * product
    assert training_flops(checkpointed, row_work(7, 0)) == (2 * 3 + 4) * product


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


def test_memory_counts_weights_moments_and_what_the_cache_takes_away():
    batch = MicroBatch(tokens=0, labels=0)
    numbers = {"num_parameters": 3_337_000_000, "num_trainable": 418_900_000, "element_bytes": 2}
    whole = memory_bytes(SMOLLM3, batch, **numbers)
    assert whole == (3_337_000_000 - 418_900_000) * 2 + 418_900_000 * (16 + 2)
    assert memory_bytes(SMOLLM3, batch, **numbers, num_ranks=4) - whole == 418_900_000 * 4
    cached = memory_bytes(SMOLLM3, MicroBatch(8192, 1024), **numbers, cached=True)
    assert memory_bytes(SMOLLM3, MicroBatch(8192, 1024), **numbers) - cached == 34 * 78_118_912 * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("1,x", None, None, None, None), "--gpus must be positive numbers"),
        (("1,0", None, None, None, None), "--gpus must be positive numbers"),
        (("1", "v100", None, None, None), "unknown device 'v100'. Known: l40s, a100, h100, cpu"),
        (("1", None, "fast", None, None), "--bandwidth must be `measured` or Gbit/s above 0, not 'fast'"),
        (("1", None, "-3", None, None), "above 0, not '-3'"),
    ],
)
def test_bad_requests(options, says):
    with pytest.raises(ConfigError) as raised:
        PlanRequest.read(*options)
    assert says in str(raised.value)


def test_the_flagship_is_planned_without_weights_network_or_gpu(run):
    arguments = ("plan", "smollm3-l40s-x4", "--device", "l40s", "--bandwidth", "25", "--json")
    planned = run("train", *arguments)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["path"], plan["refused"]) == ("sharing + cache", {})
    rows = {(row["devices"], row["path"]): row for row in plan["predicted"]}
    assert len(rows) == 6
    assert rows[4, "sharing + cache"]["speed_up"] < 1 < rows[4, "plain"]["speed_up"]
    assert all(row["effective_batch_rows"] == 64 for row in rows.values())
    assert rows[1, "plain"]["num_trainable"] == pytest.approx(418.9e6, rel=1e-3)
    assert rows[1, "plain"]["flops_per_row"] > 2 * rows[1, "prefix sharing"]["flops_per_row"]
    assert "would be slower than 1" in plan["sentences"][0]
    assert any("of them shared by all rows" in text and "as a stand-in" in text for text in plan["assumptions"])
    assert "Retrying" not in planned.stderr


def test_a_plan_for_people_says_what_cannot_be_done_and_what_does_not_fit(run):
    tied = ("adapt.head=tied", "speed.prefix_sharing=off", "optim.batch_size=auto", "optim.effective_batch_size=8")
    small = ("--device", "cpu", "--device-memory", "0.05", "--gpus", "1,2")
    planned = run("train", "plan", "smoke", *tied, *small, COLUMNS="200")
    assert planned.returncode == 0, planned.stderr
    assert "no: speed.prefix_sharing=off" in planned.stdout
    assert "no: it needs prefix sharing" in planned.stdout
    assert "the run does not fit" in planned.stdout
    assert "8 rows a step on any number of devices, 8 at a time until batch_size=auto is measured" in planned.stdout


def test_a_refusal_is_one_line(run):
    refused = run("train", "plan", "labtop")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: rank 0, plan: unknown recipe 'labtop'")
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_bandwidth_measured_here(run):
    planned = run("train", "plan", "smoke", "--bandwidth", "measured", "--device", "l40s", "--gpus", "1,2", "--json")
    assert planned.returncode == 0, planned.stderr
    assert any(
        "between two processes on this machine (measured)" in text for text in json.loads(planned.stdout)["assumptions"]
    )
