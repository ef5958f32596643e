"""What files call a weight: canonical name -> name in a Hugging Face or GGUF file, as data.

A row maps a module, `layers.{i}.attn.q`, to the file's; `.weight` or `.bias` stays as it is. Rows
with the same stored name are parts of one tensor, its rows in the order of the table. A name with
`{e}` is one of many tensors: one an expert. Does not know shapes or files.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Root:
    """Where the tensors of a language model stand in a file: what their names begin with."""

    body: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """A tensor that holds a matrix, or a bias, of each expert, in an order of its own.

    weight, bias: the tensors' whole names. part, parts: which of an expert's so many equal runs of
    rows; interleaved: the parts take turns row by row. transposed: inputs before outputs, unless
    the numbers are MXFP4, in two tensors `blocks` and `scales` in the place of `weight`.
    """

    weight: str
    bias: str = ""
    part: int = 0
    parts: int = 1
    interleaved: bool = False
    transposed: bool = False

    def at(self, number: str, root: Root) -> Stack:
        """The same of a layer, in a file whose language model stands at `root`."""
        where = {"i": number, "body": root.body, "head": root.head}
        return replace(
            self,
            weight=self.weight.format(**where),
            bias=self.bias.format(**where),
        )

    @property
    def blocks(self) -> str:
        return f"{self.weight}_blocks"

    @property
    def scales(self) -> str:
        return f"{self.weight}_scales"


@dataclass(frozen=True, slots=True)
class Columns:
    """A module whose matrix is stored inputs first: one of `parts` equal runs of its columns. Its
    bias lies there as any other.
    """

    module: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Expansion:
    """What makes keys and values of latents (`latent_attention`): one matrix `whole`, or apart of
    each head what makes keys, inputs last, and what makes values. Tensors' whole names.
    """

    whole: str
    keys: str
    values: str

    def at(self, number: str) -> Expansion:
        """The same of a layer."""
        return Expansion(*(name.format(i=number) for name in (self.whole, self.keys, self.values)))


Row = str | Stack | Columns | Expansion


@dataclass(frozen=True, slots=True)
class Names:
    """One kind of file for one family.

    modules: canonical module -> stored module; or canonical weight -> stored weight, for those that
    are called otherwise than their module and a leaf. roots: the places that files of this kind
    use. harmless: stored names that are not weights of the graph and change nothing when left
    unread.
    """

    modules: Mapping[str, Row]
    roots: tuple[Root, ...] = (Root(),)
    harmless: re.Pattern[str] = re.compile(r"(?!)")

    def stored(self, name: str, root: Root, expert: int = 0) -> str:
        """The file's name for the canonical weight `name`, or for the part of it that is of one
        expert; KeyError if the family has none such.
        """
        stack, (module, number, leaf) = self.stack(name, root), parse(name)
        if stack is not None:
            return stack.bias if leaf == "bias" else stack.weight
        row = self.modules.get(f"{module}.{leaf}")
        if row is None:
            whole = self.modules[module]
            assert not isinstance(whole, Stack)
            if isinstance(whole, Expansion):
                return whole.at(number).whole
            row = f"{whole.module if isinstance(whole, Columns) else whole}.{leaf}"
        assert isinstance(row, str)
        return row.format(i=number, e=expert, body=root.body, head=root.head)

    def stack(self, name: str, root: Root) -> Stack | None:
        """Where the weight lies in a tensor of all experts, if in an order of its own."""
        module, number, _ = parse(name)
        row = self.modules.get(module)
        return row.at(number, root) if isinstance(row, Stack) else None

    def expansion(self, name: str) -> Expansion | None:
        """The tensors of an expansion of latents, if the weight is one."""
        module, number, _ = parse(name)
        row = self.modules.get(module)
        return row.at(number) if isinstance(row, Expansion) else None

    def columns(self, name: str) -> Columns | None:
        """Which columns of a matrix that is stored inputs first the weight is, if it is one."""
        module, _, leaf = parse(name)
        row = self.modules.get(module)
        return row if isinstance(row, Columns) and leaf == "weight" else None

    def is_per_expert(self, name: str) -> bool:
        """Whether each expert has a tensor of its own."""
        row = self.modules.get(parse(name)[0])
        return isinstance(row, str) and "{e}" in row

    def find_root(self, tensors: Container[str]) -> Root:
        """The place where the embedding stands in this file; the first if it stands in none."""
        for root in self.roots:
            if self.stored("embed.weight", root) in tensors:
                return root
        return self.roots[0]


@lru_cache(maxsize=4096)
def parse(name: str) -> tuple[str, str, str]:
    """A canonical weight name as a row of the tables, the number of its layer, and its leaf."""
    module, _, leaf = name.rpartition(".")
    layer = LAYER.fullmatch(module)
    return (module, "", leaf) if layer is None else (f"layers.{{i}}.{layer[2]}", layer[1], leaf)


HF_LLAMA: dict[str, str] = {
    "embed": "{body}embed_tokens",
    "layers.{i}.attn_norm": "{body}layers.{i}.input_layernorm",
    "layers.{i}.attn.q": "{body}layers.{i}.self_attn.q_proj",
    "layers.{i}.attn.k": "{body}layers.{i}.self_attn.k_proj",
    "layers.{i}.attn.v": "{body}layers.{i}.self_attn.v_proj",
    "layers.{i}.attn.o": "{body}layers.{i}.self_attn.o_proj",
    "layers.{i}.mlp_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp.gate": "{body}layers.{i}.mlp.gate_proj",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.up_proj",
    "layers.{i}.mlp.down": "{body}layers.{i}.mlp.down_proj",
    "final_norm": "{body}norm",
    "head": "{head}lm_head",
}

HF_HEAD_NORMS: dict[str, str] = {
    "layers.{i}.attn.q_norm": "{body}layers.{i}.self_attn.q_norm",
    "layers.{i}.attn.k_norm": "{body}layers.{i}.self_attn.k_norm",
}

HF_GEMMA3: dict[str, str] = {
    **HF_LLAMA,
    **HF_HEAD_NORMS,
    "layers.{i}.attn_post_norm": "{body}layers.{i}.post_attention_layernorm",
    "layers.{i}.mlp_norm": "{body}layers.{i}.pre_feedforward_layernorm",
    "layers.{i}.mlp_post_norm": "{body}layers.{i}.post_feedforward_layernorm",
}

HF_PHI3: dict[str, str] = {
    **HF_LLAMA,
    "layers.{i}.attn.q": "{body}layers.{i}.self_attn.qkv_proj",
    "layers.{i}.attn.k": "{body}layers.{i}.self_attn.qkv_proj",
    "layers.{i}.attn.v": "{body}layers.{i}.self_attn.qkv_proj",
    "layers.{i}.mlp.gate": "{body}layers.{i}.mlp.gate_up_proj",
    "layers.{i}.mlp.up": "{body}layers.{i}.mlp.gate_up_proj",
}

GGUF_LLAMA: dict[str, str] = {
    "embed": "token_embd",
    "layers.{i}.attn_norm": "blk.{i}.attn_norm",
    "layers.{i}.attn.q": "blk.{i}.attn_q",
    "layers.{i}.attn.k": "blk.{i}.attn_k",
    "layers.{i}.attn.v": "blk.{i}.attn_v",
    "layers.{i}.attn.o": "blk.{i}.attn_output",
    "layers.{i}.mlp_norm": "blk.{i}.ffn_norm",
    "layers.{i}.mlp.gate": "blk.{i}.ffn_gate",
    "layers.{i}.mlp.up": "blk.{i}.ffn_up",
    "layers.{i}.mlp.down": "blk.{i}.ffn_down",
    "final_norm": "output_norm",
    "head": "output",
}

GGUF_HEAD_NORMS: dict[str, str] = {
    "layers.{i}.attn.q_norm": "blk.{i}.attn_q_norm",
    "layers.{i}.attn.k_norm": "blk.{i}.attn_k_norm",
}

GGUF_GEMMA3: dict[str, str] = {
    **GGUF_LLAMA,
    **GGUF_HEAD_NORMS,
    "layers.{i}.attn_post_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.mlp_post_norm": "blk.{i}.post_ffw_norm",
}

GGUF_PHI3: dict[str, str] = {
    **GGUF_LLAMA,
    "layers.{i}.attn.q": "blk.{i}.attn_qkv",
    "layers.{i}.attn.k": "blk.{i}.attn_qkv",
    "layers.{i}.attn.v": "blk.{i}.attn_qkv",
    "layers.{i}.mlp.gate": "blk.{i}.ffn_up",
}

# A base model saved by itself has no prefix; a model with a vision tower has one more.
HF_ROOTS = (Root("model."), Root("", ""))
HF_GEMMA3_ROOTS = (
    Root("model."),
    Root("model.language_model."),
    Root("language_model.model.", "language_model."),
    Root("", ""),
)

# Rotary tables that old checkpoints carry: the configuration says the same.
HF_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq")
HF_GEMMA3_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq|(model\.)?(vision_tower|multi_modal_projector)\..*"
)
# As a model that also sees has it.
SEEING_HARMLESS = re.compile(
    r".*\.rotary_emb\.inv_freq"
    r"|(model\.)?(vision_tower|vision_model|multi_modal_projector|mm_projector)\..*"
)
# Read with the configuration (`gguf_config`), not as weights.
GGUF_HARMLESS = re.compile(r"(blk\.\d+\.)?rope_(freqs|factors_long|factors_short)\.weight")
