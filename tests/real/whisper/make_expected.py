"""Make the spoken clips, and expected.json: what transformers hears in them with the same weights.

    python tests/real/whisper/make_expected.py FOLDER_OF_THE_MODEL

Needs torch, transformers and this package's sources; clips that are not there are spoken by
espeak-ng. The tests need none of these. transformers is given the features that it makes itself,
float32 weights, and is greedy; a sound of several windows is given whole, with the silence behind
it and a mask that leaves that out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path += [str(ROOT / "src"), str(HERE)]

from clips import CLIPS, SOUNDS, sound_of  # noqa: E402

from ridgeline.model.weights.checkpoint import open_checkpoint  # noqa: E402


def speak() -> None:
    for name, (voice, text) in CLIPS.items():
        path = HERE / f"{name}.wav"
        if path.exists():
            continue
        raw = HERE / "spoken.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", str(raw), text], check=True)
        data = raw.read_bytes()
        samples = np.frombuffer(data[44:], "<i2").astype(np.float64)
        raw.unlink()
        half = (samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1)).astype("<i2")
        body = half.tobytes()
        head = b"RIFF" + (36 + len(body)).to_bytes(4, "little") + b"WAVEfmt "
        head += (16).to_bytes(4, "little") + bytes([1, 0, 1, 0])
        head += (11025).to_bytes(4, "little") + (22050).to_bytes(4, "little") + bytes([2, 0, 16, 0])
        path.write_bytes(head + b"data" + len(body).to_bytes(4, "little") + body)


def torch_model(folder: Path) -> tuple[WhisperForConditionalGeneration, dict[str, Any]]:
    found = open_checkpoint(folder)
    read = {name: torch.from_numpy(found.read(name)) for name in found.tensors}
    config = found.metadata
    sizes = {k: v for k, v in config.items() if k.startswith(("d_", "num_mel", "max_", "vocab"))}
    sizes |= {k: v for k, v in config.items() if k.startswith(("encoder_", "decoder_"))}
    model = WhisperForConditionalGeneration(
        WhisperConfig(**sizes, decoder_start_token_id=50258, eos_token_id=50257, pad_token_id=50257)
    ).eval()
    state = {
        "model.decoder.embed_tokens.weight": read["decoder.embeddings.weight"],
        "proj_out.weight": read["decoder.embeddings.weight"],
        "model.decoder.embed_positions.weight": read["decoder.position_encodings.encodings"],
        "model.encoder.embed_positions.weight": read["encoder.position_encodings.encodings"],
    }

    def copy(theirs: str, ours: str) -> None:
        for leaf in ("weight", "bias"):
            state[f"model.{theirs}.{leaf}"] = read[f"{ours}.{leaf}"]

    def norm(theirs: str, ours: str) -> None:
        state[f"model.{theirs}.weight"] = read[f"{ours}.layer_norm.gamma"]
        state[f"model.{theirs}.bias"] = read[f"{ours}.layer_norm.beta"]

    def parts(theirs: str, ours: str, names: str) -> None:
        for leaf in ("weight", "bias"):
            pieces = read[f"{ours}.{leaf}"].chunk(len(names))
            for name, piece in zip(names, pieces, strict=True):
                if (name, leaf) != ("k", "bias"):
                    state[f"model.{theirs}.{name}_proj.{leaf}"] = piece
                else:
                    assert not piece.any()

    for conv in ("encoder.conv1", "encoder.conv2"):
        copy(conv, conv)
    for of in ("encoder", "decoder"):
        norm(f"{of}.layer_norm", of)
        for i in range(config[f"{of}_layers"]):  # type: ignore[arg-type]
            theirs, ours = f"{of}.layers.{i}", f"{of}.layer_{i}"
            norm(f"{theirs}.self_attn_layer_norm", f"{ours}.self_attention")
            parts(f"{theirs}.self_attn", f"{ours}.self_attention.linear_0", "qkv")
            copy(f"{theirs}.self_attn.out_proj", f"{ours}.self_attention.linear_1")
            norm(f"{theirs}.final_layer_norm", f"{ours}.ffn")
            copy(f"{theirs}.fc1", f"{ours}.ffn.linear_0")
            copy(f"{theirs}.fc2", f"{ours}.ffn.linear_1")
            if of == "decoder":
                norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}.attention")
                parts(f"{theirs}.encoder_attn", f"{ours}.attention.linear_0", "q")
                parts(f"{theirs}.encoder_attn", f"{ours}.attention.linear_1", "kv")
                copy(f"{theirs}.encoder_attn.out_proj", f"{ours}.attention.linear_2")
    model.load_state_dict(state)
    return model, dict(config)


def generation_config(folder: Path, config: dict[str, Any]) -> GenerationConfig:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    return GenerationConfig(
        decoder_start_token_id=50258,
        eos_token_id=50257,
        pad_token_id=50257,
        bos_token_id=50257,
        is_multilingual=True,
        lang_to_id={name: i for name, i in ids.items() if i in config["lang_ids"]},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        prev_sot_token_id=ids["<|startofprev|>"],
        suppress_tokens=config["suppress_ids"],
        begin_suppress_tokens=config["suppress_ids_begin"],
        max_length=448,
        return_timestamps=False,
    )


def main(folder: Path) -> None:
    from tokenizers import Tokenizer

    speak()
    torch.manual_seed(0)
    model, config = torch_model(folder)
    model.generation_config = generation_config(folder, config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    extract = WhisperFeatureExtractor()
    found: dict[str, Any] = {}
    for name, (parts, options) in SOUNDS.items():
        samples = sound_of(parts)
        padded = np.pad(samples, (0, 480_000))
        features = extract(
            padded, sampling_rate=16_000, truncation=False, return_tensors="pt"
        ).input_features
        mask = torch.zeros(features.shape[::2], dtype=torch.long)
        frames = len(samples) // 160
        mask[:, :frames] = 1
        times = options.get("timestamps", True)
        how: dict[str, Any] = {
            "return_timestamps": times,
            "task": options.get("task", "transcribe"),
            "language": options.get("language"),
            "do_sample": False,
            "num_beams": 1,
        }
        if frames <= 3000:
            features, mask = features[:, :, :3000], mask[:, :3000]
        else:
            how |= {"condition_on_prev_tokens": False, "no_speech_threshold": 0.6}
            how |= {"logprob_threshold": -1.0, "compression_ratio_threshold": 2.4}
            how |= {"temperature": (0.0,), "return_segments": True}
            # It looks at the mask of several sounds only.
            features, mask = features.repeat(2, 1, 1), mask.repeat(2, 1)
        with torch.inference_mode():
            out = model.generate(features, attention_mask=mask, **how)
        tokens = out["sequences"] if isinstance(out, dict) else out
        said = [int(token) for token in tokens[0] if token < 50257]
        found[name] = {"text": tokenizer.decode(said).strip(), "tokens": said}
        if isinstance(out, dict):
            found[name]["segments"] = [
                [round(float(s["start"]), 2), round(float(s["end"]), 2)] for s in out["segments"][0]
            ]
        print(name, found[name]["text"], found[name].get("segments"))
    (HERE / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
