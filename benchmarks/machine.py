# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on: machine, Python and packages."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("otel_shm", "opentelemetry-sdk", "prometheus_client", "cffi")


def describe() -> dict[str, str]:
    """Facts by name, ready for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python build": _python_build(),
        **{package: _version(package) for package in PACKAGES},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _python_build() -> str:
    """How it was compiled matters by tens of per cent, and so does a missing GIL."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    parts = [platform.python_compiler()]
    parts.append("PGO" if "--enable-optimizations" in arguments else "no PGO")
    parts.append("LTO" if "--with-lto" in arguments else "no LTO")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        parts.append("no GIL")
    return ", ".join(parts)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
