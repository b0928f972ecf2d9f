"""The command line: verbs only, which know every room and are known by none."""

from resnestkit.cli.entry import VERBS, main, run

__all__ = ["VERBS", "main", "run"]
