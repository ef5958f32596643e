"""`ridgeline inspect`: its JSON, its tables, its steps and its refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli.inspect import MAX_ROWS, parse_step
from ridgeline.cli.main import main
from ridgeline.errors import RequestError
from ridgeline.step import StepShape

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "published_models.json").read_text()
)
GOLDEN = Path(__file__).parent.parent / "golden"

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def command(*arguments: object, code: int = 0) -> str:
        words = ["--cache-dir", str(tmp_path), "--offline", "inspect", *map(str, arguments)]
        assert main(words) == code
        captured = capsys.readouterr()
        if code:
            assert captured.out == ""
            assert len(captured.err.splitlines()) == 1
            return captured.err
        return captured.out

    return command


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_bare_configuration_is_enough(name: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED[name]["config"]))
    for argument in (path, tmp_path):
        found = json.loads(run(argument, "--json", "--step", "prefill:512"))
        assert found["architecture"] == PUBLISHED[name]["config"]["architectures"][0]
        published = PUBLISHED[name]["published_parameters"]
        assert found["parameters"] == pytest.approx(published, rel=0.0125)
        assert found["active_parameters"] == found["parameters"]
        assert found["kv_bytes_per_token"] == PUBLISHED[name]["kv_bytes_per_token"]
        assert found["weight_bytes_by_format"] == {"BF16": 2 * found["parameters"]} or (
            PUBLISHED[name]["config"].get("torch_dtype") == "float16"
        )
        assert found["step"] == "prefill:512"


def test_operators_add_up_to_the_total(run: Run) -> None:
    found = json.loads(run(GOLDEN / "gemma3" / "model.gguf", "--json", "--step", "decode:8@100"))
    assert found["architecture"] == "gemma3"
    for field in ("flops", "weight_bytes", "kv_read_bytes", "kv_write_bytes", "activation_bytes"):
        assert sum(row[field] for row in found["operators"]) == pytest.approx(
            found["total"][field], abs=len(found["operators"])
        )
    by_name = {(row["name"], row["window"]): row for row in found["operators"]}
    assert by_name["layers.*.attn.attend", 12]["count"] == 5
    assert by_name["layers.*.attn.attend", None]["count"] == 1
    head = by_name["head", None]
    assert head["flops"] == 2 * 8 * found["width"] * found["vocabulary"]
    assert head["intensity"] == pytest.approx(head["flops"] / head["bytes"], abs=1e-4)
    assert found["heads"] == [2]
    assert found["layers"] == 6


def test_the_default_step_fits_the_context(run: Run) -> None:
    assert json.loads(run(GOLDEN / "llama2", "--json"))["step"] == "decode:1@511"
    assert json.loads(run(GOLDEN / "llama3", "--json"))["step"] == "decode:1@1023"


def test_tables_name_everything_and_cut_nothing(run: Run) -> None:
    text = run(GOLDEN / "gemma3", "--step", "prefill:2x16", "--graph")
    for expected in (
        "Gemma3ForCausalLM",
        "102,240",
        "one step: prefill:2x16",
        "rope_kv_write ≤12",
        "FLOP/B",
        "gemma3: ",
        "layer 5",
    ):
        assert expected in text
    assert "…" not in text


def test_a_name_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]\x1b[31mred"
    shutil.copytree(GOLDEN / "llama2", folder)
    text = run(folder)
    assert "[bold]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("prefill:512", StepShape.prefill(512)),
        ("prefill:4x7", StepShape.prefill(7, 4)),
        ("decode:8@2048", StepShape.decode(8, 2048)),
        ("decode:1@0", StepShape.decode(1, 0)),
    ],
)
def test_steps(text: str, step: StepShape) -> None:
    assert parse_step(text) == step


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prefill",
        "prefill:",
        "prefill:0",
        "prefill:-1",
        "prefill:8@512",
        "prefill:4x",
        "decode:8",
        "decode:8x512",
        "decode:0@5",
        "decode:@5",
        "decode:1@1.5",
        f"decode:{MAX_ROWS + 1}@5",
        "prefill:" + "9" * 5000,
        "decode:٣@5",
        "train:1",
    ],
)
def test_a_step_that_is_none_is_one_line_with_examples(text: str, run: Run) -> None:
    with pytest.raises(RequestError, match=r"decode:8@2048"):
        parse_step(text)
    message = run(GOLDEN / "llama2", f"--step={text}", code=2)
    assert "prefill:512" in message


def test_a_step_beyond_the_context_says_what_there_is(run: Run) -> None:
    message = run(GOLDEN / "llama2", "--step", "decode:1@512", code=2)
    assert "decode:1@512 needs 513 positions; llama2 has 512" in message


def test_refusals_are_one_line(run: Run, tmp_path: Path) -> None:
    assert "no file or folder" in run(tmp_path / "nothing.json", code=2)
    path = tmp_path / "config.json"
    for text, expected in (
        ("{", "not valid JSON"),
        ("{}", "architectures = None"),
        ('{"architectures": ["RetNetForCausalLM"]}', "'RetNetForCausalLM' is not supported"),
        (json.dumps(PUBLISHED["Qwen/Qwen3-8B"]["config"] | {"hidden_size": -1}), "hidden_size"),
    ):
        path.write_text(text)
        assert expected in run(path, code=2)


def test_smollm2(run: Run, smollm2_path: Path) -> None:
    found = json.loads(run(smollm2_path, "--json", "--step", "decode:1@1024"))
    assert found["parameters"] == 134_515_008
    assert found["kv_bytes_per_token"] == 30 * 2 * 3 * 64 * 2
    assert found["kv_format"] == "bf16"
    coded = json.loads(run(smollm2_path, "--json", "--kv-format", "int8"))
    assert (coded["kv_format"], coded["kv_bytes_per_token"]) == ("int8", 30 * 2 * 3 * (64 + 4))
    assert "there are: bf16, f16, int8, f32" in run(smollm2_path, "--kv-format", "q3", code=2)
    assert "12.2 KB as int8" in run(smollm2_path, "--kv-format", "int8")
    assert set(found["weight_bytes_by_format"]) == {"Q8_0", "Q4_1", "F32"}
    assert found["total"]["weight_bytes"] == pytest.approx(96.6e6, rel=0.01)


def test_a_rows_cache_is_told_by_window(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(PUBLISHED["google/gemma-3-270m"]["config"]), encoding="utf-8")
    found = json.loads(run(config, "--json"))["kv_bytes_of_a_row"]
    layer = 2 * 256 * 2  # keys and values of one head, 2 bytes a number
    full, windowed = 3 * layer * 32768, 15 * layer * 512
    assert found == {
        "context": 32768,
        "total": full + windowed,
        "by_window": {"none": full, "512": windowed},
    }
    text = " ".join(run(config).split())
    assert "KV of a row 109 MB at 32,768 tokens; 7.86 MB of it in windows of 512" in text
