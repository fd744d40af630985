"""Errors a user can cause: each is one clear sentence that says what, where and what to do."""


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
