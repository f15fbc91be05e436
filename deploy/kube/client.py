"""Only this file talks to a cluster: it has a few typed calls, errors with a remedy, patience with a lost connection.

Objects are plain dictionaries as the API has them, so all that judges them is pure and needs no cluster. Requests go
through `DynamicClient.request`, the one low-level call that the client library kept alike from version 31 to 37.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import urllib3
import urllib3.exceptions
import yaml
from kubernetes import config as kube_config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from deploy.errors import ClusterError, DeployError, ExitCode
from deploy.jobs import pytorchjob
from deploy.kube.refusals import explain_status, may_repeat, one_line, unreachable

CONNECT_SECONDS, READ_SECONDS, EXEC_SECONDS = 5.0, 30.0, 15.0
PATIENCE_SECONDS = 10.0
"""How long a command goes on asking a cluster that does not answer; `watch` is more patient."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0
OF_A_DAMAGED_KUBECONFIG = (yaml.YAMLError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""What the client library lets out when a kubeconfig is not YAML, or is YAML of something else."""
RETRYABLE_STATUS = frozenset((429, 500, 502, 503, 504))

CORE = "/api/v1"
PATHS = {
    "Event": f"{CORE}/namespaces/{{namespace}}/events",
    "LimitRange": f"{CORE}/namespaces/{{namespace}}/limitranges",
    "PersistentVolumeClaim": f"{CORE}/namespaces/{{namespace}}/persistentvolumeclaims",
    "Pod": f"{CORE}/namespaces/{{namespace}}/pods",
    "ResourceQuota": f"{CORE}/namespaces/{{namespace}}/resourcequotas",
    "Secret": f"{CORE}/namespaces/{{namespace}}/secrets",
    "LocalQueue": "/apis/kueue.x-k8s.io/v1beta1/namespaces/{namespace}/localqueues",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    pytorchjob.KIND: f"/apis/{pytorchjob.API_VERSION}/namespaces/{{namespace}}/{pytorchjob.PLURAL}",
    "Namespace": f"{CORE}/namespaces",
    "Node": f"{CORE}/nodes",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
}
"""Kinds this program knows, and where they are served."""

Object = dict[str, Any]
Notice = Callable[[str], None]


class Cluster:
    """A Cluster is one namespace of one cluster.

    Raises (every method): ClusterError with the HTTP status of the answer (0 if there was none) and a remedy.
    """

    def __init__(self, client: ApiClient, namespace: str, context: str | None, notice: Notice) -> None:
        # Discovery would cost a request per API group, and all paths used here are known.
        self._dynamic = DynamicClient(client, discoverer=lambda *_: None)  # type: ignore[no-untyped-call]
        self.namespace, self.context = namespace, context
        self.patience_seconds = PATIENCE_SECONDS
        self.notice = notice

    @classmethod
    def connect(cls, namespace: str, context: str | None, notice: Notice) -> "Cluster":
        """Find the cluster by kubeconfig, or from within a pod; nothing is asked yet."""
        configuration = Configuration()
        try:
            _load(configuration, context)
        except (kube_config.ConfigException, *OF_A_DAMAGED_KUBECONFIG) as error:
            raise ClusterError(
                f"no usable cluster configuration{f' for context {context}' if context else ''} ({one_line(error)})",
                "Log in (oc login), or set KUBECONFIG; `kubectl config get-contexts` lists what there is.",
                exit_code=ExitCode.UNREACHABLE,
            ) from None
        configuration.retries = False  # this file has its own patience, and says so
        return cls(ApiClient(configuration), namespace, context, notice)

    @property
    def host(self) -> str:
        """Return the address of the API server, for messages."""
        return str(self._dynamic.configuration.host)

    def version(self) -> str:
        """Return the version of Kubernetes, as 'v1.32.3'."""
        return str(self._json("get", "/version").get("gitVersion", "unknown"))

    def serves(self, group_version: str, plural: str) -> bool:
        """Return whether the API has such a resource; discovery is open to all, reading CRDs is not."""
        try:
            resources = self._json("get", f"/apis/{group_version}").get("resources") or []
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return any(resource.get("name") == plural for resource in resources)

    def may(self, verb: str, resource: str, *, group: str = "", subresource: str = "") -> bool:
        """Return whether we may do this in our namespace (SelfSubjectAccessReview)."""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, **({"subresource": subresource} if subresource else {})}},
        }
        answer = self._json("post", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool((answer.get("status") or {}).get("allowed"))

    def find(self, kind: str, name: str) -> Object | None:
        """Return the object, or None if there is none of that name."""
        try:
            return self._json("get", self._path(kind, name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def items(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """Return the objects of a kind that the selectors choose."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {name: value for name, value in selectors.items() if value}
        return list(self._json("get", self._path(kind), query=query).get("items") or [])

    def items_if_allowed(self, kind: str) -> list[Object] | None:
        """Return the objects; None where we may not look, or the cluster does not know the kind."""
        try:
            return self.items(kind)
        except ClusterError as error:
            if error.status in (403, 404):
                return None
            raise

    def find_if_allowed(self, kind: str, name: str) -> Object | None:
        """Return the object; None if there is none, or we may not look."""
        try:
            return self.find(kind, name)
        except ClusterError as error:
            if error.status == 403:
                return None
            raise

    def exists_if_allowed(self, kind: str, name: str) -> bool | None:
        """Return whether there is such an object; None where we may not look."""
        try:
            return self.find(kind, name) is not None
        except ClusterError as error:
            if error.status == 403:
                return None
            raise

    def create(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create the object; a field that the cluster does not know is refused rather than dropped."""
        # Strict: without it an unknown field is dropped in silence, and with it what it asked for.
        query = {"fieldValidation": "Strict", "fieldManager": "fieldcraft", **({"dryRun": "All"} if dry_run else {})}
        what = f"{manifest['kind']}/{manifest['metadata']['name']}"
        return self._json("post", self._path(manifest["kind"]), body=manifest, query=query, what=what)

    def replace(self, manifest: Object, existing: Object, *, dry_run: bool = False) -> Object:
        """Put `manifest` in the place of `existing`, unless that has changed since it was read."""
        # The version makes the API server refuse with 409 what would overwrite a change of someone else.
        metadata = {**manifest["metadata"], "resourceVersion": existing["metadata"]["resourceVersion"]}
        path, query = self._path(manifest["kind"], metadata["name"]), {"dryRun": "All"} if dry_run else {}
        return self._json("put", path, body={**manifest, "metadata": metadata}, query=query)

    def delete(self, kind: str, name: str) -> bool:
        """Ask for deletion, dependents after it; False if it was gone already. Never forced (`deploy.kube.apply`)."""
        # Background: the answer comes at once, and `delete_job` watches the pods go by itself.
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            self._json("delete", self._path(kind, name), body=body)
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def log_lines(self, pod: str, *, container: str, follow: bool, tail: int | None = None) -> Iterator[str]:
        """Yield lines of a container's log; a lost connection is taken up where it broke, without a line twice."""
        place = _LogPlace()
        while True:
            since = {"sinceTime": place.stamp} if place.stamp else {"tailLines": str(tail)} if tail is not None else {}
            query = {"container": container, "timestamps": "true", **({"follow": "true"} if follow else {}), **since}
            response = self._request(
                "get", f"{self._path('Pod', pod)}/log", query=query, timeout=(CONNECT_SECONDS, None)
            )
            try:
                for line in _lines(response):
                    stamp, text = _split_stamp(line)
                    if place.is_new(stamp):
                        yield text
                return
            except urllib3.exceptions.HTTPError as error:
                if not follow:
                    raise unreachable(self.host, error) from None
                self.notice(f"the log of {pod} broke off ({one_line(error)}); taking it up again")
                place.take_up()
                time.sleep(1)
            finally:
                response.release_conn()

    def exec_command(self, pod: str, container: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` in a pod, its stdout being ours.

        kubectl or oc do this rather than the client library: its text channel is not made for gigabytes of bytes.

        Raises:
            DeployError: neither program is installed.
        """
        program = shutil.which("kubectl") or shutil.which("oc")
        if program is None:
            raise DeployError(
                "neither kubectl nor oc is installed",
                "It reads files in a pod; install one.",
                exit_code=ExitCode.MISSING,
            )
        context = [f"--context={self.context}"] if self.context else []
        place = [f"--namespace={self.namespace}", "exec", pod, "--container", container, "--"]
        return [program, *context, *place, *command]

    def read_file(self, pod: str, container: str, path: str) -> bytes | None:
        """Return a small file in a pod; None where it is not there or may not be read, which is no reason to stop."""
        if shutil.which("kubectl") is None and shutil.which("oc") is None:
            return None
        command = self.exec_command(pod, container, ["cat", path])
        try:
            finished = subprocess.run(command, capture_output=True, timeout=EXEC_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
        return finished.stdout if finished.returncode == 0 else None

    def _path(self, kind: str, name: str = "") -> str:
        path = PATHS[kind].format(namespace=quote(self.namespace, safe=""))
        return f"{path}/{quote(name, safe='')}" if name else path

    def _json(self, method: str, path: str, **options: Any) -> Object:
        response = self._request(method, path, **options)
        return dict(json.loads(response.data))

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        timeout: tuple[float, float | None] = (CONNECT_SECONDS, READ_SECONDS),
        what: str = "",
    ) -> urllib3.HTTPResponse:
        """One request, repeated with growing pauses while the cluster does not answer and repeating is harmless."""
        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClusterError) and error.may_pass),
            wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=MAX_PAUSE_SECONDS),
            stop=stop_after_delay(self.patience_seconds),
            before_sleep=self._say_that_it_waits,
            reraise=True,
        )

        def send() -> urllib3.HTTPResponse:
            response: urllib3.HTTPResponse = self._dynamic.request(
                method, path, body=body, query_params=list((query or {}).items()), serialize=False,
                _request_timeout=timeout,
            )  # fmt: skip
            return response

        start = time.monotonic()
        response = attempts(self._answer, send, method, what or f"{method.upper()} {path}")
        if attempts.statistics["attempt_number"] > 1:
            self.notice(f"the cluster answers again after {time.monotonic() - start:.0f} s")
        return response

    def _answer(self, send: Callable[[], urllib3.HTTPResponse], method: str, what: str) -> urllib3.HTTPResponse:
        """The answer to a request that is sent once; whatever goes wrong is a ClusterError."""
        try:
            return send()
        except ApiException as error:
            problem = explain_status(error.status or 0, error.body, what)
            problem.may_pass = error.status in RETRYABLE_STATUS
        except urllib3.exceptions.HTTPError as error:
            problem = unreachable(self.host, error)
            problem.may_pass = may_repeat(method, error)
        raise problem

    def _say_that_it_waits(self, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        if attempt.attempt_number == 1 and isinstance(error, ClusterError):  # said once: it may be away for minutes
            self.notice(f"{error.problem}; trying again for {self.patience_seconds:.0f} s")


def _load(configuration: Configuration, context: str | None) -> None:
    """Fill in where the cluster is and who we are; in a pod without a kubeconfig, by the pod's service account."""
    if context is None and os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        kube_config.load_kube_config(context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]


def _lines(response: urllib3.HTTPResponse) -> Iterator[str]:
    """Text lines of a streamed body, without their ends."""
    rest = b""
    for chunk in response.stream(amt=None, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    if rest:
        yield rest.decode("utf-8", "replace")


class _LogPlace:
    """How far a log was read. Lines that a container writes at once may all have one time stamp (CRI-O's do).

    >>> place = _LogPlace()
    >>> [place.is_new(stamp) for stamp in ("T1", "T2", "T2")]
    [True, True, True]
    >>> place.take_up()
    >>> [place.is_new(stamp) for stamp in ("T2", "T2", "T2", "T3")]  # the log again, from the last stamp on
    [False, False, True, True]
    """

    def __init__(self) -> None:
        self.stamp, self._num_lines = "", 0
        self._num_to_skip = 0

    def take_up(self) -> None:
        """The log comes again, from the lines of the last stamp on."""
        self._num_to_skip = self._num_lines

    def is_new(self, stamp: str) -> bool:
        """Whether a line was not read before, going by its stamp; one without a stamp was not."""
        if not stamp:
            return True
        if self._num_to_skip and stamp <= self.stamp:
            self._num_to_skip -= stamp == self.stamp
            return False
        self._num_to_skip = 0
        if stamp != self.stamp:
            self.stamp, self._num_lines = stamp, 0
        self._num_lines += 1
        return True


def _split_stamp(line: str) -> tuple[str, str]:
    """The time stamp that `timestamps=true` puts before a line, and the line.

    >>> _split_stamp("2026-11-21T10:00:00.123456789Z step 3")
    ('2026-11-21T10:00:00.123456789Z', 'step 3')
    >>> _split_stamp("step 3")
    ('', 'step 3')
    """
    stamp, _, text = line.partition(" ")
    is_stamp = len(stamp) >= 20 and stamp[10:11] == "T" and stamp[:4].isdigit()
    return (stamp, text) if is_stamp else ("", line)
