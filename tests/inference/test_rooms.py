"""The rooms of inference lie on floors, and what says that it loads no torch does not."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = ({"command"}, {"models"}, {"asking"}, {"judging", "gguf", "serving"})
"""From the ground; what is in none of them is a door. A file imports its own room and lower floors."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room of `inference.ROOM.file`, or the door itself."""
    return module.split(".")[1]


def goes_up(module: str, imported: str) -> bool:
    own, other = room_of(module), room_of(imported)
    return own != other and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF.get(own, len(FLOORS))


def modules() -> dict[str, ast.Module]:
    paths = (path for path in (ROOT / "inference").rglob("*.py") if path.name != "__init__.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }


def test_the_rule_catches_what_goes_up_or_beside():
    assert goes_up("inference.models.load", "inference.judging.held_out")
    assert goes_up("inference.gguf.write", "inference.serving.server")
    assert goes_up("inference.export", "inference.compare")
    assert goes_up("inference.asking.ask", "inference.evaluate")
    assert not goes_up("inference.playground.app", "inference.playground.line")
    assert not goes_up("inference.serve", "inference.models.published")


def test_no_room_imports_one_above_or_beside_and_nobody_a_door():
    imports = [
        (module, node.module)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("inference.")
    ]
    assert len(imports) > 50
    assert [pair for pair in imports if goes_up(*pair)] == []


def test_what_says_that_it_loads_no_torch_loads_none():
    promised = [module for module, tree in modules().items() if "No torch here" in (ast.get_docstring(tree) or "")]
    assert len(promised) >= 10
    doors = ["ask_tuned_model", "ask_original_model", "compare", "evaluate", "export", "serve", "playground.__main__"]
    imported = ", ".join([*promised, *(f"inference.{door}" for door in doors)])
    code = f"import sys, {imported}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
