"""Images of any size through `LLM`: as many tokens as they have cells, the same bits alone, beside
others, in chunks that end within them, preempted and after prefix hits; and what is refused.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ridgeline import LLM, SamplingParams
from ridgeline.engine.outputs import RequestOutput
from ridgeline.errors import ModelError, RequestError
from seeing import GRID_KINDS, ON_GRID, PLACEHOLDER, seeing_model

LONG = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module", params=GRID_KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_model(tmp_path_factory.mktemp("seeing") / "model", request.param)


def image(seed: int, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def asked(*images: bytes, text: str = "w1 w2") -> list[dict[str, object]]:
    parts = [{"type": "image", "image": each} for each in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def said(output: RequestOutput) -> tuple[list[int], list[float]]:
    """The answer and its log probabilities, to the bit."""
    (answer,) = output.outputs
    assert answer.logprobs is not None
    return answer.token_ids, [pair.logprob for each in answer.logprobs for pair in each.values()]


MANY = [
    asked(image(1, 47, 31)),  # 6 x 4 cells
    asked(image(2, 47, 31)),
    asked(image(1, 31, 47)),  # 4 x 6, the same numbers
    asked(image(3, 200, 90), image(4, 8, 8)),  # made 8 x 4 cells at most of 40; one cell
    asked(image(1, 47, 31), image(2, 47, 31), text="w5 w6 w7"),
    [{"role": "user", "content": "w3 w4 w5"}],
]


def test_tokens_are_cells(folder: Path) -> None:
    llm = LLM(str(folder), threads=1)
    counts = [
        llm.chat(conversation, LONG)[0].prompt_token_ids.count(PLACEHOLDER) for conversation in MANY
    ]
    assert counts[:3] == [24, 24, 24]
    assert counts[3] == 36 + 1  # 9 x 4
    assert counts[4:] == [48, 0]


def test_the_same_bits_whatever_runs_beside(folder: Path) -> None:
    alone = [said(LLM(str(folder), threads=1).chat(one, LONG)[0]) for one in MANY]
    assert len({tuple(numbers) for _, numbers in alone}) == len(MANY)
    for steps, rows, memory in ((512, 8, None), (16, 4, None), (7, 3, None), (32, 4, 7 << 14)):
        llm = LLM(str(folder), threads=2, max_rows=rows, max_tokens_per_step=steps, memory=memory)
        assert [said(output) for output in llm.chat(MANY, LONG)] == alone
        # Cached, in another order.
        assert [said(output) for output in llm.chat(MANY[::-1], LONG)] == alone[::-1]


def test_a_prefix_hit_goes_on_at_the_right_position(folder: Path) -> None:
    """The answer to a conversation whose first turn, image and all, is cached."""
    first = asked(image(1, 47, 31), text="w1 " * 20)
    turns = [*first, {"role": "assistant", "content": "w7 w8"}, {"role": "user", "content": "w9"}]
    cold = said(LLM(str(folder), threads=1).chat(turns, LONG)[0])
    llm = LLM(str(folder), threads=1)
    llm.chat(first, LONG)
    warm = llm.chat(turns, LONG)[0]
    assert warm.num_cached_tokens >= 32
    assert said(warm) == cold


def test_several_answers_of_one_prompt(folder: Path) -> None:
    llm = LLM(str(folder), threads=1)
    params = SamplingParams(temperature=1.0, n=3, seed=5, max_tokens=12, logprobs=0)
    (together,) = llm.chat(MANY[0], params)
    (again,) = LLM(str(folder), threads=1, max_tokens_per_step=9, max_rows=2).chat(MANY[0], params)
    assert [o.token_ids for o in together.outputs] == [o.token_ids for o in again.outputs]


def test_generate_takes_a_text_with_a_place_for_each(folder: Path) -> None:
    llm = LLM(str(folder), threads=1)
    prompt = {"prompt": f"w1 {ON_GRID} w2", "multi_modal_data": {"image": image(1, 47, 31)}}
    output = llm.generate(prompt, LONG)[0]
    assert output.prompt_token_ids.count(PLACEHOLDER) == 24
    by_ids = {"prompt_token_ids": output.prompt_token_ids}
    only_ids = {**by_ids, "multi_modal_data": prompt["multi_modal_data"]}
    assert said(llm.generate(only_ids, LONG)[0]) == said(output)
    twice = [*output.prompt_token_ids, *output.prompt_token_ids]
    with pytest.raises(RequestError, match="48 tokens that stand for images; 1 images have 24"):
        llm.generate({"prompt_token_ids": twice, "multi_modal_data": prompt["multi_modal_data"]})


def test_what_cannot_be_seen_is_refused(folder: Path, tmp_path: Path) -> None:
    llm = LLM(str(folder), threads=1)
    with pytest.raises(RequestError, match="one side may be 200 times the other"):
        llm.chat(asked(image(1, 402, 2)), LONG)
    with pytest.raises(RequestError, match="is none of PNG"):
        llm.chat(asked(b"no image"), LONG)
    with pytest.raises(RequestError, match="images"):
        llm.chat(asked(image(1, 16, 16), text="w1 <soft>"), LONG)
    url = {"type": "image_url", "image_url": {"url": "http://localhost/cat.png"}}
    with pytest.raises(RequestError, match="must be a data: URL"):
        llm.chat([{"role": "user", "content": [url]}], LONG)
    # Said of a file, before a weight is packed.
    changes: tuple[tuple[str, str, object, str], ...] = (
        ("preprocessor_config.json", "patch_size", 5, "patch_size = 5: the model's config has 4"),
        ("preprocessor_config.json", "image_std", [0, 1, 1], "image_std = .*has a 0"),
        ("preprocessor_config.json", "max_pixels", 1, "min_pixels = 64: is above max_pixels = 1"),
        ("config.json", "vision_config.num_heads", 5, "num_heads = 5"),
        ("config.json", "vision_config.depth", 5, "blocks.4"),
        ("config.json", "vision_config.spatial_merge_size", 0, "spatial_merge_size = 0"),
        ("config.json", "rope_scaling", None, "mrope_section"),
    )
    for number, (name, field, value, message) in enumerate(changes):
        bad = tmp_path / str(number)
        shutil.copytree(folder, bad)
        values = json.loads((bad / name).read_text())
        *sections, key = field.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[key] = value
        (bad / name).write_text(json.dumps(values))
        with pytest.raises(ModelError, match=message):
            LLM(str(bad), threads=1)
