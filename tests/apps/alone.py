# SPDX-License-Identifier: Apache-2.0
"""The WSGI service where uWSGI's own Python package is not installed."""

from __future__ import annotations

import sys

sys.modules["uwsgidecorators"] = None  # type: ignore[assignment]  # an import says it is not there

from web import app  # noqa: E402

__all__ = ["app"]
