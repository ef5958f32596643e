"""Make expected.npz: what transformers says of all-MiniLM-L6-v2.

    python tests/real/minilm/make_expected.py FOLDER_OF_THE_MODEL

Needs torch and transformers. Token ids of `texts.txt`, and the mean of the last hidden states over
the tokens, float32, not normalized.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    ids, rows = [], []
    for text in (HERE / "texts.txt").read_text("utf-8").splitlines():
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode():
            hidden = model(**encoded).last_hidden_state[0]
        ids.append(encoded["input_ids"][0].numpy().astype(np.int32))
        rows.append(hidden.double().mean(0).float().numpy())
    lengths = np.array([len(each) for each in ids], np.int32)
    np.savez(
        HERE / "expected.npz", token_ids=np.concatenate(ids), lengths=lengths, mean=np.stack(rows)
    )
    print(lengths)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
