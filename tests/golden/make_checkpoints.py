"""Make the golden checkpoints: tiny random models, their GGUF twins, and transformers' logits.

    python tests/golden/make_checkpoints.py [--out DIR] [--float32-gguf DIR] [CASE ...]

Needs torch, transformers, safetensors and gguf (README.md here has the versions); the tests that
read the goldens need none of these. For each case it writes to DIR/CASE

    config.json        as the model's authors publish it
    model.safetensors  every weight; each value is representable in BF16 and in F16
    model.gguf         the same weights under GGUF's names and conventions, where there is a twin
    expected.npz       token_ids int32 [tokens], logits float32 [tokens, vocab]; LongRoPE also
                       has short_token_ids and short_logits

The weights come from NumPy's PCG64 seeded by the case's and the tensor's name, so they do not
depend on torch. The logits are float32 arithmetic of one thread, with eager attention: bit-equal
on another run of the same versions on the same kind of CPU, and within float32 rounding elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rwkv7_oracle
import torch
import v4_modules
from cases import CASES, PROMPT_TOKENS, VOCAB, Case
from gguf_twin import F32, write_gguf
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# Families that norm with 1 + w.
_ONE_PLUS_WEIGHT = (
    *("gemma3_text", "gemma", "gemma2", "nemotron"),
    "recurrent_gemma",
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "step3p7", "minimax_m3_vl"),
)
# Known to transformers with what sees only.
_SEEING = ("step3p7", "minimax_m3_vl", "qwen2_5_vl", "qwen3_vl")
# What sees is not in the goldens of text.
_TOWER = re.compile(
    r"(model\.)?(vision_model|vision_tower|vit_large_projector|multi_modal_projector"
    r"|patch_merge_mlp|visual)\."
)
_CAPPED = ("step3p7", "minimax_m3_vl", "deepseek_v4")
# Tensors of modules of multi-token prediction; of these models' layers, two or three.
PREDICTOR = re.compile(
    r"mtp\.|model\.layers\.\d+\.(enorm|hnorm|eh_proj|shared_head|embed_tokens)|model\.layers\.[23]\."
)
NORM = re.compile(r"(layer_norm|\.ln_\w|layernorm_\d)\.weight$|router\.scale$|per_expert_scale$")
QWEN_PREDICTOR_NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
# Buffers that transformers saves and a configuration gives: a golden file has the weights alone.
BUFFERS = re.compile(r"\.(slope_rate|query_decay|key_decay|diagonal_decay)$")
# Of xIELU, what is not learned.
XIELU = {"act_fn.beta": 0.5, "act_fn.eps": -1e-6}
PREDICTOR_COPIES = {
    "embed_tokens.weight": "model.embed_tokens.weight",
    "shared_head.head.weight": "lm_head.weight",
}
TABLE = "tid2eid"  # of experts' numbers, by token id
_SMALLEST = 2.0**-14  # F16's smallest normal number: below it BF16 values are not exact in F16


def _generator(*names: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(names).encode())))


def random_weight(case: Case, name: str, shape: tuple[int, ...]) -> F32:
    """Values that exercise the model: attention that is not flat, norms that are not ones.

    Rounded to BF16, and to zero below F16's normal range, so that every file type stores them
    exactly.
    """
    drawn = (str(case.draw),) if case.draw else ()
    for constant, value in XIELU.items():
        if name.endswith(constant):
            return torch.full(shape, value).bfloat16().float().numpy()
    noise = _generator(case.name, *drawn, name).standard_normal(shape)
    if name.endswith(TABLE):
        count = case.config["n_routed_experts"]
        drawn_experts = _generator(case.name, name).permuted(
            np.tile(np.arange(count), (shape[0], 1)), axis=1
        )
        return drawn_experts[:, : shape[1]].astype(np.float32)
    if name.endswith("norm.weight"):
        centre = 0.0 if case.config["model_type"] in _ONE_PLUS_WEIGHT else 1.0
        values = centre + 0.3 * noise
    elif re.search(r"attn\.x_\w$|attn\.k_\w$|ffn\.x_k$", name):
        values = 0.6 + 0.3 * noise  # RWKV-7's mixes, and what its keys are multiplied by
    elif name.endswith("A_log"):
        values = 1.0 + 0.5 * noise  # rates of decay from 1 to 7
    elif name.endswith((".bias", "dt_bias", "gate_bias")):
        values = 0.3 * noise
    elif name.endswith((".D", "norm_f.weight", "layernorm.weight")) or NORM.search(name):
        values = 1.0 + 0.3 * noise
    elif "embed" in name:
        values = 0.5 * noise
    elif case.config["model_type"] in _CAPPED and re.search(
        r"(gate|up)_proj|ffn\..*\.w[13]\.", name
    ):
        values = 8.0 / np.sqrt(shape[-1]) * noise  # so large that caps and clamps are felt
    elif any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "lm_head")):
        values = 1.6 / np.sqrt(shape[-1]) * noise
    else:
        values = 1.0 / np.sqrt(shape[-1]) * noise
    rounded: F32 = torch.from_numpy(values.astype(np.float32)).bfloat16().float().numpy()
    return np.where(np.abs(rounded) < _SMALLEST, np.float32(0), rounded)


def kind_of(case: Case) -> Any:
    """The class that makes the oracle's model."""
    seeing = case.config["model_type"] in _SEEING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def weight_shapes(folder: Path, case: Case) -> dict[str, tuple[int, ...]]:
    """Names and shapes as transformers saves them, without a tied output matrix, and as they are
    published where it reads both names and writes the other.
    """
    if case.config["model_type"] == "rwkv7":
        return rwkv7_oracle.shapes(case.config)
    model = kind_of(case).from_config(AutoConfig.from_pretrained(folder))
    with TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    shapes = {as_published(name, case): tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not _TOWER.match(name) and not BUFFERS.search(name)
    }
    if case.config["tie_word_embeddings"]:
        shapes.pop("lm_head.weight", None)
    return dict(sorted(shapes.items()))


