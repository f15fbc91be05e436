"""Whatever a recipe, a setting or a manifest says, the answer is a value or the one error that explains it.

`--hypothesis-profile long` tries for minutes.
"""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.errors import DeployError, ExitCode
from deploy.kube.fetch import Extractor, fetch_run, wanted_files
from deploy.profile import plan_deployment
from inference.models.published import open_published
from train.config.run_config import ResolvedConfig, field_names, resolve_config
from train.failure import ConfigError, ModelError
from train.run_folder.manifest import READY, ManifestError, verify_manifest, write_manifest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3))
SECTIONS = st.sampled_from(sorted({name.partition(".")[0] for name in field_names()}))
FIELDS = st.sampled_from(sorted({name.rpartition(".")[2] for name in field_names()}))
RECIPES = st.dictionaries(
    SECTIONS | SCALARS, st.dictionaries(FIELDS | SCALARS, VALUES, max_size=3) | VALUES, max_size=4
)
YAML_TEXT = st.text("!&*[]{}:?-=>|%@`\"' \n\t019aint.~<", max_size=40)
NASTY = (
    "2026-99-99",
    "!!int ''",
    "!!float ''",
    "!!timestamp x",
    "[" * 3000,
    "{a: [}",
    "!!binary 'x'",
    "!!python/none x",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def resolved(recipe: Path, *overrides: str) -> ResolvedConfig | None:
    """The configuration; None where it was refused in words."""
    try:
        return resolve_config(str(recipe), overrides, {})
    except ConfigError as error:
        assert error.problem
        return None


@given(content=RECIPES)
@example(content={"trl": 3})
@example(content={"model": {"random_init": 3}})
def test_a_recipe_of_any_values(folder, content):
    (folder / "a.yaml").write_text(yaml.dump(content, allow_unicode=False), encoding="utf-8")
    resolved(folder / "a.yaml")
    resolved(folder / "a.yaml", "trl.weight_decay=1", "model.random_init.hidden_size=8")


@given(content=st.binary(max_size=60) | YAML_TEXT.map(str.encode))
def test_a_recipe_of_any_bytes(folder, content):
    (folder / "b.yaml").write_bytes(content)
    resolved(folder / "b.yaml")


@pytest.mark.parametrize("text", NASTY)
def test_yaml_that_its_reader_stumbles_over(folder, text):
    (folder / "c.yaml").write_text(f"optim: {text}\n")
    assert resolved(folder / "c.yaml") is None
    with pytest.raises(DeployError):
        plan_deployment(str(folder / "c.yaml"))


@given(key=st.sampled_from(field_names()) | st.text(max_size=12), value=YAML_TEXT)
@example(key="model.name", value="2026-99-99")
def test_any_setting(key, value):
    try:
        resolve_config("smoke", [f"{key}={value}"], {})
    except ConfigError as error:
        assert error.problem


@given(key=st.sampled_from(["gpu.count", "pods", "output_volume.size", "tolerations", "env", "job"]), value=YAML_TEXT)
def test_any_setting_of_a_profile(key, value):
    try:
        plan_deployment("cpu-smoke", settings=[f"{key}={value}"])
    except DeployError as error:
        assert error.problem


JSON_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = st.recursive(
    JSON_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
NAMES = st.text(max_size=9) | st.sampled_from(["model.safetensors", "../x", "/etc/passwd", "a/../../x", "a\0b", "."])
FACTS = st.fixed_dictionaries({"bytes": st.integers() | JSON, "sha256": st.text(max_size=9) | JSON}) | JSON
MANIFESTS = st.fixed_dictionaries({"files": st.dictionaries(NAMES, FACTS, max_size=3) | JSON}) | JSON
MANIFEST_BYTES = MANIFESTS.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=40)


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    inside = folder / "best_model"
    inside.mkdir()
    (inside / "config.json").write_text("{}")
    (inside / "model.safetensors").write_bytes(b"weights")
    write_manifest(inside, {})
    (inside / READY).touch()
    return inside


@given(content=MANIFEST_BYTES)
@example(content=b'{"files": []}')
@example(content=b'{"files": {"a\\u0000b": {"bytes": 1, "sha256": ""}}}')
@example(content=b"[" * 100_000)
def test_any_manifest_of_a_model(model, content):
    (model / "manifest.json").write_bytes(content)
    try:
        verify_manifest(model)
    except ManifestError as error:
        assert str(model) in str(error)
    try:
        open_published(model)
    except ModelError as error:
        assert error.problem


@given(content=MANIFEST_BYTES)
@example(content=b'{"files": {"model.safetensors": {}}}')
def test_any_manifest_on_the_volume(folder, content):
    class Volume(Extractor):
        def __init__(self) -> None: ...

        def sizes(self) -> dict[str, int]:
            return {"best_model/READY": 0, "best_model/manifest.json": len(content)}

        def content(self, path: str) -> bytes:
            return content

        def stream(self, path: str, offset_bytes: int):
            yield content[offset_bytes:]

    try:
        fetch_run(Volume(), folder / "out", checkpoints=False, say=str, advance=lambda _: lambda _: None)
    except DeployError as error:
        assert error.exit_code == ExitCode.INCOMPLETE
    else:
        assert json.loads(content)["files"] == {}


@given(sizes=st.dictionaries(NAMES, st.integers(0, 9), max_size=5))
def test_hidden_and_half_written_files_stay_where_they_are(sizes):
    found = [file.path for file in wanted_files(sizes, None, checkpoints=False)]
    assert set(found) <= sizes.keys()
    assert not [path for path in found if path.rpartition("/")[2].startswith(".")]
