"""A ClusterProfile holds all that a job depends on of its cluster; a Deployment adds the run that it starts.

A profile is a YAML file in `deploy/clusters/`, or any path ending in .yaml. Values given with `--set` lie over it:
`--set gpu.count=0` is the profile's, `--set optim.epochs=1` the run's (the sections of `RunConfig`).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from deploy.errors import ProfileError
from train.config.run_config import RunConfig, field_names, resolve_config
from train.config.yaml_files import YamlError, nearest, parse_override, read_yaml
from train.failure import ConfigError

CLUSTERS = Path(__file__).parent / "clusters"
OUTPUT_MOUNT = "/trained-models"
WORKSPACE_MOUNT = "/workspace"

Name = Annotated[str, Field(min_length=1, max_length=63)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Volume(Part):
    """A volume is a PersistentVolumeClaim, created if it is missing and never deleted unless asked for."""

    claim: Name
    size: str = "50Gi"
    access_mode: AccessMode = Field("ReadWriteOnce", description="ReadWriteOnce: the master alone mounts it")
    storage_class: str | None = Field(None, description="default: the cluster's own")


class Gpu(Part):
    resource: str = "nvidia.com/gpu"
    count: NonNegativeInt = Field(1, description="per pod; 0: no GPU")


class Resources(Part):
    """These amounts are per pod: `cpu` is requested, `cpu_limit` (default: the same) allowed, memory is both."""

    cpu: str = "6"
    cpu_limit: str | None = None
    memory: str = "20Gi"
    shared_memory: str = Field("4Gi", description="size of /dev/shm; it counts as memory")
    scratch: str = Field("20Gi", description="limit of /tmp on the node's disk")


class Toleration(Part):
    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class HubToken(Part):
    """The key of a Secret is mounted as a file: an environment variable shows in every process listing."""

    secret: Name
    key: str = "token"
    optional: bool = Field(True, description="start without it; public models need none")


class Egress(Part):
    """This says what pods may reach besides each other and the DNS."""

    internet: bool = Field(True, description="false: the model must be in the image or on the workspace volume")
    ports: tuple[PositiveInt, ...] = Field((443,), description="a proxy may need another one")


class Restart(Part):
    """hands-off: containers restart in place and resume. supervised: the job fails and `watch` starts it again."""

    policy: Literal["hands-off", "supervised"] = "hands-off"
    times: PositiveInt = Field(5, description="how often the whole job may restart")


class ClusterProfile(Part):
    description: str = ""
    namespace: Name
    job: Name
    image: str = Field(description="name:tag, better name@sha256:...")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="default: Always for a tag, IfNotPresent for a digest"
    )
    recipe: str
    overrides: tuple[str, ...] = Field((), description="key=value of the run")
    pods: PositiveInt = Field(1, description="one master, the others workers")
    gpu: Gpu = Gpu()
    resources: Resources = Resources()
    output_volume: Volume
    workspace_volume: Volume | None = Field(None, description="model and activation caches; default: lost with the pod")
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    queue: str | None = Field(None, description="Kueue LocalQueue; default: no Kueue")
    hub_token: HubToken | None = None
    image_pull_secrets: tuple[Name, ...] = ()
    egress: Egress = Egress()
    monitoring_namespaces: tuple[Name, ...] = Field(
        ("openshift-monitoring", "openshift-user-workload-monitoring"),
        description="whose pods may read the metrics at output.metrics_port",
    )
    restart: Restart = Restart()
    fs_group: int | None = Field(None, description="group of the volumes; OpenShift chooses one itself")
    ttl_days: PositiveInt = Field(7, description="how long a finished job stays to be looked at")
    nccl_debug: Literal["WARN", "INFO", "TRACE"] = "WARN"
    nccl_interface: str | None = Field(None, description="only where NCCL picks the wrong one: =eth0")
    env: dict[str, str] = Field({}, description="further variables, a proxy for instance")

    @property
    def world_size(self) -> int:
        """Return the number of ranks: one per GPU, or one per pod where there is none."""
        return self.pods * max(1, self.gpu.count)

    @property
    def volumes(self) -> list[Volume]:
        return [volume for volume in (self.output_volume, self.workspace_volume) if volume]

    @property
    def output_dir(self) -> str:
        return f"{OUTPUT_MOUNT}/{self.job}"


@dataclass(frozen=True)
class Deployment:
    """A deployment is a profile and the run it starts; `arguments` is what follows `python -m train RECIPE`."""

    profile: ClusterProfile
    config: RunConfig
    arguments: tuple[str, ...]
    profile_name: str
    options: tuple[str, ...] = ()
    """What was given on the command line and every further command on this job needs too."""

    def command_line(self, command: str, *more: str) -> str:
        """Return a command on the same job, to be pasted.

        >>> plan_deployment("cpu-smoke", settings=["pods=2"], namespace="lab").command_line("watch")
        'python -m deploy watch cpu-smoke --set pods=2 --namespace lab'
        """
        return shlex.join(["python", "-m", "deploy", command, self.profile_name, *self.options, *more])


def profile_names() -> list[str]:
    """Return the names of the profiles in `deploy/clusters`, sorted."""
    return sorted(path.stem for path in CLUSTERS.glob("*.yaml"))


def plan_deployment(
    profile_name: str,
    *,
    settings: Sequence[str] = (),
    image: str | None = None,
    namespace: str | None = None,
    context: str | None = None,
) -> Deployment:
    """Read a profile, lay `key=value` settings over it, resolve the run it starts. `context` is only passed on.

    Raises:
        ProfileError: an unknown profile or key (the nearest known one is named), or a value that cannot be right.
    """
    pairs = [(text, *_parsed(text)) for text in settings]
    run_sections = set(RunConfig.model_fields)
    values = _read_profile(profile_name)
    for text, key, value in pairs:
        if key.partition(".")[0] not in run_sections:
            _set(values, key, value, text)
    values |= {key: value for key, value in (("image", image), ("namespace", namespace)) if value is not None}
    profile = _validated(values, profile_name)
    run_settings = [text for text, key, _ in pairs if key.partition(".")[0] in run_sections]
    named = [("--set", text) for text in settings] + [("--namespace", namespace), ("--context", context)]
    options = tuple(word for option, value in named if value is not None for word in (option, value))
    return replace(_with_run(profile, run_settings, profile_name), options=options)


def _parsed(text: str) -> tuple[str, Any]:
    try:
        return parse_override(text)
    except ConfigError as error:
        raise ProfileError(error.problem, error.remedy) from None


def _read_profile(name: str) -> dict[str, Any]:
    """A profile's values; those of the profile it `extends` lie under them."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else CLUSTERS / f"{name}.yaml"
    if not path.is_file():
        raise ProfileError(
            f"unknown profile '{name}'", f"{nearest(name, profile_names())}Known: {', '.join(profile_names())}."
        )
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ProfileError(f"profile {path} holds no settings; it must be a mapping")
    base = values.pop("extends", None)
    return {**(_read_profile(str(base)) if base else {}), **values}


