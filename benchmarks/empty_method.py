# SPDX-License-Identifier: Apache-2.0
"""The cheapest calls there are: methods that do nothing, in C and in Python."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shlex
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")


class Instrument:
    """An instrument in Python that does nothing."""

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Do nothing."""

    def set(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Do nothing."""

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Do nothing."""


def compile_c(folder: Path) -> ModuleType:
    """Compile `empty_method.c` into `folder`, with this Python's own compiler, and import it."""
    target = folder / f"empty_method{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [
        *shlex.split(sysconfig.get_config_var("LDSHARED")),
        *shlex.split(sysconfig.get_config_var("CCSHARED") or ""),
        "-O2",
        f"-I{sysconfig.get_path('include')}",
        str(SOURCE),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    loader = importlib.machinery.ExtensionFileLoader("empty_method", str(target))
    spec = importlib.util.spec_from_loader("empty_method", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
