"""Profiles: what is refused, and the sentence that says so."""

import pytest

from deploy.errors import ProfileError
from deploy.profile import plan_deployment, profile_names


def test_the_profiles_are_there():
    assert profile_names() == ["cpu-smoke", "generic-gpu", "kueue", "openshift-ai", "openshift-ai-single"]


def test_the_flagship_is_the_one_designed():
    deployment = plan_deployment("openshift-ai")
    profile = deployment.profile
    assert (profile.job, profile.namespace) == ("smollm3-distributed-finetuning", "lyric-professor")
    assert [volume.claim for volume in profile.volumes] == ["trained-models-pvc", "workspace-pvc"]
    assert (profile.pods, profile.gpu.count, profile.world_size) == (4, 1, 4)
    assert deployment.config.effective_batch_size(4) == 64


def test_settings_reach_the_profile_or_the_run():
    deployment = plan_deployment(
        "cpu-smoke", settings=["gpu.count=0", "resources.memory=3Gi", "optim.epochs=9"], image="a/b:1", namespace="n"
    )
    assert deployment.profile.resources.memory == "3Gi"
    assert deployment.profile.resources.cpu == "250m"
    assert deployment.config.optim.epochs == 9
    assert "optim.epochs=9" in deployment.arguments
    assert (deployment.profile.image, deployment.profile.namespace) == ("a/b:1", "n")


@pytest.mark.parametrize(
    ("profile", "setting", "sentence"),
    [
        ("openshift", "pods=4", "Did you mean 'openshift-ai'?"),
        ("cpu-smoke", "gpus.count=1", "unknown key 'gpus'. Did you mean 'gpu'?"),
        ("cpu-smoke", "gpu.cuont=1", "unknown key 'gpu.cuont'. Did you mean 'count'?"),
        ("cpu-smoke", "output_volume.siez=1Gi", "Did you mean 'size'?"),
        ("cpu-smoke", "optim.epoch=1", "Did you mean 'optim.epochs'?"),
        ("cpu-smoke", "pods=0", "pods: input should be greater than 0, not 0"),
        ("cpu-smoke", "restart.policy=ExitCode", "restart.policy: input should be 'hands-off' or 'supervised'"),
        ("cpu-smoke", "job.name=x", "'job' is a single value and has no 'name'"),
        ("cpu-smoke", "nonsense", "not of the form key=value"),
        ("cpu-smoke", "output.dir=/elsewhere", "mounted at /trained-models"),
        ("openshift-ai", "pods=2", "wants 4 rank(s), profile openshift-ai starts 2"),
        ("missing.yaml", "pods=2", "unknown profile 'missing.yaml'"),
    ],
)
def test_mistakes_are_named(profile, setting, sentence):
    with pytest.raises(ProfileError) as caught:
        plan_deployment(profile, settings=[setting])
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_profile_of_ones_own_extends_a_known_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cpu-smoke\njob: mine\n")
    profile = plan_deployment(str(path)).profile
    assert (profile.job, profile.recipe) == ("mine", "smoke")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", ""])
def test_a_broken_profile_file_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ProfileError, match=r"broken\.yaml"):
        plan_deployment(str(path))
