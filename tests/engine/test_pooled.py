"""`LLM.embed`, `.score` and `.classify` on tiny encoders with a WordPiece tokenizer made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders as token_decoders
from tokenizers import models, normalizers, pre_tokenizers, processors

from ridgeline import LLM
from ridgeline.errors import ModelError, RequestError

ENCODERS = Path(__file__).parents[1] / "golden" / "encoders"
SEPARATOR = 127


def write_tokenizer(folder: Path) -> None:
    """Ids below 128: [CLS] is 1, [SEP] 127, letters and their continuations between."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[CLS]", "[UNK]", *letters, *(f"##{c}" for c in letters), "cat", "##s"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))} | {"[SEP]": SEPARATOR}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", SEPARATOR)]
    )
    made.decoder = token_decoders.WordPiece()
    made.save(str(folder / "tokenizer.json"))


def loaded(case: str, folder: Path, **options: object) -> LLM:
    shutil.copytree(ENCODERS / case, folder, dirs_exist_ok=True)
    write_tokenizer(folder)
    return LLM(str(folder), threads=1, **options)


def test_a_cross_encoder_scores_pairs(tmp_path: Path) -> None:
    llm = loaded("bert_pairs", tmp_path)
    assert llm.task == "classify"
    documents = ["a cat", "dogs and cats", "x"]
    together = llm.score("cats", documents)
    assert [o.prompt_token_ids.count(SEPARATOR) for o in together] == [2, 2, 2]
    assert all(o.prompt_token_ids.count(1) == 1 for o in together)
    for document, output in zip(documents, together, strict=True):
        (alone,) = llm.score("cats", document)
        assert alone.outputs.score == output.outputs.score
        # One class: the sigmoid of its logit.
        (raw,) = llm.classify({"prompt_token_ids": output.prompt_token_ids})
        assert raw.outputs.probs == [output.outputs.score]
        assert 0 < output.outputs.score < 1
    assert len({o.outputs.score for o in together}) == 3


def test_segments_make_a_difference(tmp_path: Path) -> None:
    """Without `sep_token_id` a configuration says nothing of pairs, and all is one segment."""
    with_pairs = loaded("bert_pairs", tmp_path / "a").score("cats", ["a cat"])
    shutil.copytree(ENCODERS / "bert_pairs", tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    del config["sep_token_id"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path / "b")
    without = LLM(str(tmp_path / "b"), threads=1).score("cats", ["a cat"])
    assert with_pairs[0].prompt_token_ids == without[0].prompt_token_ids
    assert with_pairs[0].outputs.score != without[0].outputs.score


@pytest.mark.parametrize("case", ["modernbert_classes", "qwen3_classes"])
def test_classes_have_names_and_probabilities(case: str, tmp_path: Path) -> None:
    llm = loaded(case, tmp_path)
    outputs = llm.classify(["cat", "a dog"])
    for output in outputs:
        assert output.outputs.labels == ("calm", "glad", "sad")
        assert sum(output.outputs.probs) == pytest.approx(1)
        assert output.outputs.label == ("calm", "glad", "sad")[int(np.argmax(output.outputs.probs))]
    assert outputs[0].outputs.probs != outputs[1].outputs.probs
    with pytest.raises(RequestError, match="loaded to classify; load it with task='embed'"):
        llm.embed("cat")
    with pytest.raises(RequestError, match="it can classify"):
        LLM(str(tmp_path), task="embed")


def test_a_decoder_embeds_when_asked(tmp_path: Path) -> None:
    llm = loaded("qwen3_embedding", tmp_path, task="embed")
    one, two = llm.embed(["cat", "a dog"])
    assert len(one.outputs.embedding) == 48
    assert np.linalg.norm(two.outputs.embedding) == pytest.approx(1, abs=1e-6)
    (raw,) = llm.embed("cat", normalize=False)
    length = float(np.linalg.norm(raw.outputs.embedding))
    assert np.allclose(np.array(raw.outputs.embedding) / length, one.outputs.embedding, atol=1e-6)
    assert LLM(str(tmp_path), threads=1).task == "generate"


def test_how_tokens_are_pooled_is_the_users_then_the_files(tmp_path: Path) -> None:
    mean, cls = (
        loaded("bert", tmp_path, pooling=pooling).embed("cat")[0].outputs.embedding
        for pooling in ("mean", "cls")
    )
    assert mean != cls
    assert LLM(str(tmp_path), threads=1).embed("cat")[0].outputs.embedding == mean
    stages = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(stages))
    (tmp_path / "1_Pooling.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert LLM(str(tmp_path), threads=1).embed("cat")[0].outputs.embedding == cls
    for wrong, message in (
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not supported"),
        ({}, "no pooling is not supported"),
    ):
        (tmp_path / "1_Pooling.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match=message):
            LLM(str(tmp_path))
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "2_Dense", "type": "x.Dense"}]))
    with pytest.raises(ModelError, match="stage 'Dense' is not supported"):
        LLM(str(tmp_path))
    with pytest.raises(ModelError, match="an encoder pools by one of mean, cls"):
        LLM(str(tmp_path), pooling="max")
    with pytest.raises(RequestError, match="there are: generate, embed, classify"):
        LLM(str(tmp_path), pooling="mean", task="sing")


def test_what_is_refused(tmp_path: Path) -> None:
    llm = loaded("bert", tmp_path)
    with pytest.raises(RequestError, match="has 0 tokens; 1 to 64 are possible"):
        llm.embed({"prompt_token_ids": []})
    with pytest.raises(RequestError, match="whole numbers below 128"):
        llm.embed({"prompt_token_ids": [128]})
    with pytest.raises(RequestError, match="65 tokens; 1 to 64"):
        llm.embed(["cat", {"prompt_token_ids": [5] * 65}])
    (cut,) = llm.embed({"prompt_token_ids": [*range(2, 90)]}, truncate=True)
    assert cut.prompt_token_ids == [*range(2, 65), 89]
    plain = llm.tokenizer.encode("cats zz", add_special=False)
    assert llm.tokenizer.decode(plain) == "cats zz"
