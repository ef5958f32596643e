"""What the native module gives Python; src/native/module*.cpp define it."""

# ruff: noqa: A002 (keyword names of the native functions)

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

def best_isa() -> str: ...
def packed_formats() -> frozenset[str]: ...
def cache_formats() -> list[str]: ...
def tile_bytes(format: str, keys: bool, channels: int) -> int: ...
def write_tile(
    isa: str,
    format: str,
    keys: bool,
    x: NDArray[np.float32],
    first_slot: int,
    tile: NDArray[np.uint8],
) -> None: ...
def maps_in_huge_pages(file: int) -> bool: ...
def measure_read_bandwidth(
    num_bytes: int, threads: int, rounds: int
) -> list[tuple[float, float]]: ...
def activation_kind(format: str, isa: str) -> str: ...
def streamed_rows(format: str, isa: str) -> int: ...
def activation_row_bytes(kind: str, width: int) -> int: ...

class CrossMemory:
    def __init__(
        self,
        positions: int,
        rows: int,
        layers: Sequence[tuple[int, int, int]],
        format: str,
        counts_only: bool = False,
    ) -> None: ...
    @property
    def row_bytes(self) -> int: ...

class RoofMeter:
    def __init__(self, isa: str, threads: int) -> None: ...
    def read(self, num_bytes: int, rounds: int) -> list[tuple[float, float]]: ...
    def copy(self, num_bytes: int, rounds: int) -> list[float]: ...
    def arithmetic(self, name: str, rounds: int) -> list[float]: ...
    def barrier(self, rounds: int) -> list[float]: ...

