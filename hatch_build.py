"""What `pip install` does beyond copying files: it compiles the extension, or goes on without it."""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ExtensionHook(BuildHookInterface):
    """Compiles codec/native: in its place for an editable install, into the wheel otherwise."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel."""
        sys.path.insert(0, self.root)
        from codec import native
        from codec.errors import BuildError
        from codec.native import build

        place = build.LIBRARY
        if version != "editable":
            self._folder = tempfile.TemporaryDirectory()
            place = Path(self._folder.name, build.LIBRARY.name)
        try:
            for line in build.build(place):
                self.app.display_warning(line)
        except BuildError as error:
            if os.environ.get("CODEC_CPU") == "require":
                raise
            self.app.display_warning(f"the native extension is left out ({error}): {native.COST}")
            return
        if version != "editable":
            build_data["force_include"][str(place)] = str(build.LIBRARY.relative_to(self.root))
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"  # ctypes loads it: no version of Python is in it
            build_data["pure_python"] = False
