"""Libraries that only an extra of the package brings."""

from __future__ import annotations

from importlib import import_module

from resnestkit.errors import UserError


def require(library: str, extra: str) -> None:
    """Make sure that an optional library can be imported.

    Raises UserError, naming the extra that installs it, if it is absent.
    """
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:  # it is there, but something that it needs is not
            raise
        raise UserError(
            f"{library} is not installed; run `pip install 'resnestkit[{extra}]'`."
        ) from error
