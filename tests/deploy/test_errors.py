"""Exit codes of deploy and of a training pod: `watch` passes the latter on, so none may mean two things."""

from deploy.errors import ClusterError, DeployError, ExitCode
from train.failure import ExitCode as PodExitCode


def test_a_code_of_ours_is_no_pods_unless_it_means_the_same():
    assert {code.name for code in ExitCode if code in set(PodExitCode)} == {"DONE", "USAGE", "INTERRUPTED", "STOPPED"}
    assert (ExitCode.USAGE, ExitCode.STOPPED) == (PodExitCode.CONFIG, PodExitCode.STOPPED)


def test_an_error_is_a_problem_and_what_to_do():
    assert str(DeployError("it rains", "Take a coat.")) == "it rains. Take a coat."
    assert str(DeployError("it rains")) == "it rains"
    refused = ClusterError("no", exit_code=ExitCode.REFUSED, status=422)
    assert (refused.exit_code, refused.status, refused.may_pass) == (16, 422, False)
