"""The short form of `make campaign`."""

from tests.conftest import Home
from tests.faults import deaths


def test_deaths_and_failures_lose_no_line_and_start_nobody_twice(empty_home: Home) -> None:
    empty_home.guarded = True
    campaign = deaths.run(empty_home, seconds=60.0, seed=7)
    assert campaign.counts["rounds"] > 10 and campaign.counts["lines"] > 1000
