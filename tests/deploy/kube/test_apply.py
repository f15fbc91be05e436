"""What apply decides, given what is there."""

import pytest

from deploy.errors import DeployError
from deploy.jobs.manifests import render
from deploy.kube.apply import plan_steps
from deploy.profile import plan_deployment


def manifests(*settings, profile="cpu-smoke"):
    return render(plan_deployment(profile, settings=settings))


def there(manifest, *, phase="Running", **spec):
    """The manifest as a cluster has it: fields added, a phase reached."""
    status = {"conditions": [{"type": phase, "status": "True"}]}
    return {**manifest, "spec": {**manifest["spec"], "added": 1, **spec}, "status": status}


def actions(wanted, existing, *, replace=False):
    return [step.action for step in plan_steps(wanted, existing, replace=replace)]


def test_all_is_created_where_nothing_is():
    assert actions(manifests(), [None, None, None]) == ["create"] * 3


def test_the_very_same_stays():
    wanted = manifests()
    assert actions(wanted, [there(one) for one in wanted]) == ["keep"] * 3
    assert actions(wanted, [there(one, phase="Succeeded") for one in wanted]) == ["keep"] * 3


def test_a_failed_job_is_replaced():
    wanted = manifests()
    assert actions(wanted, [there(one, phase="Failed") for one in wanted])[-1] == "replace"


def test_another_job_that_runs_is_in_the_way():
    wanted, other = manifests(), manifests("optim.epochs=7")
    with pytest.raises(DeployError, match=r"there already \(Running\)") as caught:
        plan_steps(wanted, [there(one) for one in other], replace=False)
    assert caught.value.exit_code == 13
    assert actions(wanted, [there(one) for one in other], replace=True) == ["keep", "replace", "replace"]


def test_another_job_that_has_ended_is_not():
    other = manifests("optim.epochs=7")
    assert actions(manifests(), [there(one, phase="Succeeded") for one in other])[-1] == "replace"


def test_a_volume_for_one_node_cannot_become_one_for_all():
    wanted = manifests(profile="generic-gpu")
    claim = there(wanted[0], accessModes=["ReadWriteOnce"])
    with pytest.raises(DeployError, match="is there as ReadWriteOnce, the profile wants ReadWriteMany"):
        plan_steps(wanted, [claim, None, None, None], replace=False)
