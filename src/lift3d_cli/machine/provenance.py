"""The version of the code that made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def commit() -> str:
    """Return the commit of this code's own checkout, with a "+" if it has changes; "" without one.

    A repository that merely surrounds the installed package, as one with a virtual environment in it, is none.
    """
    git = ["git", "-C", str(_PACKAGE)]

    def output(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        output("ls-files", "--error-unmatch", str(Path(__file__).relative_to(_PACKAGE)))
        return output("rev-parse", "--short", "HEAD") + "+" * bool(output("status", "--porcelain", "."))
    except (OSError, subprocess.CalledProcessError):
        return ""
