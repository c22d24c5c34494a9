"""The exception for errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong file, option or value.  Its message is one line that names the value, the cause and the fix.

    The command line prints the message after `error:` and exits with status 1; anything else is a bug and keeps
    its traceback.
    """


def printable(text: str) -> str:
    """Return `text` on one line, with unprintable characters, as in file names, as Python escapes (`\\n`, `\\udcff`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def to_install(extra: str) -> str:
    """Return how to install an extra: from the checkout, as no registry has this package."""
    return f"pip install '.[{extra}]' in the checkout"


def missing_extra(package: str, extra: str) -> UserError:
    """Return the error for an optional package that is not installed."""
    return UserError(f"this needs the package {package!r}, which is not installed: {to_install(extra)}")
