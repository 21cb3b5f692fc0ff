# SPDX-License-Identifier: Apache-2.0
"""A configuration file under `opentelemetry-instrument`: its readers and resource, our provider."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launched import APPS, OURS, OURS_IS_SET, PATIENCE, STOCK_IS_SET, over_http, run
from receiver import Receiver  # pytest's `pythonpath` setting points at examples/

pytestmark = pytest.mark.slow

METER_PROVIDER = """
meter_provider:
  readers:
    - periodic:
        interval: 3600000
        exporter:
          otlp_http:
            endpoint: ENDPOINT/v1/metrics
"""
TRACER_PROVIDER = """
tracer_provider:
  processors:
    - batch:
        exporter:
          console: {}
"""
RESOURCE = """
resource:
  attributes:
    - name: service.name
      value: from-the-file
"""


@pytest.fixture
def declare(tmp_path: Path) -> Any:
    """Writes a configuration file. Returns: what has it used."""
    pytest.importorskip("opentelemetry.configuration")
    file = tmp_path / "otel.yaml"

    def write(text: str) -> dict[str, str]:
        file.write_text(f'file_format: "1.0"\n{text}')
        return {"OTEL_CONFIG_FILE": str(file)}

    return write


def about_the_file(errors: str) -> bool:
    """Whether nothing was said but that the file counts and the launcher's options do not."""
    return all("is set; ignoring configurator kwargs" in line for line in errors.splitlines())


@pytest.mark.parametrize("spans", ["", TRACER_PROVIDER], ids=["metrics", "spans and metrics"])
def test_config_file(spans: str, declare: Any) -> None:
    """The file's readers and resource with our provider; the variables about exporters are not read."""
    with Receiver() as receiver:
        file = declare(RESOURCE + METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + spans)
        code, output, errors = run(**OURS, **file, OTEL_METRICS_EXPORTER="console")
    assert (code, output) == (0, OURS_IS_SET)
    assert about_the_file(errors)
    (point,) = receiver.points("hits")
    assert (point.value, point.attributes) == (1, {"route": "/"})
    assert point.resource_attributes["service.name"] == "from-the-file"


def test_config_file_without_asking_for_us(declare: Any) -> None:
    """The SDK's provider, as ever."""
    with Receiver() as receiver:
        file = declare(METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + TRACER_PROVIDER)
        code, output, errors = run(**file)
    assert (code, output) == (0, STOCK_IS_SET)
    assert about_the_file(errors)
    assert receiver.total("hits") == 1


@pytest.mark.parametrize(
    "text",
    ["", TRACER_PROVIDER, "disabled: true\n"],
    ids=["empty", "spans only", "disabled"],
)
def test_config_file_without_metrics(text: str, declare: Any) -> None:
    """A file that wants no metrics gets none, whatever the variables about exporters say."""
    with Receiver() as receiver:
        code, output, _ = run(**OURS, **over_http(receiver), **declare(text))
    assert (code, output) == (0, "opentelemetry.metrics._internal\n")  # the API's, never set
    assert receiver.requests == []


def test_configured_by_code(declare: Any) -> None:
    """`configure_sdk` called by the program itself, without `opentelemetry-instrument`."""
    with Receiver() as receiver:
        text = METER_PROVIDER.replace("ENDPOINT", receiver.endpoint) + TRACER_PROVIDER
        (file,) = declare(text).values()
        code = (
            "from opentelemetry.configuration import configure_sdk, load_config_file\n"
            f"configure_sdk(load_config_file({file!r}))\n"
            f"import runpy; runpy.run_path({str(APPS / 'counting.py')!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **OURS},
            input="",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, OURS_IS_SET, "")
    assert len(receiver.points("hits")) == 1
