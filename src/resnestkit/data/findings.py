"""What is found in data before a training: each finding one sentence, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from resnestkit.errors import UserError

Severity = Literal["wrong", "slow", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know before a training starts."""

    severity: Severity
    text: str
    remedy: str = ""
    refused: bool = False
    """A training would not start."""

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".strip()


def refuse(findings: Iterable[Finding]) -> None:
    """Raise UserError, with every sentence, if anything found cannot be trained on."""
    said = [str(finding) for finding in findings if finding.refused]
    if said:
        raise UserError(" ".join(said))
