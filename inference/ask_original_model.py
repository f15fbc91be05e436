"""Ask the model that a run started from, with the run's chat template and prompt.

python -m inference.ask_original_model "How do I treat a nosebleed?"
python inference/ask_original_model.py                  (asks for questions)
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the repository takes the place of this folder, whose gguf/ hides a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from inference.asking.ask import ask_app

app = ask_app("original", "Ask the model that a run started from, with the run's chat template and prompt.")

if __name__ == "__main__":
    app()
