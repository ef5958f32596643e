"""The language parts of models whose images are a golden of their own, or not built: published with
a `vision_config`, stored without their towers' tensors.
"""

from __future__ import annotations

from case import VOCAB, Case, decoder

_IDS = {
    "image_token_id": VOCAB - 3,
    "video_token_id": VOCAB - 4,
    "vision_start_token_id": VOCAB - 5,
    "vision_end_token_id": VOCAB - 6,
}
_UNREAD = ("attention_bias", "mlp_bias")
_TOWER = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}

SEEING = (
    # As published: the language model's fields beside the tower's, mrope under its old name.
    Case(
        "qwen2_5_vl",
        {
            key: value
            for key, value in decoder(
                architectures=["Qwen2_5_VLForConditionalGeneration"],
                model_type="qwen2_5_vl",
                rope_theta=100000.0,
                rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
                use_sliding_window=False,
                tie_word_embeddings=True,
                vision_config={
                    **_TOWER,
                    "out_hidden_size": 64,
                    "window_size": 16,
                    "fullatt_block_indexes": [0],
                },
                **_IDS,
            ).items()
            if key not in _UNREAD
        },
    ),
    # Axes that take turns, heads wider than hidden_size / heads.
    Case(
        "qwen3_vl",
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "tie_word_embeddings": False,
            "text_config": {
                key: value
                for key, value in decoder(
                    model_type="qwen3_vl_text",
                    head_dim=24,
                    rope_theta=500000.0,
                    rope_scaling={
                        "mrope_interleaved": True,
                        "mrope_section": [4, 4, 4],
                        "rope_type": "default",
                    },
                    attention_bias=False,
                    rms_norm_eps=1e-6,
                ).items()
                if key not in ("architectures", "mlp_bias")
            },
            "vision_config": {
                **_TOWER,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **_IDS,
        },
    ),
)
