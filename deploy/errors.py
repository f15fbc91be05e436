"""This file says how a deploy command fails: by which exit codes, and by the exception that carries one.

Codes 10 and above are ours, so that they never meet those of a training pod (`train/failure.py`), which `watch` passes
on: 1-6, 130, 143, 203 and 204.

    0    done
    2    bad command line, profile or manifest
    10   the cluster cannot be reached
    11   not allowed, or not logged in
    12   something that must be there is missing
    13   in the way: a job that runs, a name that is taken
    14   the job failed, and the pod's own exit code is not known (else: that code)
    15   not in time, or what arrived is not what was sent
    16   the cluster refused the manifest, or admission did (quota, webhook)
    130  interrupted (Ctrl-C); 143: stopped (SIGTERM)
"""

import enum


class ExitCode(enum.IntEnum):
    DONE = 0
    USAGE = 2
    UNREACHABLE = 10
    FORBIDDEN = 11
    MISSING = 12
    CONFLICT = 13
    JOB_FAILED = 14
    INCOMPLETE = 15
    REFUSED = 16
    INTERRUPTED = 130
    STOPPED = 143


class DeployError(Exception):
    """Something with a known cause failed: `problem` says what, `remedy` in one sentence what to do."""

    def __init__(self, problem: str, remedy: str = "", *, exit_code: int = ExitCode.USAGE) -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem, self.remedy, self.exit_code = problem, remedy, exit_code


class ProfileError(DeployError):
    """A profile, a setting or a manifest cannot be right."""


class ClusterError(DeployError):
    """The cluster refused, or did not answer.

    `status` is the HTTP status, 0 where there was no answer; `may_pass` says that the same request may be sent again.
    """

    def __init__(self, problem: str, remedy: str = "", *, exit_code: int, status: int = 0) -> None:
        super().__init__(problem, remedy, exit_code=exit_code)
        self.status, self.may_pass = status, False
