"""How an answer is generated, as plain values. No torch here: command lines show these defaults in their help."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GenerationSettings:
    """Answers are greedy unless `sample`; then `temperature`, `top_p` and `seed` count."""

    max_new_tokens: int = 256
    sample: bool = False
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 42

    @property
    def way(self) -> str:
        """'greedy', or 'sampled with seed 42'"""
        return f"sampled with seed {self.seed}" if self.sample else "greedy"

    def dump(self) -> dict[str, Any]:
        return asdict(self)
