"""Record the trajectory of the smoke recipe that tests/train/test_main.py compares with.

python tests/golden/record_smoke.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KEPT = {"step": ("step", "loss", "grad_norm", "learning_rate"), "evaluation": ("step", "loss")}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "train", "smoke", f"output.dir={folder}"], cwd=HERE.parents[1], check=True
        )
        history = json.loads((Path(folder) / "training_history.json").read_text())
    golden = {
        kind: [{name: record[name] for name in names} for record in history if record["kind"] == kind]
        for kind, names in KEPT.items()
    }
    (HERE / "smoke.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
