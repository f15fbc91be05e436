"""Kueue, as far as a job sees it: a job with a queue's label is created suspended, and let go when there is room."""

import asyncio

from tests.cluster.api import Api
from tests.cluster.kinds import JOB, LOCAL_QUEUE, Kind
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class Kueue:
    """`has_room` says whether queued jobs are admitted; `needs_label` refuses jobs without a queue."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.has_room = True
        self.needs_label = False

    def admit(self, kind: Kind, job: Object, old: Object | None) -> None:
        """The webhook, for `Api.admissions`."""
        if kind != JOB or old is not None:
            return
        if QUEUE_LABEL in job["metadata"].get("labels", {}):
            job["spec"].setdefault("runPolicy", {})["suspend"] = True
        elif self.needs_label:
            raise ApiError(
                403,
                'admission webhook "vpytorchjob.kb.io" denied the request: metadata.labels'
                f"[{QUEUE_LABEL}]: Required value: the queue name must be set",
            )

    async def run(self) -> None:
        """Look at waiting jobs after every change, and a few times a second for `has_room`."""
        while True:
            await asyncio.sleep(0.1)
            try:
                jobs = self.api.store.select(JOB)
            except ApiError:
                continue
            for job in jobs:
                self._consider(job)

    def _consider(self, job: Object) -> None:
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        if not queue or not field_at(job, "spec.runPolicy.suspend") or not job.get("status"):
            return
        if self.api.store.find(LOCAL_QUEUE, job["metadata"]["namespace"], queue) is None:
            self._event(job, "Warning", f"LocalQueue {queue} doesn't exist")
        elif not self.has_room:
            message = "couldn't assign flavors to pod set worker: insufficient unused quota for nvidia.com/gpu"
            self._event(job, "Warning", message)
        else:
            job["spec"]["runPolicy"]["suspend"] = False
            self.api.store.replace(JOB, job)
            self.api.record_event(JOB, job, "Normal", "Started", f"Admitted by clusterQueue of {queue}", "kueue")

    def _event(self, job: Object, type_: str, message: str) -> None:
        self.api.record_event(JOB, job, type_, "Pending", message, "pytorchjob-kueue-controller")
