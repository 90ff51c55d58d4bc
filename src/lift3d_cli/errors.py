"""Every error that a user can cause, and its exit code. The core raises; only `cli/app.py` prints.

A message is one line: what is wrong, where, and after "hint:" what to do.
"""

from __future__ import annotations


class Lift3dError(Exception):
    """Base of all errors that end in one clear line and an exit code, without a traceback."""

    exit_code = 1


class UsageError(Lift3dError):
    """An option does nothing here, contradicts another one, or would overwrite something."""

    exit_code = 2


class SceneError(Lift3dError):
    """A scene, photo, camera or pose file cannot be used."""

    exit_code = 3


class CacheError(Lift3dError):
    """The cache or a render in it is missing something, damaged, or made by another version."""

    exit_code = 4


class OutdatedError(CacheError):
    """A file of the cache was made by another version: it is made again where that is needed."""


class ModelError(Lift3dError):
    """A 2D model or its weights are unknown, cannot be loaded or break their declaration."""

    exit_code = 5


class ResourceError(Lift3dError):
    """Memory, disk space, a device or a place to write to is insufficient or missing."""

    exit_code = 6


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it before they kill: ends a command as Ctrl-C does."""

    exit_code = 143
