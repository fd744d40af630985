"""The choices that make a codebook, by their short names."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from codec.errors import ConfigError
from codec.quantizers.codebook.assignment import Gumbel, Nearest, Sinkhorn, SoftmaxAll
from codec.quantizers.codebook.gradient import rotation, straight_through
from codec.quantizers.codebook.regularisers import Entropy, Orthogonal, Wasserstein
from codec.quantizers.codebook.replacement import CVQ, Never, Threshold
from codec.quantizers.codebook.table import FVQ, Affine, Factorized, Free, Grid, Projected, SimVQ, Table
from codec.quantizers.codebook.update import Ema, Frozen, Gradient, Sync

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
    "assignment": {"nearest": Nearest, "sinkhorn": Sinkhorn, "softmax": SoftmaxAll, "gumbel": Gumbel},
    "update": {"ema": Ema, "gradient": Gradient, "sync": Sync, "frozen": Frozen},
    "replace_dead": {"none": Never, "threshold": Threshold, "cvq": CVQ},
    "gradient_estimator": {"straight_through": lambda: straight_through, "rotation": lambda: rotation},
    "regularisers": {"orthogonal": Orthogonal, "entropy": Entropy, "wasserstein": Wasserstein},
}
INITS = ("kmeans", "random")
SINGLE = OPTIONS.keys() - {"regularisers"}  # the others may be several


class Choices(TypedDict, total=False):
    """What all vector quantizers take beside their sizes: an option's name, or {name: ..., its arguments}.

    ``auto`` is what suits the table: EMA, threshold and k-means where its codes can be set, else gradient, none and
    random.
    """

    table: Spec
    assignment: Spec
    update: Spec
    replace_dead: Spec
    gradient_estimator: Spec
    init: str
    regularisers: Sequence[Spec]
    decay: float


DEFAULTS: dict[str, Any] = {
    "table": "free",
    "assignment": "nearest",
    "update": "auto",
    "replace_dead": "auto",
    "gradient_estimator": "straight_through",
    "init": "auto",
    "regularisers": (),
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
    arguments = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
    try:
        return option(choice, spec)(**context, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"quantizer {choice} {_name(spec)!r} refuses its settings: {error}") from None


def option(choice: str, spec: Any) -> Any:
    """What the option that ``spec`` names is made by.

    Raises:
        ConfigError: there is none of that name; the known ones are listed.
    """
    if _name(spec) not in OPTIONS[choice]:
        raise ConfigError(
            f"quantizer {choice} {_name(spec)!r} does not exist; there are {', '.join(OPTIONS[choice])}"
        )
    return OPTIONS[choice][_name(spec)]


def _name(spec: Any) -> Any:
    return spec.get("name") if isinstance(spec, Mapping) else spec


def resolve(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults, decide what is ``auto``, and refuse what does not go together.

    Raises:
        ConfigError: an unknown setting, or options that contradict each other, in a sentence.
    """
    unknown = sorted(choices.keys() - DEFAULTS.keys())
    if unknown:
        raise ConfigError(f"a codebook has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    chosen = DEFAULTS | dict(choices)
    for key in ("table", "assignment", "gradient_estimator"):
        if chosen[key] == "auto":
            raise ConfigError(f"quantizer {key} cannot be 'auto'; there are {', '.join(OPTIONS[key])}")
    table, assignment = option("table", chosen["table"]), option("assignment", chosen["assignment"])
    if chosen["update"] == "auto":
        averages = table.writable and not table.learned and not assignment.differentiable
        chosen["update"] = "ema" if averages else "gradient"
    frozen = option("update", chosen["update"]) is Frozen
    if chosen["replace_dead"] == "auto":
        chosen["replace_dead"] = "threshold" if table.writable and not frozen else "none"
    if chosen["init"] == "auto":
        chosen["init"] = "kmeans" if table.loadable and not frozen else "random"
    if chosen["init"] not in INITS:
        raise ConfigError(f"quantizer init {chosen['init']!r} does not exist; there are {', '.join(INITS)}")
    _refuse(chosen, table, assignment.differentiable)
    return chosen


def _refuse(chosen: Mapping[str, Any], table: type[Table], differentiable: bool) -> None:
    named = {key: option(key, spec) and _name(spec) for key, spec in chosen.items() if key in SINGLE}
    label, assignment = f"table {named['table']}", f"assignment {named['assignment']}"
    update, frozen, still = (
        named["update"],
        named["update"] == "frozen",
        "update frozen leaves the table alone",
    )
    replace, kmeans = named["replace_dead"] != "none", chosen["init"] == "kmeans"
    moved, own = table.learned or not table.writable, named["gradient_estimator"] != "straight_through"
    for wrong, reason, key, legal in (
        (update == "ema" and moved, f"{label} is moved by the optimiser", "update", "gradient or sync"),
        (replace and not table.writable, f"{label} has no codes that could be set", "replace_dead", "none"),
        (replace and frozen, still, "replace_dead", "none"),
        (kmeans and not table.loadable, f"{label} cannot be set from data", "init", "random"),
        (kmeans and frozen, still, "init", "random"),
        (
            differentiable and update not in ("gradient", "frozen"),
            f"{assignment} moves all codes by its gradient",
            "update",
            "gradient",
        ),
        (
            differentiable and own,
            f"{assignment} brings its own gradient",
            "gradient_estimator",
            "straight_through",
        ),
    ):
        if wrong:
            raise ConfigError(f"{reason}: {key} must be {legal}, not {named.get(key, chosen[key])}")
