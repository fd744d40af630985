"""Where conf/, recipes/ and cuda/ are: beside the package in a checkout, inside it once installed."""

from pathlib import Path


def root() -> Path:
    """Folder that holds `conf`, `recipes` and `cuda`."""
    package = Path(__file__).resolve().parent
    installed = package / "_assets"
    return installed if installed.is_dir() else package.parent


def weights() -> Path:
    """Folder of the weights that come with the package."""
    return Path(__file__).resolve().parent / "weights"
