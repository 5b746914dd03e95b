"""What a check found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it."""

    check: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    remedy: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether DermaScan cannot work as things are."""
        return self.level == "problem"
