"""The five choices that make a vector quantizer, by their short names."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from torch import Tensor

from codec.errors import ConfigError
from codec.quantizers.codebook.assign import Assign, Nearest
from codec.quantizers.codebook.bridge import straight_through
from codec.quantizers.codebook.learn import Ema, Frozen, Gradient, Learn, Sync
from codec.quantizers.codebook.revive import Never, Revive, Threshold
from codec.quantizers.codebook.table import Free, Table

__all__ = ["OPTIONS", "Assign", "Choices", "Learn", "Revive", "Spec", "Table", "make"]

Spec = str | Mapping[str, Any]
Bridge = Callable[[Tensor, Tensor], Tensor]

OPTIONS: dict[str, dict[str, Any]] = {
    "table": {"free": Free},
    "assign": {"nearest": Nearest},
    "learn": {"ema": Ema, "gradient": Gradient, "sync": Sync, "frozen": Frozen},
    "revive": {"none": Never, "threshold": Threshold},
    "bridge": {"straight_through": lambda: straight_through},
}


class Choices(TypedDict, total=False):
    """The keyword arguments that all vector quantizers share: an option's name, or {name: ..., its arguments}."""

    table: Spec
    assign: Spec
    learn: Spec
    revive: Spec
    bridge: Spec
    start: str
    decay: float


def make(choice: str, spec: Spec, **context: Any) -> Any:
    """Build one option of a choice.

    Args:
        choice: a key of ``OPTIONS``.
        spec: the option's name, or a mapping with ``name`` and its arguments.
        context: further arguments that the caller provides.

    Raises:
        ConfigError: an unknown option or argument; the known ones are listed.
    """
    arguments = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = arguments.pop("name", None)
    options = OPTIONS[choice]
    if name not in options:
        raise ConfigError(f"quantizer {choice} {name!r} does not exist; there are {', '.join(options)}")
    try:
        return options[name](**context, **arguments)
    except TypeError as error:
        raise ConfigError(f"quantizer {choice} {name!r} does not take these arguments: {error}") from None
