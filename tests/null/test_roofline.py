"""`ridgeline roofline`: dots under the roof, floors in order, pages that load nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.described import describe
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.canvas import Canvas
from ridgeline.plan.choice import Asked
from ridgeline.plan.degrees import divides
from ridgeline.plan.draw_roofline import characters, html, letters, plotted, svg
from ridgeline.plan.roofline import FLOORS, Roofline, roofline
from ridgeline.plan.search import search
from ridgeline.step import StepShape


@pytest.fixture(scope="module")
def llama() -> Roofline:
    config = load_configuration("llama-3.3-70b").config
    shape = StepShape.decode(64, 4096)
    return roofline("Llama", config, load_accelerator("h200"), shape, step="x", precision="fp8")


def test_dots_are_under_the_roof_and_sum_to_the_step(llama: Roofline) -> None:
    for dot in plotted(llama):
        roof = min(
            dot.intensity * llama.memory_bytes_per_second, llama.peaks.get(dot.arithmetic, 1e99)
        )
        assert dot.flops_per_second <= roof * 1.0001
        assert dot.least_seconds <= dot.seconds
    floor = next(f for f in llama.floors if f.precision == "fp8")
    assert sum(d.seconds for d in llama.dots) + llama.host_seconds == pytest.approx(floor.seconds)
    assert floor.low < floor.seconds < floor.high


@pytest.mark.parametrize("step", [StepShape.decode(1, 1000), StepShape.decode(64, 4096)])
@pytest.mark.parametrize("model", ["deepseek-v3.1", "minimax-m3", "gpt-oss-120b"])
def test_experts_that_no_token_needs_are_not_read(model: str, step: StepShape) -> None:
    """Nor are they below the roof, or beneath the floor."""
    config = load_configuration(model).config
    found = roofline(model, config, load_accelerator("h200"), step, step="x", precision="fp8")
    assert all(dot.least_seconds <= dot.seconds for dot in found.dots if dot.kind == "experts")
    for floor in found.floors:
        assert floor.least_seconds < floor.seconds, floor.precision


def test_the_fewest_ranks_that_fit(llama: Roofline) -> None:
    """64 rows of 4097 tokens at 327,680 bytes a token are 86 GB beside 71 GB of weights."""
    assert llama.mesh.tp == 2
    assert all(f.fits for f in llama.floors if f.precision != "bf16")


def test_floors_by_hand(llama: Roofline) -> None:
    """Smaller weights, lower floor; int4 beneath fp8 by the bytes that are left away."""
    floors = {f.precision: f for f in llama.floors}
    assert list(floors) == list(FLOORS)
    order = [floors[name].least_seconds for name in ("bf16", "fp8", "int4")]
    assert order == sorted(order, reverse=True)
    saved = (floors["bf16"].weight_bytes - floors["fp8"].weight_bytes) / 2 / 4.8e12
    assert order[0] - order[1] == pytest.approx(saved, rel=0.05)
    assert not floors["nvfp4"].native
    assert floors["fp8"].native


def test_the_drawing_has_each_operator_once(llama: Roofline) -> None:
    text = "\n".join(characters(llama))
    drawn = text.replace("TB/s", "").replace("FLOP/s", "").replace("PFLOP", "")
    for letter in list(letters(llama).values())[:5]:
        assert letter in drawn
    assert "4.80 TB/s" in text
    assert "⠒" in text
    assert len({len(line) <= 78 for line in characters(llama)[:-1]}) == 1


def test_a_canvas_keeps_marks_apart() -> None:
    canvas = Canvas(20, 5, left=1, right=100, bottom=1, top=100)
    for letter in "AB":
        canvas.mark(10, 10, letter)
    canvas.line(1, 1, 100, 100)
    canvas.write(100, 100, "end")
    lines = canvas.lines()
    assert "AB" in lines[2]
    assert lines[0].endswith("end")
    assert sum(0x2800 < ord(c) <= 0x28FF for line in lines for c in line) > 10


def test_labels_keep_clear_of_each_other(llama: Roofline) -> None:
    """Peaks of FP8 and INT8 are one height, and many operators one place."""
    drawn = svg(replace(llama, peaks={**llama.peaks, "int8": llama.peaks["fp8"]}))
    labels = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(start|middle|end)">([^<]+)<', drawn
    )
    boxes = []
    for x, y, anchor, text in labels:
        wide = 7.0 * len(text)
        left = float(x) - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        boxes.append((left, left + wide, float(y) - 13.0, float(y), text))
    assert len(boxes) > 6
    assert {"fp8", "int8"} <= {text.split()[0] for *_, text in boxes}
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = a[1] <= b[0] + 0.2 or b[1] <= a[0] + 0.2 or a[3] <= b[2] + 0.2
            assert apart or b[3] <= a[2] + 0.2, (a, b)


def test_heads_that_do_not_part_are_not_laid_out() -> None:
    heads = describe(load_configuration("qwen2.5-7b").config, "bf16").graph
    assert [n for n in (1, 2, 3, 4, 7, 8, 14, 28) if divides(heads, n)] == [1, 2, 4, 28]
    asked = Asked(500, 100, 8, precisions=("bf16",), kv=("bf16",))
    config = load_configuration("qwen2.5-7b").config
    ranked = search(config, [load_accelerator("h100")], asked).ranked
    assert {c.deployment.mesh.tp for c in ranked} == {1, 2, 4}


def test_one_page_that_loads_nothing(llama: Roofline) -> None:
    page = html(llama)
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    for outside in ("http:", "https:", "<script", "src=", "@import", "url("):
        assert outside not in page
    assert "attn.attend" in page


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "roof.html"
    words = ["roofline", "deepseek-v3.1", "--on", "gb200", "--precision", "nvfp4", "--kv", "fp8"]
    assert main([*words, "--step", "prefill:2048", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    for part in ("moe.experts", "on 4 x NVIDIA GB200", "nvfp4 *", "80 % interval"):
        assert part in shown
    assert "moe.experts" in page.read_text()
    assert main([*words, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["ranks"], fields["tokens"]) == (4, 64)
    assert {f["precision"] for f in fields["floors"]} == set(FLOORS)
    assert main(["roofline", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "gb200-nvl72" in listed
    assert "mi355x" in listed


def test_the_host_is_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    """Below 512 tokens vLLM launches a prompt's step as pieces of graphs, TensorRT-LLM does not."""
    words = ["roofline", "llama-3.1-8b", "--on", "h100", "--step", "prefill:256", "--json"]
    found = {}
    for engine in ("vllm", "trtllm", "sglang:0.5.9", "sglang:0.5.10"):
        assert main([*words, "--engine", engine]) == 0
        fields = json.loads(capsys.readouterr().out)
        assert fields["engine"] == engine
        found[engine] = fields["host_seconds"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["host_seconds"] == found["vllm"]
    assert found["trtllm"] > 2 * found["vllm"]
    assert found["sglang:0.5.9"] > 2 * found["sglang:0.5.10"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["llama-3.3-70b", "--on", "h20O"], "nearest: h200"),
        (["llama-3.4-70b"], "llama-3.3-70b-instruct"),
        (["llama-3.1-405b", "--on", "l4"], "needs 949 GB on 1 x l4"),
        (["llama-3.3-70b", "--precision", "fp3"], "there are: bf16, fp8"),
        (["llama-3.3-70b", "--kv", "fp3"], "there are: bf16"),
        (["llama-3.3-70b", "--engine", "tgi"], "there are: trtllm, vllm, sglang"),
        (["llama-3.3-70b", "--step", "decode:x"], "no step"),
        (["llama-3.3-70b", "--tp", "0"], "not 1 to 1024"),
        (
            ["llama-3.3-70b", "--tp", "7"],
            "64 heads of llama evenly; these do: 1, 2, 4, 8, 16, 32, 64",
        ),
        (["llama-3.3-70b", "--tp", "3"], "do not part"),
        (["llama-3.3-70b", "--on", "v100"], "say how much memory it has, as v100:32GB"),
        (["llama-3.3-70b", "--on", "v100:lots"], "no size of memory"),
        (["llama-3.3-70b", "--html", "/nowhere/x.html"], "cannot be written"),
        ([], "say which"),
    ],
)
def test_nonsense_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["roofline", *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
