# SPDX-License-Identifier: Apache-2.0
"""What the package offers by name: it is there, documented, typed, and nothing else is."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import otel_shm

PROJECT = Path(__file__).parent.parent
PUBLIC = sorted(set(otel_shm.__all__) - {"backend"})


def test_all_is_true() -> None:
    """Every name of `__all__` exists, and every public name of the package is in it, sorted."""
    public = {
        name
        for name, value in vars(otel_shm).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(otel_shm.__all__)
    assert otel_shm.__all__ == sorted(otel_shm.__all__)


def test_star_import() -> None:
    """`from otel_shm import *` gives just that."""
    names: dict[str, Any] = {}
    exec("from otel_shm import *", names)
    assert set(names) - {"__builtins__"} == set(otel_shm.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_are_documented(name: str) -> None:
    """Each has a docstring that begins with a sentence, and so do its public methods."""
    thing = getattr(otel_shm, name)
    assert sentence(thing), name
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, property)):
                assert sentence(value), f"{name}.{attribute}"


def sentence(thing: Any) -> bool:
    """Whether it has a docstring whose first paragraph is a sentence."""
    text = inspect.getdoc(thing) or ""
    return re.match(r"[A-Z`].*[.:]$", text.split("\n\n")[0].replace("\n", " ")) is not None


def test_modules_are_documented() -> None:
    """Every module can be imported and says what it is for."""
    for module in pkgutil.iter_modules(otel_shm.__path__, "otel_shm."):
        text = inspect.getdoc(importlib.import_module(module.name))
        assert text or module.name == "otel_shm._core", module.name  # that one is generated


def test_import_says_nothing() -> None:
    """No warning and no output, even where warnings are errors; no thread and no file either."""
    code = (
        "import os, threading; before = set(os.listdir('/proc/self/fd'))\n"
        "import otel_shm; assert set(os.listdir('/proc/self/fd')) == before\n"
        "assert threading.active_count() == 1"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_objects_are_named_after_the_package() -> None:
    """Messages, tracebacks and pickles show the name one imports."""
    for name in ("Counter", "UpDownCounter", "Gauge", "Histogram"):
        assert getattr(otel_shm, name).__name__ == name
        assert getattr(otel_shm, name).__qualname__ == name


def test_version_is_that_of_the_project() -> None:
    """One version, in the package, in pyproject.toml and in what is installed."""
    settings = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r'^version = "(.*)"$', settings, re.MULTILINE)
    assert declared is not None
    assert otel_shm.__version__ == declared[1] == importlib.metadata.version("otel_shm")


def test_errors_have_one_base() -> None:
    """Whoever catches OtelShmError catches all of ours; some are built-in kinds too."""
    errors = [thing for thing in map(vars(otel_shm).get, PUBLIC) if is_error(thing)]
    assert len(errors) >= 5
    assert all(issubclass(error, otel_shm.OtelShmError) for error in errors)
    assert issubclass(otel_shm.BufferPathError, OSError)
    assert issubclass(otel_shm.BufferSizeError, ValueError)


def is_error(thing: Any) -> bool:
    """Whether it is an exception class."""
    return inspect.isclass(thing) and issubclass(thing, BaseException)


def test_package_is_typed() -> None:
    """The marker for type checkers is part of the package."""
    assert (Path(otel_shm.__file__).parent / "py.typed").exists()


def test_entry_point() -> None:
    """OTEL_PYTHON_METER_PROVIDER=otel_shm finds what makes a provider."""
    (entry,) = importlib.metadata.entry_points(
        group="opentelemetry_meter_provider", name="otel_shm"
    )
    assert callable(entry.load())


def test_source_tree_that_is_not_compiled(tmp_path: Path) -> None:
    """Found before the installed package, as gunicorn does in a clone, it says what to do."""
    (tmp_path / "otel_shm").mkdir()
    shutil.copy(otel_shm.__file__, tmp_path / "otel_shm")
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import otel_shm"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert f"otel_shm is not compiled in '{tmp_path}/otel_shm'" in done.stderr
    assert "start in another directory" in done.stderr
