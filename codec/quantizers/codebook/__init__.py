"""The five choices that make a vector quantizer, by their short names."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from codec.errors import ConfigError
from codec.quantizers.codebook.assign import Assign, Nearest
from codec.quantizers.codebook.bridge import rotation, straight_through
from codec.quantizers.codebook.grid import Grid
from codec.quantizers.codebook.learn import Ema, Frozen, Gradient, Learn, Sync
from codec.quantizers.codebook.regularise import Entropy, Orthogonal, Regulariser, Wasserstein
from codec.quantizers.codebook.reparam import FVQ, Affine, Projected, SimVQ
from codec.quantizers.codebook.revive import CVQ, Never, Revive, Threshold
from codec.quantizers.codebook.sinkhorn import Sinkhorn
from codec.quantizers.codebook.soft import Gumbel, SoftmaxAll
from codec.quantizers.codebook.table import Factorized, Free, Table

__all__ = ["OPTIONS", "STARTS", "Assign", "Choices", "Learn", "Regulariser", "Revive", "Spec", "Table"]
__all__ += ["make", "resolve"]

Spec = str | Mapping[str, Any]

OPTIONS: dict[str, dict[str, Any]] = {
    "table": {
        "free": Free,
        "simvq": SimVQ,
        "fvq": FVQ,
        "projected": Projected,
        "affine": Affine,
        "factorized": Factorized,
        "grid": Grid,
    },
    "assign": {"nearest": Nearest, "sinkhorn": Sinkhorn, "softmax": SoftmaxAll, "gumbel": Gumbel},
    "learn": {"ema": Ema, "gradient": Gradient, "sync": Sync, "frozen": Frozen},
    "revive": {"none": Never, "threshold": Threshold, "cvq": CVQ},
    "bridge": {"straight_through": lambda: straight_through, "rotation": lambda: rotation},
    "regularise": {"orthogonal": Orthogonal, "entropy": Entropy, "wasserstein": Wasserstein},
}
STARTS = ("kmeans", "random")


class Choices(TypedDict, total=False):
    """What all vector quantizers take beside their sizes: an option's name, or {name: ..., its arguments}.

    ``auto`` is what suits the table: EMA, threshold and k-means where its codes can be set, else gradient, none and
    random.
    """

    table: Spec
    assign: Spec
    learn: Spec
    revive: Spec
    bridge: Spec
    start: str
    regularise: Sequence[Spec]
    decay: float


DEFAULTS: dict[str, Any] = {
    "table": "free",
    "assign": "nearest",
    "learn": "auto",
    "revive": "auto",
    "bridge": "straight_through",
    "start": "auto",
    "regularise": (),
    "decay": 0.99,
}


def make(choice: str, spec: Spec, **context: Any) -> Any:
    """Build one option of a choice.

    Args:
        choice: a key of ``OPTIONS``.
        spec: the option's name, or a mapping with ``name`` and its arguments.
        context: further arguments that the caller provides.

    Raises:
        ConfigError: an unknown option or argument; the known ones are listed.
    """
    name, arguments = _read(choice, spec)
    try:
        return OPTIONS[choice][name](**context, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"quantizer {choice} {name!r} refuses its settings: {error}") from None


def resolve(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults, settle ``auto``, and refuse what does not go together.

    Raises:
        ConfigError: an unknown setting, or options that contradict each other, in a sentence.
    """
    chosen = DEFAULTS | dict(choices)
    unknown = sorted(set(chosen) - set(DEFAULTS))
    if unknown:
        raise ConfigError(f"a codebook has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    name = {
        key: _read(key, chosen[key])[0] for key in OPTIONS if key != "regularise" and chosen[key] != "auto"
    }
    for key in ("table", "assign", "bridge"):
        if key not in name:
            raise ConfigError(f"quantizer {key} cannot be 'auto'; there are {', '.join(OPTIONS[key])}")
    table = OPTIONS["table"][name["table"]]
    averages = table.writable and not table.learned and not OPTIONS["assign"][name["assign"]].differentiable
    for key, value in (
        ("learn", "ema" if averages else "gradient"),
        ("revive", "threshold" if table.writable and name.get("learn") != "frozen" else "none"),
    ):
        if chosen[key] == "auto":
            chosen[key] = name[key] = value
    if chosen["start"] == "auto":
        chosen["start"] = "kmeans" if table.startable and name["learn"] != "frozen" else "random"
    if chosen["start"] not in STARTS:
        raise ConfigError(
            f"quantizer start {chosen['start']!r} does not exist; there are {', '.join(STARTS)}"
        )
    _refuse(name, chosen["start"], table)
    return chosen


def _refuse(name: Mapping[str, str], start: str, table: type[Table]) -> None:
    label = name["table"]
    differentiable = OPTIONS["assign"][name["assign"]].differentiable
    problems = [
        (
            name["learn"] == "ema" and (table.learned or not table.writable),
            f"table {label} is moved by the optimiser: learn must be gradient or sync, not ema",
        ),
        (
            name["revive"] != "none" and not table.writable,
            f"table {label} has no code vectors that could be set: revive must be none, not {name['revive']}",
        ),
        (
            name["revive"] != "none" and name["learn"] == "frozen",
            f"learn frozen leaves the table alone: revive must be none, not {name['revive']}",
        ),
        (
            start == "kmeans" and not table.startable,
            f"table {label} does not start from data: start must be random, not kmeans",
        ),
        (
            start == "kmeans" and name["learn"] == "frozen",
            "learn frozen leaves the table alone: start must be random, not kmeans",
        ),
        (
            differentiable and name["learn"] != "gradient" and name["learn"] != "frozen",
            f"assign {name['assign']} moves all codes by its gradient: learn must be gradient, not {name['learn']}",
        ),
        (
            differentiable and name["bridge"] != "straight_through",
            f"assign {name['assign']} brings its own gradient: bridge must be straight_through, not {name['bridge']}",
        ),
    ]
    for wrong, sentence in problems:
        if wrong:
            raise ConfigError(sentence)


def _read(choice: str, spec: Any) -> tuple[str, dict[str, Any]]:
    arguments = {"name": spec} if spec is None or isinstance(spec, str) else dict(spec)
    name = arguments.pop("name", None)
    if name not in OPTIONS[choice]:
        raise ConfigError(
            f"quantizer {choice} {name!r} does not exist; there are {', '.join(OPTIONS[choice])}"
        )
    return name, arguments
