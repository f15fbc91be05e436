"""`python -m train plan` as a user meets it."""

import json

import pytest

from train.failure import ConfigError
from train.planning.plan_report import PlanRequest


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
