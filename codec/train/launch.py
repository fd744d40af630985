"""From the arguments of the command line through Hydra to runs."""

from __future__ import annotations

import os
import re
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from codec import assets
from codec.errors import CodecError, suggestion
from codec.train.compose import compose, register
from codec.train.run import train

_WITH_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
)


def launch(arguments: list[str]) -> int:
    """Compose the configuration that the arguments ask for, and run it; several with `--multirun`.

    Classes in the current folder can be named in the configuration, as in every Hydra application.

    Returns:
        The exit code: 0 good, 1 a run failed, 2 the arguments do not compose.
    """
    register(arguments)
    arguments = _flags_last(arguments)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    command = sys.argv
    failures: list[str] = []

    def job(cfg: DictConfig) -> float:
        # the launcher of a distributed run repeats the command as it was typed
        sys.argv = command
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            cfg.dir = HydraConfig.get().runtime.output_dir
        try:
            metrics, objects = train(cfg)
        except CodecError as error:
            # printed here: Hydra would add a traceback, and a sweep goes on with its next run
            failures.append(str(error))
            print(f"codec: {error}", file=sys.stderr)
            return float("nan")
        return metrics.get(objects["config"].checkpoint.best, float("nan"))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out as they are
    sys.argv = ["train", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(assets.root() / "conf"), config_name="config")(job)()
    except MissingConfigException as error:
        # what there is instead, without the folders that were searched
        print("codec:", " ".join(str(error).partition("Config search path:")[0].split()), file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        known = _unknown_setting(str(error), arguments) or _not_understood(arguments)
        print(f"codec: {known or error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # --hydra-help, --cfg
        return int(stop.code or 0)
    finally:
        sys.argv = command
    return 1 if failures else 0


def _flags_last(arguments: list[str]) -> list[str]:
    """Settings before flags and their values: argparse takes settings in one place only."""
    settings, flags = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            settings.append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE:
            flags += [value for value in [next(rest, None)] if value is not None]
    return [*settings, *flags]


def _not_understood(arguments: list[str]) -> str | None:
    """Which setting Hydra's grammar does not take, and how to write it."""
    parser = OverridesParser.create()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        try:
            if equals:
                parser.parse_override(argument)
        except HydraException:
            return f"{name}: {value} holds characters that mean something to Hydra; quote it: '{name}=\"{value}\"'"
    return None


def _unknown_setting(message: str, arguments: list[str]) -> str | None:
    """What to say where Hydra could not override a setting: that there is none, and which is close."""
    found = re.match(r"Could not override '([^']+)'", message)
    if found is None:
        return None
    # groups chosen on the command line decide which settings there are
    groups = [argument for argument in arguments if re.fullmatch(r"\+?\w+=\w+", argument)]
    known = _names(OmegaConf.to_container(compose(*groups)))
    return f"there is no setting {found[1]!r}" + suggestion(found[1], known, "; did you mean {!r}?")


def _names(node: object, prefix: str = "") -> list[str]:
    """The full names of all settings under `node`."""
    if not isinstance(node, dict):
        return [prefix]
    return [name for key, value in node.items() for name in _names(value, f"{prefix}.{key}".lstrip("."))]
