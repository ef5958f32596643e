"""What docs/guide and README.md say in numbers is what their commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ridgeline.cli.main import main

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
LAYOUTS = {
    "together": ["--replicas", "8"],
    "together, paced to 40 ms": ["--replicas", "8", "--itl-target", "40ms"],
    "apart, 6:2": ["--disaggregate", "6:2"],
    "apart, 2:6": ["--disaggregate", "2:6"],
}
SECONDS = {"ms": 1e-3, "s": 1.0}


def told() -> dict[str, list[float]]:
    """Of each layout: the share that is good, and seconds."""
    text = (GUIDE / "disaggregation.md").read_text()
    table = text.split("With 400 requests", 1)[1].split("\n\n", 2)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    found = {}
    for name, good, *times in rows:
        seconds = [float(value) * SECONDS[unit] for value, unit in map(str.split, times)]
        found[name] = [float(good.removesuffix(" %")) / 100, *seconds]
    return found


def test_the_layouts_told_are_those_that_are_run() -> None:
    assert list(told()) == list(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_apart_or_not(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDE / "disaggregation.md").read_text()
    command = re.search(r"^ridgeline (simulate .*) --replicas 8 (.*)$", text, re.MULTILINE)
    assert command is not None
    words = f"{command[1]} {command[2]}".replace("--requests 100", "--requests 400").split()
    assert main([*words, *LAYOUTS[layout], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ttft"]["count"] == 400
    times = [found["ttft"]["p50"], found["tpot"]["p50"], found["itl"]["p99"]]
    # As many digits as are told.
    assert told()[layout] == pytest.approx([found["good_share"], *times], rel=0.01)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("trtllm", r"([\d.]+) % are good under TensorRT"),
        ("sglang:0.5.9", r"([\d.]+) % under SGLang"),
    ],
)
def test_a_paced_layout_under_other_engines(
    engine: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (GUIDE / "disaggregation.md").read_text()
    told_good = re.search(words, text)
    command = re.search(r"^ridgeline (simulate .*) --engine trtllm$", text, re.MULTILINE)
    assert told_good is not None
    assert command is not None
    line = command[1].replace("--requests 100", "--requests 400").split()
    assert main([*line, "--engine", engine, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good_share"] == pytest.approx(float(told_good[1]) / 100, abs=0.001)


def test_the_plan_that_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDE.parents[1] / "README.md").read_text()
    command = re.search(r"^ridgeline (plan .*)$", text, re.MULTILINE)
    assert command is not None
    shown = text[command.end() :].split("```")[2].strip().splitlines()
    assert main(command[1].split()) == 0
    printed = capsys.readouterr().out.splitlines()
    # Sums differ in a last bit from one CPU to the next, and the greatest rate by up to 0.5 %.
    assert [one for one in shown if not any(_is_told_alike(one, other) for other in printed)] == [
        "..."
    ]


NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def _is_told_alike(line: str, other: str) -> bool:
    """The same words, and numbers within a fiftieth: names' and counts' digits are the same."""
    if NUMBER.sub("#", line).split() != NUMBER.sub("#", other).split():
        return False

    def value(digits: str) -> float:
        return float(digits.replace(",", ""))

    pairs = zip(NUMBER.findall(line), NUMBER.findall(other), strict=True)
    return all(abs(value(a) - value(b)) <= 0.02 * value(a) for a, b in pairs)


def test_what_choosing_says_of_deepseek(capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDE / "choosing.md").read_text()
    command = re.search(r"^ridgeline (plan deepseek.* --gpu b200 .*)$", text, re.MULTILINE)
    gaps = re.search(r"`gap p99`, (\d+) ms where a replica that does both has (\d+)", text)
    assert command is not None
    assert gaps is not None
    assert main([*command[1].split(), "--json"]) == 0
    (of,) = json.loads(capsys.readouterr().out)["models"].values()
    apart, both = of["ranked"][:2]
    assert (apart["mesh"], apart["prefill_workers"], apart["decode_workers"]) == ("dp4-ep4", 1, 1)
    assert (both["mesh"], both["prefill_workers"]) == ("dp8-ep8", 0)
    assert [round(1e3 * c["gap_p99"]) for c in (apart, both)] == [int(gaps[1]), int(gaps[2])]
