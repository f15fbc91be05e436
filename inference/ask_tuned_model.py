"""Ask a tuned model: the one a run published.

python -m inference.ask_tuned_model "How do I treat a nosebleed?"
python inference/ask_tuned_model.py                  (asks for questions)
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the repository takes the place of this folder, whose gguf/ hides a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from inference.asking.ask import ask_app

app = ask_app("tuned", "Ask a tuned model: the one a run published.")

if __name__ == "__main__":
    app()
