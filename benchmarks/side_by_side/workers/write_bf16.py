"""A GGUF file's weights as a bf16 Hugging Face directory, for engines that read no GGUF.

python write_bf16.py MODEL.gguf FOLDER          (by a Python with transformers, torch and gguf)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers


def main() -> None:
    source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # Dequantized on loading, but still marked as what cannot be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = torch.bfloat16
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(target)


if __name__ == "__main__":
    main()