class Activations:
    @property
    def kind(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def intact(self) -> bool: ...

class PackedMatrix:
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_strips(self) -> int: ...
    @property
    def prescale(self) -> float: ...
    @property
    def activation_kind(self) -> str: ...
    @property
    def intact(self) -> bool: ...
    def tobytes(self) -> bytes: ...
    def multiply(
        self,
        x: Activations,
        bias: NDArray[np.float32] | None,
        y: NDArray[np.float32],
        threads: int = 1,
        strip_begin: int = 0,
        strip_end: int = -1,
    ) -> None: ...

def pack_matrix(
    format: str, raw: NDArray[np.uint8], n: int, k: int, isa: str, threads: int = 1
) -> PackedMatrix: ...
def quantize_rows(x: NDArray[np.float32], kind: str, isa: str) -> Activations: ...
def time_linear(
    matrices: Sequence[PackedMatrix],
    x: Activations,
    y: NDArray[np.float32],
    threads: int,
    rounds: int,
) -> list[float]: ...
def measure_arithmetic(kind: str, isa: str, threads: int, rounds: int) -> list[float]: ...
def decode_row(format: str, raw: NDArray[np.uint8], out: NDArray[np.float32], isa: str) -> None: ...

class View:
    def __init__(self, offset: int, ld: int, width: int, sampled: bool, kind: str = "") -> None: ...

class Matrix:
    pass

class Norm:
    pass

class Rotation:
    def __init__(
        self,
        frequencies: Sequence[float],
        magnitude: float,
        interleaved: bool,
        axes: Sequence[int] = (),
    ) -> None: ...

class Sampling:
    def __init__(
        self,
        numbers: dict[str, float],
        seed: int,
        logit_bias: Sequence[tuple[int, float]],
        dry_breakers: Sequence[int],
        bad_words: Sequence[Sequence[int]],
        stop_ids: Sequence[int],
        allowed_ids: Sequence[int] | None,
    ) -> None: ...

def draw(
    isa: str,
    sampling: Sampling,
    logits: NDArray[np.float32],
    tokens: NDArray[np.int32],
    seeds: NDArray[np.uint64],
) -> NDArray[np.int32]: ...

class Program:
    def __init__(
        self,
        isa: str,
        threads: int,
        num_blocks: int,
        max_rows: int,
        max_tokens: int,
        max_sampled: int,
        max_context: int,
        vocab: int,
        vocab_ids: int,
        arena_bytes: int,
        num_slots: int = 0,
        windows: Sequence[int] = (0,),
        counts_only: bool = False,
    ) -> None: ...
    def add_cache(
        self,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        column: int,
        format: str,
        latent: bool = False,
        centres: NDArray[np.float32] | None = None,
        powers: NDArray[np.float32] | None = None,
        every: int = 1,
    ) -> int: ...
    def share_cross(self, memory: CrossMemory) -> None: ...
    def add_conv1d(
        self,
        name: str,
        x: View,
        y: View,
        matrix: Matrix,
        bias: NDArray[np.float32],
        taps: int,
        frames: int,
        stride: int,
    ) -> None: ...
    def add_cross_write(self, name: str, k: View, v: View, layer: int) -> None: ...
    def add_cross_attention(
        self, name: str, q: View, out: View, layer: int, heads: int, scale: float
    ) -> None: ...
    def add_latent_write(self, name: str, latent: View, turned: View, cache: int) -> None: ...
    def add_latent_attention(
        self,
        name: str,
        q: View,
        turned: View,
        out: View,
        cache: int,
        absorb: Sequence[Matrix],
        expand: Sequence[Matrix],
        scale: float,
        chosen: View | None = None,
    ) -> None: ...
    def pack(
        self,
        format: str,
        raw: NDArray[np.uint8],
        n: int,
        k: int,
        row_bytes: int,
        release: Callable[[], None],
    ) -> Matrix: ...
    def write_weights(self, file: int, capacity: int) -> None: ...
    def read_weights(
        self, file: int, num_bytes: int, records: Sequence[tuple[str, int, int, float, int]]
    ) -> None: ...
    def finish_weights(self) -> list[tuple[str, int, int, float, int]]: ...
    def settle_weights(self, least_huge_share: float) -> int: ...
    def weights_checksum(self) -> int: ...
    @property
    def weights_file_bytes(self) -> int: ...
    def norm(
        self,
        kind: str,
        eps: float,
        offset: float,
        groups: int,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        by_group: bool = False,
    ) -> Norm: ...
    def add_linear(
        self,
        name: str,
        x: View,
        y: View,
        matrices: Sequence[Matrix],
        biases: Sequence[NDArray[np.float32] | None],
        fine_activations: bool = False,
    ) -> None: ...
    def add_gated_linear(
        self,
        name: str,
        x: View,
        y: View,
        matrices: Sequence[Matrix],
        biases: Sequence[NDArray[np.float32] | None],
        activation: str,
    ) -> None: ...
    def pack_screen(
        self,
        format: str,
        raw: NDArray[np.uint8],
        n: int,
        k: int,
        row_bytes: int,
        release: Callable[[], None],
    ) -> Matrix: ...
    def add_head(
        self,
        name: str,
        x: View,
        y: View,
        matrix: Matrix,
        fine_activations: bool,
        screen: Matrix,
        format: str,
        raw: NDArray[np.uint8],
        row_bytes: int,
        most_rows: int,
        learn_rows: int,
    ) -> None: ...
    @property
    def is_learning(self) -> bool: ...
    @property
    def has_learned(self) -> bool: ...
    def learned(self) -> bytes: ...
    def learn(self, learned: bytes) -> bool: ...
    @property
    def screened(self) -> tuple[int, int]: ...
    def is_cache_ready(self) -> bool: ...
    def add_embed(
        self,
        name: str,
        y: View,
        format: str,
        table: NDArray[np.uint8],
        row_bytes: int,
        scale: float,
    ) -> None: ...
    def add_position_embed(
        self,
        name: str,
        y: View,
        format: str,
        table: NDArray[np.uint8],
        row_bytes: int,
        first: int,
    ) -> None: ...
    def add_type_embed(
        self,
        name: str,
        y: View,
        format: str,
        table: NDArray[np.uint8],
        row_bytes: int,
        separator: int,
    ) -> None: ...
    def add_pool(self, name: str, x: View, y: View, kind: str) -> None: ...
    def add_norm(self, name: str, x: View, y: View, norm: Norm) -> None: ...
    def add_add_norm(
        self, name: str, a: View, b: View, total: View, y: View, norm: Norm
    ) -> None: ...
    def add_elementwise(
        self,
        name: str,
        type: str,
        a: View,
        b: View,
        y: View,
        number: float = 0.0,
        activation: str = "",
    ) -> None: ...
    def add_weigh(self, name: str, x: View, g: View, y: View) -> None: ...
    def add_route(
        self,
        name: str,
        x: View,
        slots: View,
        router: Matrix,
        bias: NDArray[np.float32] | None,
        correction: NDArray[np.float32] | None,
        top_k: int,
        scores: str,
        normalize: bool,
        scale: float,
        num_groups: int,
        top_groups: int,
        group_best: int,
        gain: NDArray[np.float32] | None = None,
        jitter: float = -1.0,
        table: NDArray[np.int32] | None = None,
    ) -> None: ...
    def add_experts(
        self,
        name: str,
        x: View,
        slots: View,
        y: View,
        gate: Sequence[Matrix],
        up: Sequence[Matrix],
        down: Sequence[Matrix],
        biases: Sequence[NDArray[np.float32]],
        top_k: int,
        first_expert: int,
        activation: str,
        weigh_input: bool,
    ) -> None: ...
    def add_select_rows(self, name: str, x: View, y: View) -> None: ...
    def add_rope(
        self,
        name: str,
        x: View,
        y: View,
        heads: int,
        head_dim: int,
        rotation: Rotation,
        first: int = 0,
        every: int = 1,
    ) -> None: ...
    def add_compress(
        self,
        name: str,
        x: View,
        scores: View,
        y: View,
        every: int,
        overlaps: bool,
        bias: NDArray[np.float32],
    ) -> None: ...
    def add_entry_write(self, name: str, x: View, cache: int) -> None: ...
    def add_select_entries(
        self, name: str, q: View, weights: View, out: View, cache: int
    ) -> None: ...
    def add_entry_attention(
        self,
        name: str,
        q: View,
        out: View,
        cache: int,
        entries: int | None,
        chosen: View | None,
        scale: float,
        sinks: NDArray[np.float32],
    ) -> None: ...
    def add_stream_weights(
        self,
        name: str,
        x: Sequence[View],
        outputs: Sequence[View],
        matrices: Sequence[Matrix],
        bias: NDArray[np.float32],
        scales: NDArray[np.float32],
        iterations: int,
        eps: float,
        floor: float,
    ) -> None: ...
    def add_kv_write(self, name: str, k: View, v: View, cache: int) -> None: ...
    def add_rope_kv_write(
        self,
        name: str,
        qkv: View,
        q_out: View,
        cache: int,
        heads: int,
        rotation: Rotation | None,
        q_norm: Norm | None,
        k_norm: Norm | None,
    ) -> None: ...
    def add_attention(
        self,
        name: str,
        q: View,
        out: View,
        cache: int,
        heads: int,
        scale: float,
        softcap: float,
        causal: bool,
        ahead: int = -1,
        sinks: NDArray[np.float32] | None = None,
        chunked: bool = False,
        whole_images: bool = False,
        parts: bool = False,
    ) -> None: ...
    def add_scale_by_position(
        self, name: str, x: View, y: View, period: float, beta: float, first: int
    ) -> None: ...
    def add_place_images(self, name: str, x: View, y: View) -> None: ...
    def add_grid_pool(self, name: str, x: View, y: View, side: int, kernel: int) -> None: ...
    def add_join_tokens(self, name: str, x: View, y: View, count: int) -> None: ...
    def give_places(
        self, positions: NDArray[np.int32], part_ends: NDArray[np.int32] | None = None
    ) -> None: ...
    def give_image(self, token_begin: int, position: int, rows: NDArray[np.float32]) -> None: ...
    def add_causal_conv(
        self,
        name: str,
        x: View,
        y: View,
        taps: int,
        silu: bool,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> None: ...
    def add_selective_scan(
        self,
        name: str,
        values: Sequence[View],
        a: NDArray[np.float32],
        d: NDArray[np.float32],
    ) -> None: ...
    def add_ssd_scan(
        self,
        name: str,
        values: Sequence[View],
        groups: int,
        a: NDArray[np.float32],
        d: NDArray[np.float32],
        dt_bias: NDArray[np.float32],
        dt_low: float,
        dt_high: float,
    ) -> None: ...
    def add_decay_attention(
        self, name: str, values: Sequence[View], a: NDArray[np.float32]
    ) -> None: ...
    def add_delta_rule(
        self,
        name: str,
        values: Sequence[View],
        key_heads: int,
        by_channel: bool,
        tiled: bool,
        a: NDArray[np.float32],
        dt_bias: NDArray[np.float32],
        floor: float = 0.0,
    ) -> None: ...
    def add_split_groups(
        self, name: str, x: View, outputs: Sequence[View], groups: int
    ) -> None: ...
    def add_select_tokens(
        self, name: str, q_turned: View, q: View, weights: View, out: View, cache: int
    ) -> None: ...
    def add_select_blocks(
        self,
        name: str,
        q: View,
        out: View,
        cache: int,
        heads: int,
        top: int,
        tokens: int,
        local: int,
    ) -> None: ...
    def add_block_attention(
        self,
        name: str,
        q: View,
        chosen: View,
        out: View,
        cache: int,
        heads: int,
        scale: float,
        top: int,
        tokens: int,
        first: int,
    ) -> None: ...
    def add_rg_lru(self, name: str, values: Sequence[View], rate: NDArray[np.float32]) -> None: ...
    def add_token_shift(
        self,
        name: str,
        x: View,
        outputs: Sequence[View],
        weights: Sequence[NDArray[np.float32]],
    ) -> None: ...
    def add_wkv7(
        self,
        name: str,
        values: Sequence[View],
        heads: int,
        direction: NDArray[np.float32],
        change: NDArray[np.float32],
        bonus: NDArray[np.float32],
    ) -> None: ...
    def add_block_linear(
        self,
        name: str,
        x: View,
        y: View,
        matrices: Sequence[Matrix],
        bias: NDArray[np.float32] | None,
    ) -> None: ...
    def add_mix(
        self, name: str, x: Sequence[View], numbers: View, y: Sequence[View], offset: float
    ) -> None: ...
    def add_match_size(self, name: str, x: View, like: View, y: View, floor: float) -> None: ...
    def add_scale_columns(
        self, name: str, x: View, y: View, factors: NDArray[np.float32]
    ) -> None: ...
    def add_keep_largest(self, name: str, x: View, y: View, z: float) -> None: ...
    def add_xielu(self, name: str, x: View, y: View, positive: float, negative: float) -> None: ...
    def add_join(self, name: str, a: View, b: View, y: View) -> None: ...
    def copy_slots(self, pairs: NDArray[np.int32]) -> None: ...
    def finish(self, logits: View) -> None: ...
    def open_row(self, row: int, tokens: NDArray[np.int32], sampling: Sampling) -> None: ...
    def append_tokens(self, row: int, tokens: NDArray[np.int32]) -> None: ...
    def truncate(self, row: int, num_tokens: int) -> None: ...
    def close_row(self, row: int) -> None: ...
    def copy_blocks(self, pairs: NDArray[np.int32]) -> None: ...
    def run(
        self,
        lines: NDArray[np.int32],
        new_blocks: NDArray[np.int32],
        sampling: bool,
        masks: Callable[[], Mapping[int, NDArray[np.uint32]]] | None = None,
    ) -> None: ...
    def samples(
        self,
    ) -> list[
        tuple[
            int,
            int,
            float,
            tuple[tuple[int, float], ...],
            str | None,
            float,
            tuple[int, int, bytes, bytes] | None,
        ]
    ]: ...
    def run_on(
        self,
        lines: NDArray[np.int32],
        new_blocks: NDArray[np.int32],
        steps: int,
        ends: NDArray[np.int32],
    ) -> list[
        tuple[
            list[
                tuple[
                    int,
                    int,
                    float,
                    tuple[tuple[int, float], ...],
                    str | None,
                    float,
                    tuple[int, int, bytes, bytes] | None,
                ]
            ],
            float,
        ]
    ]: ...
    def logits(self) -> NDArray[np.float32]: ...
    def write_rows(self, view: View, rows: NDArray[np.float32]) -> None: ...
    def read_rows(self, view: View, rows: int) -> NDArray[np.float32]: ...
    def add_zero_experts(
        self, name: str, x: View, slots: View, y: View, top_k: int, first: int
    ) -> None: ...
    def chosen_experts(self) -> list[tuple[str, NDArray[np.int32]]]: ...
    def times(self) -> list[tuple[str, str, int, float, float, float]]: ...
    def reset_times(self) -> None: ...
    def read_bandwidth(self, rounds: int) -> list[tuple[float, float]]: ...
    def pace(self, rounds: int) -> list[float]: ...
    def barrier_time(self, rounds: int) -> list[float]: ...
    def memory(self) -> dict[str, int]: ...
    @property
    def counts_only(self) -> bool: ...
    @property
    def kv_blocks_together(self) -> int: ...
    @property
    def kv_block_bytes(self) -> int: ...
    @property
    def state_bytes(self) -> int: ...
    def arena(self) -> NDArray[np.uint8]: ...
