"""Settings as people write them, in YAML: recipes, and `key=value` on the command line. No torch here."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.failure import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"


def parse_override(text: str) -> tuple[str, Any]:
    """Read a `key=value` argument; the value is YAML, so numbers, lists and null are what they look like.

    >>> parse_override("optim.epochs=2")
    ('optim.epochs', 2)
    """
    field, separator, value = text.partition("=")
    if not separator or not field:
        raise ConfigError(f"'{text}' is not of the form key=value", "For example: optim.epochs=2.")
    try:
        return field, read_yaml(value)
    except YamlError as error:
        raise ConfigError(f"the value of '{field}' is not valid YAML: {' '.join(str(error).split())}") from None


class YamlError(ValueError):
    """A text that is not YAML."""


def read_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        YamlError: it is not YAML. PyYAML itself lets other errors out: of dates that no calendar has, of tags such as
            `!!int` on a text that is none, of too deep a nesting.
    """
    known = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
    try:
        return yaml.safe_load(text)
    except known as error:
        raise YamlError(str(error) or type(error).__name__) from None


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(recipe: str) -> Path:
    """A recipe by name (`laptop`) or by path (`my/recipe.yaml`)."""
    if recipe.endswith((".yaml", ".yml")):
        path = Path(recipe)
        if not path.is_file():
            raise ConfigError(f"recipe file {path} does not exist")
        return path
    if recipe not in recipe_names():
        raise ConfigError(
            f"unknown recipe '{recipe}'", f"{nearest(recipe, recipe_names())}Known: {', '.join(recipe_names())}."
        )
    return RECIPES / f"{recipe}.yaml"


def load_recipe(path: Path) -> dict[str, Any]:
    """A recipe's sections (ConfigError where it is not a YAML mapping)."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path} holds no settings; it must be a mapping of sections")
    return content


def flatten(content: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Two levels of a recipe as dotted names: {'optim': {'epochs': 2}} -> ('optim.epochs', 2)."""
    for section, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{name}", inner) for name, inner in value.items())
        elif value is not None:
            yield str(section), value


def nearest(name: str, known: Sequence[str]) -> str:
    """'Did you mean ...? ' by the whole dotted name, else by its last part, else nothing."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        last_parts = {field.rpartition(".")[2]: field for field in known}
        close = difflib.get_close_matches(name.rpartition(".")[2], list(last_parts), n=1, cutoff=0.6)
        matches = [last_parts[match] for match in close]
    return f"Did you mean '{matches[0]}'? " if matches else ""