def _set(values: dict[str, Any], key: str, value: Any, text: str) -> None:
    """Lay one dotted setting over nested values: gpu.count=0."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent) or {}
        if not isinstance(inner, dict):
            raise ProfileError(f"--set {text}: '{parent}' is a single value and has no '{last}'")
        values[parent] = dict(inner)
        values = values[parent]
    values[last] = value


def _validated(values: Mapping[str, Any], name: str) -> ClusterProfile:
    try:
        return ClusterProfile.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ProfileError(f"profile {name}: {problems}") from None


def _explain(problem: Any) -> str:
    """One pydantic error as a sentence; an unknown key names the nearest known one."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model = _model_at(problem["loc"][:-1])
        known = [*model.model_fields] if model else []
        of_run = [] if model is not ClusterProfile else field_names()
        return f"unknown key '{field}'. {nearest(str(problem['loc'][-1]), known) or nearest(field, of_run)}".strip()
    if problem["type"] == "missing":
        return f"'{field}' is required"
    return f"{field}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"


def _model_at(location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that a place in the profile belongs to: ('gpu',) -> Gpu."""
    model: type[BaseModel] | None = ClusterProfile
    for part in location:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return model


def _with_run(profile: ClusterProfile, settings: Sequence[str], profile_name: str) -> Deployment:
    """Resolve the run exactly as each pod will, and check what only run and cluster together can get wrong."""
    arguments = [*profile.overrides, *settings]
    environment = {"OUTPUT_DIR": profile.output_dir}
    try:
        config = resolve_config(profile.recipe, arguments, environment).config
        if config.distributed.world_size is None:
            # Said to the pods too: a rank that finds itself in another world then refuses to train.
            arguments.append(f"distributed.world_size={profile.world_size}")
            config = resolve_config(profile.recipe, arguments, environment).config
    except ConfigError as error:
        raise ProfileError(f"the run of profile {profile_name}: {error.problem}", error.remedy) from None
    if config.distributed.world_size != profile.world_size:
        raise ProfileError(
            f"recipe {profile.recipe} wants {config.distributed.world_size} rank(s), profile {profile_name} starts "
            f"{profile.world_size} ({profile.pods} pod(s) x {max(1, profile.gpu.count)})",
            "Choose another recipe, or --set distributed.world_size=N for a run of another size.",
        )
    if not config.output.dir.is_relative_to(OUTPUT_MOUNT):
        raise ProfileError(
            f"output.dir is {config.output.dir}, but the output volume is mounted at {OUTPUT_MOUNT}",
            f"Leave output.dir out, or choose a folder below {OUTPUT_MOUNT}.",
        )
    return Deployment(profile, config, tuple(arguments), profile_name)