def as_published(name: str, case: Case) -> str:
    """Of Kimi an MLP among mixtures, of DeepSeek V4 nearly all."""
    if case.config["model_type"] == "deepseek_v4":
        name = name.removeprefix("model.").replace("hc_head.hc_", "hc_head_")
        return name.replace("embed_tokens", "embed").replace(".attn.norm.", ".attn.kv_norm.")
    return re.sub(r"block_sparse_moe\.(\w+_proj)", r"mlp.\1", name)


def predictor_shapes(case: Case, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the modules of multi-token prediction, as they are published: each is the
    model's last layer and what joins; DeepSeek's and GLM's have copies of embedding and output.
    """
    if not case.predictors:
        return {}
    last, width = case.config["num_hidden_layers"] - 1, case.config["hidden_size"]
    own_root = "" if case.config["model_type"] == "deepseek_v4" else "model."
    layer, found = f"{own_root}layers.{last}.", {}
    for k in range(case.predictors):
        own = {name.removeprefix(layer): s for name, s in shapes.items() if name.startswith(layer)}
        if case.config["model_type"] == "deepseek_v4":
            own = {name: s for name, s in own.items() if "compressor" not in name}  # a window
            own = {name: s for name, s in own.items() if "indexer" not in name}
            own |= {f"{norm}.weight": (width,) for norm in ("enorm", "hnorm", "norm")}
            own |= {f"{joins}_proj.weight": (width, width) for joins in "eh"}
            own |= {name: s for name, s in shapes.items() if name.startswith("hc_head_")}
            found |= {f"mtp.{k}.{name}": shape for name, shape in own.items()}
            continue
        if case.config["model_type"] == "qwen3_next":
            found |= {f"mtp.layers.{k}.{name}": shape for name, shape in own.items()}
            found |= {f"mtp.{n}.weight": (width,) for n in QWEN_PREDICTOR_NORMS}
            found["mtp.fc.weight"] = (width, 2 * width)
            continue
        own |= {f"{norm}.weight": (width,) for norm in ("enorm", "hnorm", "shared_head.norm")}
        own |= {"eh_proj.weight": (width, 2 * width)}
        own |= dict.fromkeys(PREDICTOR_COPIES, (VOCAB, width))
        found |= {f"model.layers.{last + 1 + k}.{name}": shape for name, shape in own.items()}
    return dict(sorted(found.items()))


def predicted_logits(model: Any, case: Case, token_ids: NDArray[np.int32]) -> dict[str, F32]:
    """Of each module of multi-token prediction its logits [tokens - 1 - k, vocab] where the true
    tokens come: module k at position i sees the hidden state that the model, or the module before,
    gave there and token i + 1 + k.
    """
    if case.config["model_type"] == "qwen3_next":  # not known to transformers of it
        model.config.num_mtp_layers, model.config.mtp_layer_types = 1, ["full_attention"]
    else:
        first = case.config["num_hidden_layers"]
        numbers = "|".join(str(first + k) for k in range(case.predictors))
        model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.({numbers})\..*"]
    modules = MtpModel.from_pretrained(model).eval()
    ids = torch.from_numpy(token_ids).long()[None]
    cache = MtpCache(config=model.config.get_mtp_config())
    found = {}
    with torch.inference_mode():
        hidden = model.model(ids).last_hidden_state
        for k in range(case.predictors):
            count = ids.shape[1] - 1 - k
            positions = torch.arange(1 + k, ids.shape[1])[None]
            hidden = modules.forward_layer(
                k, hidden[:, :count], positions, cache, input_ids=ids[:, 1 + k :]
            )
            found[f"predicted_{k}"] = modules._project_to_logits(hidden)[0].numpy()
    return found


def oracle_logits(folder: Path, token_ids: NDArray[np.int32], case: Case) -> dict[str, F32]:
    """transformers' logits [tokens, vocab], computed in float32 from the stored weights; and those
    of the modules of multi-token prediction.
    """
    model, info = kind_of(case).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if case.predictors:
        info["unexpected_keys"] = [
            name for name in info["unexpected_keys"] if not PREDICTOR.match(name)
        ]
    info["missing_keys"] = [
        name for name in info["missing_keys"] if not _TOWER.match(name) and not BUFFERS.search(name)
    ]
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:
        raise ValueError(f"{folder.name}: transformers did not take every weight: {wrong}")
    with torch.inference_mode():
        logits: F32 = model.eval()(torch.from_numpy(token_ids).long()[None]).logits[0].numpy()
    if logits.dtype != np.float32 or not np.isfinite(logits).all():
        raise ValueError(f"{folder.name}: the oracle's logits are not finite float32")
    predicted = {}
    if case.predictors and case.config["model_type"] == "deepseek_v4":
        predicted = v4_modules.predicted_logits(model, folder, case.predictors, token_ids)
    elif case.predictors:
        predicted = predicted_logits(model, case, token_ids)
    return {"logits": logits} | predicted


def make(case: Case, out: Path, float32_gguf: Path | None) -> None:
    """Write one case's folder anew."""
    folder = out / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config, indent=1) + "\n")
    shapes = weight_shapes(folder, case)
    shapes |= predictor_shapes(case, shapes)
    weights = {name: random_weight(case, name, shape) for name, shape in shapes.items()}
    for name in weights:
        copied = next(
            (c for c in PREDICTOR_COPIES if name.endswith(c) and PREDICTOR.match(name)), ""
        )
        if copied:
            weights[name] = weights[PREDICTOR_COPIES[copied]]
    stored = {
        name: torch.from_numpy(w).to(torch.int64 if name.endswith(TABLE) else _DTYPES[case.dtype])
        for name, w in weights.items()
    }
    for name, tensor in stored.items():
        if not torch.equal(tensor.float(), torch.from_numpy(weights[name])):
            raise ValueError(f"{case.name}: {name} does not fit {case.dtype} exactly")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    if case.gguf_type is not None:
        write_gguf(folder / "model.gguf", case.config, weights, case.gguf_type)
        if float32_gguf is not None:
            float32_gguf.mkdir(parents=True, exist_ok=True)
            target = float32_gguf / f"{case.name}.gguf"
            write_gguf(target, case.config, weights, "F32")
    expected: dict[str, NDArray[np.int32] | F32] = {}
    for prefix, count in (("", PROMPT_TOKENS), ("short_", case.short_tokens)):
        if count:
            ids = _generator(case.name, prefix, "prompt").integers(0, VOCAB - 2, count)
            expected[prefix + "token_ids"] = ids.astype(np.int32)
            if case.config["model_type"] == "rwkv7":
                found = {"logits": rwkv7_oracle.logits(weights, ids.astype(np.int32))}
            else:
                found = oracle_logits(folder, ids.astype(np.int32), case)
            expected |= {prefix + name: values for name, values in found.items()}
    np.savez(folder / "expected.npz", allow_pickle=False, **expected)
    size = sum(file.stat().st_size for file in folder.iterdir())
    spread = float(expected["logits"].std())
    print(f"{case.name:16} {size / 1000:7.1f} kB   logits' standard deviation {spread:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", help="names of cases (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--float32-gguf", type=Path, help="also write F32 twins there (a check)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    unknown = set(arguments.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    for case in CASES:
        if not arguments.cases or case.name in arguments.cases:
            make(case, arguments.out, arguments.float32_gguf)


if __name__ == "__main__":
    main()
