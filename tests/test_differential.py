# SPDX-License-Identifier: Apache-2.0
"""Whatever is done, readers get of our MeterProvider what they get of the SDK's.

But for `comparison.DEVIATIONS`. Hypothesis makes up what is done. To have it try other scripts each time,
and as many as it can in some minutes:

    pytest tests/test_differential.py --hypothesis-profile=long --timeout=0
"""

from __future__ import annotations

from compared import compared
from hypothesis import HealthCheck, given, settings
from scenario_strategies import scenarios
from scenarios import Scenario
from sdk_version import todays_sdk

pytestmark = todays_sdk


@settings(
    max_examples=settings().max_examples * 10,  # 1,000 unless another profile is in use
    report_multiple_bugs=False,  # shrinking one takes long enough
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenarios)
def test_any_script(scenario: Scenario) -> None:
    """Points, their OTLP encoding and what measuring raises are the same, whatever is done."""
    compared(scenario)
