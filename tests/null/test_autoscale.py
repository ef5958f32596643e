"""Replicas that come and go: by a rule, after a delay, paid for as long as they are there."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from test_fleet import Linear, ended, state

from ridgeline.cli.main import main
from ridgeline.errors import RequestError
from ridgeline.plan.autoscale import Autoscale, Scaler
from ridgeline.plan.fleet import Failure, Fleet, Outcome
from ridgeline.plan.load import Lengths, Load, poisson, recorded
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Slo, percentile
from ridgeline.plan.traces import Arrival

TIMES = Linear(step=0.01, token=1e-5)
RULE = Autoscale(1, 6, "queue", target=8.0, delay=5.0, interval=1.0, calm=20.0)


def burst() -> Load:
    """Half a minute of little, as long of much, a minute of little."""
    arrivals: list[Arrival] = []
    now = 0.0
    for seconds, rate in ((30, 1.0), (30, 40.0), (60, 1.0)):
        end = now + seconds
        while now < end:
            arrivals.append(Arrival(now, 100, 30))
            now += 1.0 / rate
    return recorded(arrivals)


@cache
def run(rule: Autoscale | None, replicas: int = 6, failures: tuple[Failure, ...] = ()) -> Outcome:
    fleet = Fleet(
        lambda: state(rows=8),
        TIMES,
        replicas=rule.most if rule else replicas,
        autoscale=rule,
        failures=failures,
    )
    return simulate_fleet(fleet, burst(), Slo(ttft=1.0))


def test_a_fleet_follows_its_load() -> None:
    one, all_six, scaled = run(None, 1), run(None, 6), run(RULE)
    assert scaled.scaled is not None
    assert ended(scaled) == scaled.num_requests == one.num_requests
    assert scaled.scaled.starts >= 2
    assert scaled.scaled.stops >= 2
    assert 1 < scaled.scaled.peak <= 6
    late = [percentile(found.tally.ttft, 0.9) for found in (all_six, scaled, one)]
    assert late == sorted(late)
    assert one.tally.num_good < scaled.tally.num_good <= all_six.tally.num_good
    assert scaled.paid_seconds < 0.75 * sum(all_six.up_seconds)
    assert scaled.paid_seconds > scaled.seconds


def test_who_waits_for_a_machine_waits_longer() -> None:
    quick, slow = run(replace(RULE, delay=0.0)), run(replace(RULE, delay=30.0))
    assert percentile(quick.tally.ttft, 0.9) < percentile(slow.tally.ttft, 0.9)
    assert quick.scaled is not None
    assert slow.scaled is not None
    assert quick.scaled.starting_seconds == 0
    assert slow.scaled.starting_seconds == pytest.approx(30.0 * slow.scaled.starts)


def test_a_steady_load_has_a_steady_fleet() -> None:
    load = poisson(20.0, Lengths(100, 100), Lengths(60, 60), 1500, seed=1)
    rule = replace(RULE, calm=60.0)
    found = simulate_fleet(Fleet(lambda: state(rows=8), TIMES, replicas=6, autoscale=rule), load)
    assert found.scaled is not None
    # As many as the rule says: requests in the system (Little), eight a replica; and as many more
    # as chance asks for within a minute.
    wanted = 20.0 * sum(found.tally.e2e) / len(found.tally.e2e) / 8.0
    assert wanted <= found.paid_seconds / found.seconds <= wanted + 2.5
    assert found.scaled.starts <= 6


def test_by_the_first_token_that_is_predicted() -> None:
    rule = replace(RULE, rule="ttft", target=0.2)
    found = run(rule)
    assert found.scaled is not None
    assert found.scaled.starts > 0
    assert found.tally.num_good > run(None, 1).tally.num_good


def test_a_replica_that_is_lost_is_replaced() -> None:
    failures = (Failure(0, 10.0),)
    found = run(RULE, failures=failures)
    assert found.scaled is not None
    assert ended(found) == found.num_requests
    assert found.tally.num_finished == found.num_requests


def test_the_rule_is_the_horizontal_autoscalers() -> None:
    scaler = Scaler(RULE, 6, TIMES, state().limits)
    assert scaler.wanted(0.0, 8.0, 2) == 2
    assert scaler.wanted(1.0, 12.0, 2) == 3
    assert scaler.wanted(2.0, 80.0, 2) == 4  # no more than twice as many at a time
    assert scaler.wanted(10.0, 1.0, 4) == 4  # not before it was calm for a while
    assert scaler.wanted(40.0, 1.0, 4) == 1


@pytest.mark.parametrize(
    "wrong", [{"least": 0}, {"least": 9}, {"rule": "mood"}, {"target": 0.0}, {"delay": -1.0}]
)
def test_rules_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        replace(RULE, **wrong).check()  # type: ignore[arg-type]


SMALL = ["simulate", "llama-3.1-8b", "--on", "h100", "--input", "500", "--output", "50"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    line = [*SMALL, "--rate", "40", "--requests", "400", "--autoscale", "1:4", "--rows", "16"]
    line += ["--scale-on", "queue=8", "--scale-delay", "2s"]
    assert main(line) == 0
    assert "1 to 4 by queue" in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    first = capsys.readouterr().out
    told = json.loads(first)
    scaled = told["autoscaling"]
    assert scaled["starts"] > 0
    assert told["cost"]["gpu_hours"] < scaled["gpu_hours_of_the_most"]
    assert scaled["idle_and_starting_usd"][0] > 0
    assert main([*line, "--json"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--autoscale", "many"], "as 1:8"),
        (["--autoscale", "4:2"], "least to most"),
        (["--autoscale", "1:4", "--scale-on", "mood=3"], "as queue=32"),
        (["--autoscale", "1:4", "--scale-on", "queue=some"], "is not a number"),
        (["--autoscale", "1:4", "--replicas", "3"], "--replicas"),
        (["--autoscale", "2:4", "--disaggregate", "1:3"], "no --disaggregate"),
        (["--scale-on", "ttft=1s"], "belongs to --autoscale"),
        (["--scale-delay", "2s"], "belongs to --autoscale"),
        (["--scale-down-after", "2s"], "belongs to --autoscale"),
        (["--lost", "anew"], "belongs to --fail"),
    ],
)
def test_nonsense_gets_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--rate", "2", "--requests", "10", *words]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert told in said
