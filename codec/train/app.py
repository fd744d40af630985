"""`python train.py` and `codec train`: the command line of training."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from codec.errors import ConfigError
from codec.train import recipes

USAGE = """\
Train a neural audio codec.

  python train.py +recipe=NAME data.root=FOLDER_OR_MANIFEST [setting=value ...]
  codec train +recipe=NAME ...                    the same, once installed

Recipes:
{recipes}

Useful settings:
  data.root=PATH        folder tree of sound files or a .jsonl manifest; without it a few recordings of our own
  size=tiny             the recipe with few channels and small batches
  trainer=cpu|gpu|ddp|smoke
  resume=true           continue the run in its folder (dir=runs/NAME)
  weights=MODEL         start from a model, a weights file or a name such as default, instead of random numbers
  +teacher=hubert|wavlm|w2v_bert|whisper   distil a frozen speech model into the first codebooks
  train.steps=N  data.batch_size=N  trainer.precision=bf16-mixed  train.compile=true  seed=N
  --multirun seed=0,1,2   one run after the other
  --cfg job             print the whole configuration;  --hydra-help  the flags of Hydra"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say.

    Args:
        argv: without the program's name; those of the process by default.

    Returns:
        The exit code: 0 good, 1 failed, 2 wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or any(argument in ("--help", "-h") for argument in arguments):
        print(USAGE.format(recipes=recipes.listing()))
        return 0 if arguments else 2
    arguments = [re.sub(r"^\+{0,2}recipe=", "+recipe=", argument) for argument in arguments]
    try:
        for argument in arguments:
            if argument.startswith("+recipe="):
                for name in argument.removeprefix("+recipe=").split(","):
                    recipes.check(name)
    except ConfigError as error:
        print(f"codec: {error}", file=sys.stderr)
        return 2
    # here, for Lightning and Hydra take seconds to import
    from codec.train.launch import launch

    return launch(arguments)


if __name__ == "__main__":
    sys.exit(main())
