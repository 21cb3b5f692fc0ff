# SPDX-License-Identifier: Apache-2.0
"""Which SDK is installed: we behave as the newest does, so only that one can be compared with."""

from __future__ import annotations

import importlib.metadata

import pytest

SDK = tuple(int(part) for part in importlib.metadata.version("opentelemetry-sdk").split(".")[:2])

todays_sdk = pytest.mark.skipif(SDK < (1, 45), reason="compares with what the SDK does since 1.45")
