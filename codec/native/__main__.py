"""``python -m codec.native``: compiles the extension in its place, after a change of its sources or for want of one."""

import sys

from codec import native
from codec.errors import CodecError
from codec.native import build


def main() -> int:
    """Compile, and say what is in use; returns the exit code."""
    try:
        for line in build.build():
            print(line, file=sys.stderr)
        print(native.describe())
    except CodecError as error:
        print(f"codec: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
