"""Healthy and unhealthy: by so many results in a row."""

import pytest

from oxmgr.lifecycle.health import HEALTHY, UNHEALTHY, Health, judge
from oxmgr.model.spec import HealthCheck


@pytest.mark.parametrize(
    ("healthy", "unhealthy", "results", "wanted"),
    [
        (1, 3, "+", [HEALTHY]),
        (1, 3, "---", ["", "", UNHEALTHY]),
        (1, 3, "+--+---", [HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, UNHEALTHY]),
        (2, 3, "+-++", ["", "", "", HEALTHY]),
        (3, 1, "++-+++", ["", "", UNHEALTHY, UNHEALTHY, UNHEALTHY, HEALTHY]),
        (1, 1, "+-+-", [HEALTHY, UNHEALTHY, HEALTHY, UNHEALTHY]),
    ],
)
def test_so_many_in_a_row_decide(healthy: int, unhealthy: int, results: str, wanted: list[str]) -> None:
    check = HealthCheck(tcp="80", healthy_threshold=healthy, unhealthy_threshold=unhealthy)
    health, found = Health(), []
    for result in results:
        health = judge(health, check, result == "+")
        found.append(health.status)
    assert found == wanted


def test_a_row_is_counted_over_what_it_decides() -> None:
    check = HealthCheck(tcp="80", unhealthy_threshold=2)
    health = Health()
    for _ in range(5):
        health = judge(health, check, False)
    assert (health.status, health.row) == (UNHEALTHY, -5)
    assert judge(health, check, True).row == 1
