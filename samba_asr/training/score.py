"""The score by which a run ranks its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A validation result by name: `Score("WER", 8.2, "%")`, `Score("perplexity", 120.5, "a word")`."""

    name: str
    value: float
    unit: str = ""
    lower_is_better: bool = True

    @property
    def rank(self) -> float:
        """Sort key: lower for a better score of the same name."""
        return self.value if self.lower_is_better else -self.value

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} {self.unit}".rstrip()
