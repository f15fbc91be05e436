"""What says that it loads no torch does not; the floors of inference are a contract in .importlinter."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, ast.Module]:
    paths = (path for path in (ROOT / "inference").rglob("*.py") if path.name != "__init__.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }


def test_what_says_that_it_loads_no_torch_loads_none():
    promised = [module for module, tree in modules().items() if "No torch here" in (ast.get_docstring(tree) or "")]
    assert len(promised) >= 10
    doors = ["ask_tuned_model", "ask_original_model", "compare", "evaluate", "export", "serve", "playground.__main__"]
    imported = ", ".join([*promised, *(f"inference.{door}" for door in doors)])
    code = f"import sys, {imported}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
