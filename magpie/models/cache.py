"""The cache of models that are made on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from magpie.errors import MagpieError, ModelError
from magpie.text import printable

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The cache's folder: $MAGPIE_CACHE, else `magpie` in $XDG_CACHE_HOME, else ~/.cache/magpie. Raises ModelError."""
    try:
        if own := os.environ.get("MAGPIE_CACHE"):
            return Path(own).expanduser()
        if shared := os.environ.get("XDG_CACHE_HOME"):
            return Path(shared) / "magpie"
        return Path.home() / ".cache" / "magpie"
    except RuntimeError as error:
        raise ModelError(
            "there is no home folder to keep models in; set MAGPIE_CACHE to a folder that can be written"
        ) from error


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` if it does not exist: completely or not at all, and by one process at a time."""
    from filelock import FileLock

    if folder.is_dir():
        return folder
    # Made under another name and renamed: a folder of the final name is always complete.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            # Another process may have made it while this one waited for the lock.
            if folder.is_dir():
                return folder
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            _log.info("making %s, once", folder.name)
            _make(make, unfinished)
            # On disk before the rename is: after a power failure the new name must not hold empty files.
            for path in (path for path in unfinished.rglob("*") if path.is_file()):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            unfinished.rename(folder)
    except OSError as error:
        raise ModelError(
            f"cannot write the model to {folder.parent} ({error.strerror or error}); "
            "make room there, or set MAGPIE_CACHE to a folder that can be written"
        ) from error
    return folder


def _make(make: Callable[[Path], None], to: Path) -> None:
    try:
        make(to)
    except MagpieError:
        raise
    except Exception as error:  # a library that reads a damaged file raises of every kind
        # Only the system's errors have a number, and are told by the caller: the disk is full, or cannot be written.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = printable(str(error))[:200] or type(error).__name__
        name = to.name.removeprefix(".").removesuffix(".unfinished")
        raise ModelError(f"{name} cannot be made ({reason}); check the files that it is made from") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers inside."""
    from transformers.utils import logging

    verbosity, has_progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # The GGUF reader has a progress bar that cannot be switched off.
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_progress_bars:
            logging.enable_progress_bar()
