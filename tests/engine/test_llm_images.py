"""Images through `LLM`: files of any kind to tokens, the same answer alone and beside others, and
what is refused before anything runs.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ridgeline import LLM, SamplingParams
from ridgeline.engine.outputs import RequestOutput
from ridgeline.errors import RequestError
from seeing import BEGIN, END, PLACEHOLDER, TOKENS, picture, seeing_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_model(tmp_path_factory.mktemp("seeing") / "model")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), threads=1, max_rows=4, max_tokens_per_step=32)


def asked(*images: object, text: str = "w1 w2") -> list[dict[str, object]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_an_answer_depends_on_the_image_alone(llm: LLM, folder: Path, tmp_path: Path) -> None:
    first, second = picture(1), picture(2)
    file = tmp_path / "first.png"
    file.write_bytes(first)
    url = f"data:image/png;base64,{base64.b64encode(first).decode()}"
    as_url = [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "w1 w2"},
    ]}]  # fmt: skip
    array = np.asarray(Pillow.open(io.BytesIO(first)))
    alone = [
        said(LLM(str(folder), threads=1).chat(asked(image), GREEDY)[0]) for image in (first, second)
    ]
    assert alone[0] != alone[1]
    many = [asked(first), asked(second), asked(file), as_url, asked(array), asked(second)]
    found = [said(output) for output in llm.chat(many, GREEDY)]
    assert found == [alone[i] for i in (0, 1, 0, 0, 0, 1)]
    # Cached: the same bits.
    again = llm.chat(asked(first), GREEDY)[0]
    assert said(again) == alone[0]
    assert again.prompt_token_ids.count(PLACEHOLDER) == TOKENS


def said(output: RequestOutput) -> list[dict[int, float]]:
    """The tokens and, since a tiny model says the same of much, how likely they were."""
    (answer,) = output.outputs
    assert answer.logprobs is not None
    return [{i: found.logprob for i, found in each.items()} for each in answer.logprobs]


def test_backends_agree_about_the_prompt(folder: Path, llm: LLM) -> None:
    """NumPy's answers are near enough to the kernels' for a greedy first token."""
    prompt = {"prompt": "w5 <begin> w7 w9 <begin> w3"}
    data = {"multi_modal_data": {"image": [picture(3), picture(4)]}}
    one = SamplingParams(temperature=0.0, max_tokens=1, logprobs=3)
    (fast,) = llm.generate({**prompt, **data}, one)
    (slow,) = LLM(str(folder), backend="reference").generate({**prompt, **data}, one)
    assert fast.prompt_token_ids == slow.prompt_token_ids
    ids = list(fast.prompt_token_ids)
    picture_ids = [BEGIN, *[PLACEHOLDER] * TOKENS, END]
    assert ids == [5, *picture_ids, 7, 9, *picture_ids, 3]
    assert fast.outputs[0].token_ids == slow.outputs[0].token_ids
    # The same as ids with their runs.
    (given,) = llm.generate({"prompt_token_ids": ids, **data}, one)
    assert given.outputs[0].token_ids == fast.outputs[0].token_ids


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"not an image", "is none of PNG"),
        (picture(1)[:200], "cannot be decoded|is none of"),
        ("http://localhost/cat.png", "data: URL"),
        ("data:image/png;base64,!!", "is not base64"),
        ("no/such/file.png", "cannot be read"),
        (3, "is a int, not an image"),
        (np.zeros((4, 4), np.uint8), "must be uint8"),
    ],
)
def test_what_is_no_image_is_refused(llm: LLM, image: object, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        llm.chat(asked(image), GREEDY)
    assert "messages[0].content[0]" in str(caught.value)


def test_an_image_too_large_is_not_decoded(llm: LLM) -> None:
    """A few bytes may say that they are a square of 60,000 pixels."""
    file = io.BytesIO()
    Pillow.new("1", (30_000, 30_000)).save(file, "PNG")
    with pytest.raises(RequestError, match="more than 67108864 pixels"):
        llm.chat(asked(file.getvalue()), GREEDY)


def test_images_and_their_tokens_come_out_even(llm: LLM) -> None:
    with pytest.raises(RequestError, match="have 4 in all"):
        llm.chat(asked(picture(1), text="w1 <begin>"), GREEDY)
    with pytest.raises(RequestError, match="multi_modal_data"):
        llm.generate({"prompt": "w1", "multi_modal_data": {"video": b""}}, GREEDY)


def test_a_model_that_reads_text_says_so(folder: Path, tmp_path: Path) -> None:
    """Without the tower's tensors the model still answers text."""
    blind = tmp_path / "blind"
    shutil.copytree(folder, blind)
    config = json.loads((blind / "config.json").read_text())
    del config["vision_config"]
    (blind / "config.json").write_text(json.dumps(config))
    llm = LLM(str(blind), threads=1)
    with pytest.raises(RequestError, match="reads text, not images"):
        llm.chat(asked(picture(1)), GREEDY)
    assert llm.chat([{"role": "user", "content": "w1 w2"}], GREEDY)[0].outputs[0].token_ids
