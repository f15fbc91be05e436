"""The training operator: reconciles PyTorchJobs as Kubeflow's 1.9 does (read from its sources, not from a cluster)."""

import asyncio
import contextlib
import datetime
import time
from collections.abc import Iterator

from tests.cluster import job_parts
from tests.cluster.api import Api
from tests.cluster.job_parts import LABEL_PREFIX, RESTARTED_IN_PLACE, has_condition, is_over, with_condition
from tests.cluster.kinds import JOB, NETWORK_POLICY, POD, SERVICE, Kind
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object
from tests.cluster.store import now

NAME = "pytorchjob-controller"
WEBHOOK = "validator.pytorchjob.training-operator.kubeflow.org"
RETRY_SECONDS = 5.0


class TrainingOperator:
    """One reconciliation per change of a job or of what belongs to it."""

    def __init__(self, api: Api, *, time_scale: float, makes_network_policies: bool = True) -> None:
        self.api, self.time_scale = api, time_scale
        self.makes_network_policies = makes_network_policies
        self._due: dict[tuple[str, str], float] = {}

    def validate(self, kind: Kind, job: Object, old: Object | None) -> None:
        """The validating webhook, for `Api.admissions`."""
        if kind == JOB and (problems := list(job_parts.webhook_problems(job))):
            text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise ApiError(403, f'admission webhook "{WEBHOOK}" denied the request: {text}')

    async def run(self) -> None:
        """Reconcile until cancelled."""
        with self.api.store.listen() as changes:
            while True:
                first_due = min(self._due.values(), default=None)
                pause = None if first_due is None else max(first_due - time.monotonic(), 0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        change = await changes.get()
                        self._note(change.kind, change.item)
                while not changes.empty():
                    change = changes.get_nowait()
                    self._note(change.kind, change.item)
                for key in [key for key, due in self._due.items() if due <= time.monotonic()]:
                    del self._due[key]
                    self._reconcile_or_retry(*key)

    def _note(self, kind: Kind, item: Object) -> None:
        """Which job a change concerns."""
        metadata = item["metadata"]
        name = metadata["name"] if kind == JOB else (metadata.get("labels") or {}).get(f"{LABEL_PREFIX}/job-name")
        if name and kind in (JOB, POD, SERVICE):
            self._due[metadata["namespace"], name] = time.monotonic()

    def _retry(self, job: Object, seconds: float) -> None:
        """Look at a job again after that many (cluster) seconds."""
        key = (job["metadata"]["namespace"], job["metadata"]["name"])
        self._due[key] = time.monotonic() + max(seconds * self.time_scale, 0.02)

    def _reconcile_or_retry(self, namespace: str, name: str) -> None:
        try:
            job = self.api.store.find(JOB, namespace, name)
        except ApiError:
            return
        if job is None or job["metadata"].get("deletionTimestamp"):
            return
        try:
            self.reconcile(job)
        except ApiError:
            self._retry(job, RETRY_SECONDS)

    def reconcile(self, job: Object) -> None:
        """One pass over a job. An error on the way leaves its status as it was, even never written."""
        status = dict(job.get("status", {}))
        if not status.get("conditions"):
            status = with_condition(status, "Created", "PyTorchJobCreated", self._says(job, "is created"))
        policy = job["spec"].get("runPolicy", {})
        if is_over(status):
            self._clean_up(job, status, policy)
            return
        if policy.get("suspend"):
            self._write_status(job, self._suspended(job, status))
            return
        if has_condition(status, "Suspended"):
            message = self._says(job, "is resumed")
            status = with_condition(status, "Suspended", "PyTorchJobResumed", message, value="False")
        status.setdefault("startTime", now())
        if limit := self._exceeded_limit(job, status, policy):
            self._write_status(job, self._ended(job, status, "Failed", limit))
            return
        status = self._reconcile_pods(job, status)
        for role, index in _replicas(job):
            self._ensure(job, SERVICE, job_parts.service_of(job, role, index))
        if self.makes_network_policies:
            self._ensure(job, NETWORK_POLICY, job_parts.network_policy_of(job))
        self._write_status(job, self._judged(job, status))

    def _pods(self, job: Object, role: str = "") -> list[Object]:
        labels = f"{LABEL_PREFIX}/job-name={job['metadata']['name']}"
        if role:
            labels += f",{LABEL_PREFIX}/replica-type={role.lower()}"
        return self.api.store.select(POD, job["metadata"]["namespace"], labels)

    def _reconcile_pods(self, job: Object, status: Object) -> Object:
        """Create what is missing; delete failed pods that are to be made anew."""
        present = {pod["metadata"]["name"]: pod for pod in self._pods(job)}
        for role, index in _replicas(job):
            wanted = job_parts.pod_of(job, role, index)
            pod = present.get(wanted["metadata"]["name"])
            if pod is None:
                self._ensure(job, POD, wanted)
            elif field_at(pod, "status.phase") == "Failed" and not pod["metadata"].get("deletionTimestamp"):
                status = self._replace_failed_pod(job, status, role, pod)
        return status

    def _replace_failed_pod(self, job: Object, status: Object, role: str, pod: Object) -> Object:
        code, name = exit_code_of(pod), pod["metadata"]["name"]
        if code is not None:
            message = f"Pod: {pod['metadata']['namespace']}.{name} exited with code {code}"
            self._record(job, "Normal", "ExitedWithCode", message)
        policy = job["spec"]["pytorchReplicaSpecs"][role].get("restartPolicy", "OnFailure")
        if policy not in RESTARTED_IN_PLACE and not (policy == "ExitCode" and code is not None and code >= 128):
            return status
        self.api.delete(POD, pod["metadata"]["namespace"], name)
        message = self._says(job, f"is restarting because 1 {role} replica(s) failed.")
        self._record(job, "Warning", "PyTorchJobRestarting", message)
        return with_condition(status, "Restarting", "PyTorchJobRestarting", message)

    def _ensure(self, job: Object, kind: Kind, wanted: Object) -> None:
        namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        if self.api.store.find(kind, namespace, name) is not None:
            return
        try:
            self.api.create(kind, wanted)
        except ApiError as error:
            self._record(job, "Warning", f"FailedCreate{kind.name}", f"Error creating: {error.message}")
            raise
        self._record(job, "Normal", f"SuccessfulCreate{kind.name}", f"Created {kind.name.lower()}: {name}")

    def _judged(self, job: Object, status: Object) -> Object:
        """Counts per role, and what follows from them: Running and Succeeded from the master alone."""
        counts = {role: _phases(self._pods(job, role)) for role in job_parts.desired_replicas(job)}
        status["replicaStatuses"] = {role: _without_zeros(phases) for role, phases in counts.items()}
        for role, wanted in job_parts.desired_replicas(job).items():
            phases = counts[role]
            leads = role == "Master" or "Master" not in counts
            if leads and phases["active"]:
                status = with_condition(status, "Running", "PyTorchJobRunning", self._says(job, "is running."))
            if leads and phases["succeeded"] == wanted:
                return self._ended(job, status, "Succeeded", self._says(job, "is successfully completed."))
            if phases["failed"] and not has_condition(status, "Restarting"):
                message = self._says(job, f"is failed because {phases['failed']} {role} replica(s) failed.")
                return self._ended(job, status, "Failed", message)
        return status

    def _ended(self, job: Object, status: Object, outcome: str, message: str) -> Object:
        self._record(job, "Normal", f"PyTorchJob{outcome}", message)
        status = with_condition(status, outcome, f"PyTorchJob{outcome}", message)
        return {**status, "completionTime": now()}

    def _suspended(self, job: Object, status: Object) -> Object:
        for pod in self._pods(job):
            self.api.delete(POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
        message = self._says(job, "is suspended.")
        if has_condition(status, "Running"):
            status = with_condition(status, "Running", "PyTorchJobSuspended", message, value="False")
        status = with_condition(status, "Suspended", "PyTorchJobSuspended", message)
        status.pop("startTime", None)
        return {**status, "replicaStatuses": {role: {} for role in job_parts.desired_replicas(job)}}

    def _exceeded_limit(self, job: Object, status: Object, policy: Object) -> str:
        """Why the job must not go on: restarts summed over all replicas, or its deadline."""
        backoff_limit, deadline = policy.get("backoffLimit"), policy.get("activeDeadlineSeconds")
        if backoff_limit is not None:
            restarts = sum(
                container["restartCount"]
                for pod in self._pods(job)
                if pod["spec"]["restartPolicy"] in RESTARTED_IN_PLACE and field_at(pod, "status.phase") == "Running"
                for container in pod["status"].get("containerStatuses", ())
            )
            if restarts >= backoff_limit and restarts > 0:
                return self._says(job, "has failed because it has reached the specified backoff limit")
        if deadline is not None and _seconds_since(status["startTime"]) >= deadline * self.time_scale:
            return self._says(job, "has failed because it was active longer than specified deadline")
        return ""

    def _clean_up(self, job: Object, status: Object, policy: Object) -> None:
        """After the end: pods by cleanPodPolicy, then the job itself by its time to live."""
        clean = policy.get("cleanPodPolicy", "None")
        for pod in self._pods(job):
            # Pending ones too would ask for their GPUs for ever.
            if clean == "All" or (clean == "Running" and field_at(pod, "status.phase") in ("Running", "Pending")):
                if not pod["metadata"].get("deletionTimestamp"):
                    self.api.delete(POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
                self._delete_service(job, pod["metadata"]["name"])
        if has_condition(status, "Succeeded"):
            counts = status.get("replicaStatuses", {})
            moved = {role: _succeeded(phases) for role, phases in counts.items()}
            self._write_status(job, {**status, "replicaStatuses": moved})
        ttl = policy.get("ttlSecondsAfterFinished")
        if ttl is None:
            return
        seconds_left = ttl - _seconds_since(status["completionTime"]) / self.time_scale
        if seconds_left <= 0:
            self.api.delete(JOB, job["metadata"]["namespace"], job["metadata"]["name"])
        else:
            self._retry(job, seconds_left)

    def _delete_service(self, job: Object, name: str) -> None:
        if self.api.store.find(SERVICE, job["metadata"]["namespace"], name):
            self.api.delete(SERVICE, job["metadata"]["namespace"], name)

    def _write_status(self, job: Object, status: Object) -> None:
        current = self.api.store.find(JOB, job["metadata"]["namespace"], job["metadata"]["name"])
        if current is not None and current.get("status") != status:
            self.api.store.replace(JOB, {**current, "status": status})

    def _record(self, job: Object, type_: str, reason: str, message: str) -> None:
        self.api.record_event(JOB, job, type_, reason, message, NAME)

    @staticmethod
    def _says(job: Object, what: str) -> str:
        return f"PyTorchJob {job['metadata']['name']} {what}"


def _replicas(job: Object) -> Iterator[tuple[str, int]]:
    for role, count in job_parts.desired_replicas(job).items():
        for index in range(count):
            yield role, index


def exit_code_of(pod: Object) -> int | None:
    """The exit code of the pytorch container, where it has ended."""
    for container in field_at(pod, "status.containerStatuses") or ():
        if container["name"] == job_parts.CONTAINER:
            code = field_at(container, "state.terminated.exitCode")
            return None if code is None else int(code)
    return None


def _phases(pods: list[Object]) -> dict[str, int]:
    phases = [field_at(pod, "status.phase") for pod in pods]
    names = {"active": "Running", "succeeded": "Succeeded", "failed": "Failed"}
    return {name: phases.count(phase) for name, phase in names.items()}


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _succeeded(counts: dict[str, int]) -> dict[str, int]:
    total = counts.get("active", 0) + counts.get("succeeded", 0)
    return _without_zeros({"succeeded": total, "failed": counts.get("failed", 0)})


def _seconds_since(timestamp: str) -> float:
    then = datetime.datetime.fromisoformat(timestamp)
    return (datetime.datetime.now(datetime.UTC) - then).total_seconds()
