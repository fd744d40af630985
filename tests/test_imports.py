"""Who may import whom, and how little `import codec` loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_arrows_point_down():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after `statement`."""
    script = f"import json, sys; before = set(sys.modules); {statement}"
    script += "; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_next_to_nothing():
    loaded = loaded_by("import codec; dir(codec)")
    # a few modules of the standard library take milliseconds; torch or numpy would take seconds
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {"codec"}


def test_the_format_needs_no_torch_and_no_sound_library():
    loaded = loaded_by("from codec import read_tok, write_tok")
    assert not loaded & {"torch", "soundfile", "soxr", "safetensors"}


def test_the_command_line_starts_without_torch():
    loaded = loaded_by("import codec.cli")
    assert not loaded & {"torch", "numpy", "lightning", "hydra", "soundfile", "rich.progress"}


def test_the_help_of_training_needs_no_torch():
    quiet = "out, sys.stdout = sys.stdout, io.StringIO(); main(['--help']); sys.stdout = out"
    loaded = loaded_by(f"import io; from codec.train.app import main; {quiet}")
    assert not loaded & {"torch", "torchaudio", "lightning", "hydra"}


def test_the_public_names_are_there():
    import codec

    assert {name for name in codec.__all__ if getattr(codec, name) is None} == set()
    assert set(codec.__all__) == set(dir(codec))
