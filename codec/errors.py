"""Errors a user can cause: each is one clear sentence that says what, where and what to do."""

from collections.abc import Iterable


class CodecError(ValueError):
    """Base of all errors that input, files or configurations can cause; the command line prints it and exits 1."""


class TokError(CodecError):
    """A token file is damaged, cut, of another version or of another model.

    Attributes:
        offset: byte position in the file where the trouble was found, or None where there is no such place.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class AudioError(CodecError):
    """A sound file cannot be read, written or used."""


class ConfigError(CodecError):
    """A configuration names something that does not exist or does not fit together."""


class CheckpointError(CodecError):
    """A weights file is missing, damaged, or does not fit its model."""


class BuildError(CodecError):
    """A library cannot be compiled, or what was compiled cannot be loaded."""


def suggestion(name: str, options: Iterable[str], form: str = " (did you mean {!r}?)") -> str:
    """The option that a wrong name is close to, in words; empty if there is none."""
    from difflib import get_close_matches

    close = get_close_matches(name, options, n=1)
    return form.format(close[0]) if close else ""
