"""What a configuration says of how its file's weights are quantized: which of that is read here.

The file's tensors say the same; the configuration is only asked whether it is something else. Does
not know tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ridgeline.errors import ModelError
from ridgeline.model.architectures.fields import quote
from ridgeline.model.formats import FORMATS, Format

FIELD = "quantization_config"
SUPPORTED = ("fp8 in blocks of [128, 128]", "mxfp4")

EXPERTS = re.compile(r".*\.moe\.(gate|up|down)\.weight")
MATRICES = re.compile(
    r"layers\.\d+\.(attn\.(q|k|v|o|q_a|q_b|kv|kv_a|kv_b|o_a|o_b|index\.q|index\.k)|"
    r"(shared\.)?mlp\.(gate|up|down)|"
    r"moe\.(gate|up|down))\.weight"
)


def read_quantization(config: Mapping[str, object], where: str) -> str | None:
    """The method, fp8, mxfp4, or fp8_mxfp4 where only experts are the latter (DeepSeek V4); None:
    plain weights. ModelError for any other, or another FP8.
    """
    said = config.get(FIELD)
    if said is None:
        return None
    fields = said if isinstance(said, Mapping) else {}
    method = fields.get("quant_method")
    plain = fields.get("fmt") in (None, "e4m3", "float8_e4m3fn")
    if method == "fp8" and fields.get("weight_block_size") == [128, 128] and plain:
        experts = fields.get("expert_dtype", config.get("expert_dtype"))
        return "fp8_mxfp4" if experts == "fp4" else "fp8"
    if method == "mxfp4":
        return "mxfp4"
    raise ModelError(
        f"{where}: {FIELD} = {quote(said)} is not supported; supported: {', '.join(SUPPORTED)}"
    )


def without_quantization(config: Mapping[str, object], where: str) -> dict[str, object]:
    """`config` less what `read_quantization` accepts, also in its text part."""
    rest = dict(config)
    if read_quantization(config, where) is not None:
        del rest[FIELD]
    text = config.get("text_config")
    if isinstance(text, Mapping):
        rest["text_config"] = without_quantization(text, f"{where}: text_config")
    return rest


def quantized_as(method: str | None, name: str, plain: Format) -> Format:
    """How a file of `method` stores the canonical weight `name`."""
    if method in ("mxfp4", "fp8_mxfp4") and EXPERTS.fullmatch(name):
        return FORMATS["MXFP4"]
    if method in ("fp8", "fp8_mxfp4") and MATRICES.fullmatch(name):
        return FORMATS["F8_E4M3_128"]
    return plain
