"""The API server's HTTP side: enough of it for the real kubectl (1.32) and the Python client (31-37)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import yaml
from aiohttp import web

from tests.cluster.api import Api
from tests.cluster.kinds import (
    ACCESS_REVIEW,
    POD,
    SERVER_VERSION,
    Kind,
    api_groups,
    openapi_document,
    openapi_index,
    resource_list,
)
from tests.cluster.logs import YES, ContainerLog, send_log
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object, not_found
from tests.cluster.store import Change, selects
from tests.cluster.streams import serve_exec
from tests.cluster.tables import table

HOST = "127.0.0.1"
MAX_BODY_BYTES = 4 * 1024**2
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PodStreams(Protocol):
    """Where logs and exec sessions come from: the kubelet."""

    def log_of(self, pod: Object, container: str, *, previous: bool) -> ContainerLog: ...

    async def execute(
        self, pod: Object, container: str, command: Sequence[str], *, stdin: bool
    ) -> asyncio.subprocess.Process: ...


class ApiServer:
    """Serves an `Api`; can be taken off the network and brought back at the same port."""

    def __init__(self, api: Api, streams: PodStreams) -> None:
        self.api, self.streams = api, streams
        self.port = 0
        self._runner: web.AppRunner | None = None
        self.requests: list[tuple[str, str]] = []
        self.exec_pause_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        app = web.Application(middlewares=[self._errors_as_status], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/version", _answer(lambda _: SERVER_VERSION))
        app.router.add_get("/api", _answer(lambda _: {"kind": "APIVersions", "versions": ["v1"]}))
        app.router.add_get("/apis", _answer(lambda _: api_groups(self.api.kinds())))
        app.router.add_get("/openapi/v3", _answer(lambda _: openapi_index(self.api.kinds())))
        app.router.add_get("/openapi/v3/{prefix:.+}", _answer(self._openapi))
        app.router.add_get("/{healthz:(healthz|livez|readyz)}", _answer(lambda _: {"status": "ok"}))
        app.router.add_get("/api/{version}", _answer(self._resources))
        app.router.add_get("/apis/{group}/{version}", _answer(self._resources))
        for prefix in ("/api/{version}", "/apis/{group}/{version}"):
            for scope in ("/namespaces/{namespace}", ""):  # the first match counts
                base = f"{prefix}{scope}/{{plural}}"
                app.router.add_route("*", base, self._collection)
                app.router.add_route("*", f"{base}/{{name}}", self._item)
                app.router.add_route("*", f"{base}/{{name}}/{{subresource}}", self._subresource)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections and break those that stand, watches included."""
        if self._runner is None:
            return
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None

    @web.middleware
    async def _errors_as_status(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        try:
            return await handler(request)
        except ApiError as error:
            headers = {"Retry-After": "1"} if error.code == 429 else None
            return web.json_response(error.status(), status=error.code, headers=headers)

    def _openapi(self, request: web.Request) -> Object:
        return openapi_document(self.api.kinds(), request.match_info["prefix"])

    def _resources(self, request: web.Request) -> Object:
        group_version = _group_version(request)
        found = resource_list(self.api.kinds(), group_version)
        if not found["resources"]:
            raise ApiError(404, "the server could not find the requested resource")
        return found

    def _kind(self, request: web.Request) -> Kind:
        info = request.match_info
        return self.api.kind_at(info.get("group", ""), info["version"], info["plural"])

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/namespaces/NAMESPACE/pods`, or `/api/v1/pods`: list, watch, create, delete many."""
        kind, namespace, query = self._kind(request), request.match_info.get("namespace", ""), request.query
        if request.method == "GET" and query.get("watch") in YES:
            self.api.gate.check("watch", kind, namespace)
            return await self._watch(request, kind, namespace, query.get("fieldSelector", ""))
        if request.method == "GET":
            self.api.gate.check("list", kind, namespace)
            return self._list(request, kind, namespace)
        if request.method == "POST":
            return await self._create(request, kind, namespace)
        if request.method == "DELETE":
            self.api.gate.check("deletecollection", kind, namespace)
            for item in self._select(request, kind, namespace):
                self.api.delete(kind, namespace, item["metadata"]["name"])
            return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        raise ApiError(405, "the server does not allow this method on the requested resource")

    def _select(self, request: web.Request, kind: Kind, namespace: str) -> list[Object]:
        query = request.query
        return self.api.store.select(kind, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))

    def _list(self, request: web.Request, kind: Kind, namespace: str) -> web.Response:
        items, revision = self._select(request, kind, namespace), str(self.api.store.revision)
        if _wants_table(request):
            return web.json_response(table(kind, items, revision))
        metadata = {"resourceVersion": revision}
        content = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        return web.json_response(content)

    async def _create(self, request: web.Request, kind: Kind, namespace: str) -> web.Response:
        item = await _body(request)
        if kind == ACCESS_REVIEW:
            return web.json_response(self.api.access_review(item), status=201)
        if (item.get("apiVersion"), item.get("kind")) != (kind.api_version, kind.name):
            found = f"{item.get('apiVersion')}, {item.get('kind')}"
            raise ApiError(400, f"the object provided is unrecognized: {kind.api_version}, {kind.name}, not {found}")
        if kind.namespaced and item.setdefault("metadata", {}).setdefault("namespace", namespace) != namespace:
            raise ApiError(400, "the namespace of the provided object does not match the namespace of the request")
        self.api.gate.check("create", kind, namespace)
        await self.api.gate.meet("create", kind)
        created = self.api.create(kind, item, validation=_validation(request), dry_run=_is_dry_run(request))
        return web.json_response(created, status=201)

    async def _item(self, request: web.Request) -> web.StreamResponse:
        kind, namespace, name = self._kind(request), request.match_info.get("namespace", ""), request.match_info["name"]
        if request.method == "GET" and request.query.get("watch") in YES:
            self.api.gate.check("watch", kind, namespace)
            return await self._watch(request, kind, namespace, f"metadata.name={name}")
        if request.method == "GET":
            self.api.gate.check("get", kind, namespace)
            return self._shown(request, kind, self.api.store.get(kind, namespace, name))
        if request.method == "DELETE":
            self.api.gate.check("delete", kind, namespace)
            return await self._delete(request, kind, namespace, name)
        return await self._change(request, kind, namespace, name, status_only=False)

    def _shown(self, request: web.Request, kind: Kind, item: Object) -> web.Response:
        if _wants_table(request):
            return web.json_response(table(kind, [item], item["metadata"]["resourceVersion"]))
        return web.json_response(item)

    async def _change(
        self, request: web.Request, kind: Kind, namespace: str, name: str, *, status_only: bool
    ) -> web.Response:
        content = await _body(request)
        validation, dry_run = _validation(request), _is_dry_run(request)
        if request.method == "PUT":
            self.api.gate.check("update", kind, namespace)
            content.setdefault("metadata", {}).setdefault("name", name)
            item = self.api.update(kind, content, status_only=status_only, validation=validation, dry_run=dry_run)
            return web.json_response(item)
        if request.method == "PATCH":
            self.api.gate.check("patch", kind, namespace)
            item, is_new = self.api.patch(
                kind,
                namespace,
                name,
                request.content_type,
                content,
                status_only=status_only,
                validation=validation,
                dry_run=dry_run,
            )
            return web.json_response(item, status=201 if is_new else 200)
        raise ApiError(405, "the server does not allow this method on the requested resource")

    async def _delete(self, request: web.Request, kind: Kind, namespace: str, name: str) -> web.Response:
        options = {**(await _body(request) if request.can_read_body else {}), **request.query}
        precondition = (options.get("preconditions") or {}).get("uid")
        item = self.api.store.get(kind, namespace, name)
        if precondition not in (None, item["metadata"]["uid"]):
            raise ApiError(409, f"Precondition failed: UID in precondition: {precondition}")
        if _is_dry_run(request) or options.get("dryRun"):
            return web.json_response(item)
        grace = options.get("gracePeriodSeconds")
        deleted = self.api.delete(
            kind,
            namespace,
            name,
            grace_seconds=None if grace is None else int(grace),
            propagation=options.get("propagationPolicy") or "Background",
        )
        if kind == POD:
            return web.json_response(deleted)
        details = {"name": name, "kind": kind.plural, "uid": item["metadata"]["uid"]}
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details})

    async def _subresource(self, request: web.Request) -> web.StreamResponse:
        kind, info, query = self._kind(request), request.match_info, request.query
        namespace, name, subresource = info.get("namespace", ""), info["name"], info["subresource"]
        if subresource == "status" and kind.has_status:
            if request.method == "GET":
                return web.json_response(self.api.store.get(kind, namespace, name))
            return await self._change(request, kind, namespace, name, status_only=True)
        if kind != POD or subresource not in ("log", "exec"):
            raise not_found(kind.resource, f"{name}/{subresource}")
        self.api.gate.check("get" if subresource == "log" else "create", kind, namespace, subresource)
        pod = self.api.store.get(kind, namespace, name)
        container = _container(pod, query.get("container", ""))
        if subresource == "log":
            return await send_log(
                request, self.streams.log_of(pod, container, previous=query.get("previous", "") in YES)
            )
        command, stdin = query.getall("command"), query.get("stdin") in YES
        process = await self.streams.execute(pod, container, command, stdin=stdin)
        return await serve_exec(request, process, self.exec_pause_seconds)

    async def _watch(self, request: web.Request, kind: Kind, namespace: str, fields: str) -> web.StreamResponse:
        """Changes as JSON lines, from `resourceVersion` on or from everything there is."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        labels = request.query.get("labelSelector", "")
        changes = self._changes(kind, namespace, request.query.get("resourceVersion", ""))
        await response.prepare(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 1800))):
                try:
                    async for change in changes:
                        if not selects(change.item, labels, fields):
                            continue
                        item = change.item
                        if _wants_table(request):
                            item = table(kind, [item], item["metadata"]["resourceVersion"])
                        await _send_line(response, {"type": change.type, "object": item})
                except ApiError as error:
                    await _send_line(response, {"type": "ERROR", "object": error.status()})
        return response

    async def _changes(self, kind: Kind, namespace: str, revision: str) -> AsyncIterator[Change]:
        store = self.api.store
        with store.listen() as queue:
            if revision in ("", "0"):
                for item in store.select(kind, namespace):
                    yield Change(store.revision, "ADDED", kind, item)
            else:
                for change in store.since(int(revision)):
                    if _concerns(change, kind, namespace):
                        yield change
            while True:
                change = await queue.get()
                if _concerns(change, kind, namespace):
                    yield change


def _concerns(change: Change, kind: Kind, namespace: str) -> bool:
    return change.kind == kind and namespace in ("", field_at(change.item, "metadata.namespace"))


def _answer(make: Callable[[web.Request], Object]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(make(request))

    return handler


def _group_version(request: web.Request) -> str:
    info = request.match_info
    return f"{info['group']}/{info['version']}" if "group" in info else info["version"]


async def _body(request: web.Request) -> Any:
    if request.content_type.endswith("protobuf"):
        raise ApiError(415, "the body of the request is in protobuf, which this server does not read")
    text = await request.text()
    try:
        return json.loads(text) if text[:1] in "{[" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ApiError(400, f"the body of the request cannot be read: {error}") from error


async def _send_line(response: web.StreamResponse, line: Object) -> None:
    await response.write(json.dumps(line).encode() + b"\n")


def _wants_table(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def _validation(request: web.Request) -> str:
    return request.query.get("fieldValidation", "Warn")


def _is_dry_run(request: web.Request) -> bool:
    return "All" in request.query.getall("dryRun", [])


def _container(pod: Object, name: str) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    names += [container["name"] for container in pod["spec"].get("initContainers", ())]
    if name and name not in names:
        raise ApiError(400, f"container {name} is not valid for pod {pod['metadata']['name']}")
    return name or str(names[0])
