"""Deployments: pricing agrees with the graph's own work, in one step or many, and with physics."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.cost.chip import Chip, Mesh
from ridgeline.cost.collectives import COLLECTIVES
from ridgeline.cost.count import count_parameters, count_step
from ridgeline.cost.deployment import Deployment, Parted, deploy, expert_imbalance
from ridgeline.cost.described import describe
from ridgeline.cost.efficiency import (
    LEFT_WHERE_PLACED,
    MEANINGS,
    PUBLISHED,
    filled_up,
    piece_seconds,
)
from ridgeline.cost.lines import KINDS, compile_lines
from ridgeline.cost.steps import steps_of, uniform_steps
from ridgeline.errors import CapacityError, RidgelineError
from ridgeline.model.configurations import configurations, load_configuration
from ridgeline.model.graph.ops import SelectBlocks
from ridgeline.model.graph.work import Precision, Work
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.shard import shard_rank
from ridgeline.step import StepShape

# Its latent attention's gate is not: docs/models.md.
NOT_BUILT = {"KimiK3ForConditionalGeneration"}
MODELS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "models.json").read_text()
)
# NVIDIA's data sheet of the H200.
CHIP = Chip(
    "h200",
    {"bf16": 989e12, "fp8": 1979e12},
    141e9,
    4.8e12,
    450e9,
    domain=8,
    nic_bytes_per_second=50e9,
)


def deployed(name: str, precision: str = "bf16", **mesh: int) -> Deployment:
    return deploy(describe(MODELS[name]["config"], precision), chip=CHIP, mesh=Mesh(**mesh))


@pytest.mark.parametrize("tp", [1, 4])
def test_lines_are_the_graphs_work(tp: int) -> None:
    described = describe(MODELS["Qwen/Qwen3-32B"]["config"], "bf16")
    deployment = deploy(described, chip=CHIP, mesh=Mesh(tp=tp))
    rank = fuse(shard_rank(described.graph, tp))
    for shape in (StepShape.decode(64, 777), StepShape((900, 1, 1), (100, 5000, 3), 2)):
        pieces = deployment.pieces(steps_of((shape,), deployment.windows))
        work = count_step(rank, shape, Precision()).total
        flops = pieces.flops.sum() + pieces.decode_flops.sum() + pieces.prefill_flops.sum()
        assert flops == pytest.approx(work.flops["bf16"], rel=5e-3)
        read = pieces.decode_bytes.sum() + pieces.prefill_bytes.sum()
        assert read == pytest.approx(work.kv_read_bytes)
        assert pieces.link_bytes.sum() == pytest.approx(work.link_bytes)
        embed = next(w for w in rank.weights if w.name.startswith("embed"))
        stored = count_parameters(rank).num_bytes - embed.num_bytes
        assert pieces.weight_bytes.sum() == pytest.approx(stored, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("deepseek-ai/DeepSeek-R1", "fp8_block"),
        ("openai/gpt-oss-120b", "mxfp4"),
        ("moonshotai/Kimi-K2.5", "int4_wo"),
        ("MiniMaxAI/MiniMax-M2.5", "nvfp4"),
        ("zai-org/GLM-5", "fp8"),
        ("Qwen/Qwen3-235B-A22B", "fp8"),
        ("deepseek-ai/DeepSeek-V4-Flash", "nvfp4"),
    ],
)
def test_the_largest_models_are_priced_on_every_mesh(name: str, precision: str) -> None:
    seconds = []
    for mesh in ({"tp": 8}, {"tp": 8, "ep": 8}, {"dp": 8, "ep": 8}, {"tp": 4, "pp": 2}):
        deployment = deployed(name, precision, **mesh)
        estimate = deployment.step_seconds(StepShape.decode(64, 2000))
        assert estimate.low < estimate.seconds < estimate.high
        assert sum(estimate.by_class.values()) == pytest.approx(estimate.seconds)
        assert 1e-3 < estimate.seconds < 0.2
        seconds.append(estimate.seconds)
        longer = deployment.step_seconds(StepShape.decode(64, 20000))
        assert longer.seconds > estimate.seconds
    assert len(set(seconds)) > 2


@pytest.mark.parametrize("tp", [1, 8])
def test_attention_beside_entries_is_the_graphs_work(tp: int) -> None:
    """Of DeepSeek V4: windows, all entries, those that are selected, and what selects them."""
    described = describe(MODELS["deepseek-ai/DeepSeek-V4-Flash"]["config"], "fp8")
    deployment = deploy(described, chip=CHIP, mesh=Mesh(tp=tp))
    rank = fuse(shard_rank(described.graph, tp))
    for context in (1023, 65535):  # entries are whole with the next token
        shape = StepShape.decode(4, context)
        pieces = deployment.pieces(steps_of((shape,), deployment.windows))
        rows = [
            row.work
            for row in count_step(rank, shape, Precision()).rows
            if row.operator in ("entry_attention", "select_entries")
        ]
        assert pieces.decode_flops.sum() == pytest.approx(sum(w.total_flops for w in rows))
        assert pieces.decode_bytes.sum() == pytest.approx(sum(w.kv_read_bytes for w in rows))


def test_a_rank_has_its_share_of_weights_and_heads() -> None:
    whole, cut = deployed("deepseek-ai/DeepSeek-R1"), deployed("deepseek-ai/DeepSeek-R1", tp=8)
    assert cut.room.weight_bytes == pytest.approx(whole.room.weight_bytes / 8, rel=0.03)
    # All ranks keep all latents; of heads each has its own.
    assert cut.room.kv_bytes_per_token == whole.room.kv_bytes_per_token
    flops = {d.mesh.tp: sum(line.decode_pair_flops for line in d.lines) for d in (whole, cut)}
    assert flops[8] == pytest.approx(flops[1] / 8)


def test_many_steps_are_priced_as_one() -> None:
    deployment = deployed("openai/gpt-oss-120b", "mxfp4", tp=2)
    contexts = np.array([10.0, 100.0, 5000.0])
    many = deployment.price(uniform_steps(deployment.windows, decode=16.0, context=contexts))
    one = [deployment.step_seconds(StepShape.decode(16, int(c))).seconds for c in contexts]
    assert many == pytest.approx(one)
    times = deployment.step_times()
    first = times.decode_run([100] * 16, 40)
    assert first[0] == pytest.approx(times(StepShape.decode(16, 100)))
    assert first[39] == pytest.approx(times(StepShape.decode(16, 139)))


def test_nothing_beats_the_roofline() -> None:
    deployment = deployed("meta-llama/Llama-3.3-70B-Instruct", "bf16", tp=4)
    for shape in (StepShape.decode(1, 100), StepShape.prefill(4096), StepShape.decode(256, 3000)):
        pieces = deployment.pieces(steps_of((shape,), deployment.windows))
        flops = pieces.flops + pieces.decode_flops + pieces.prefill_flops
        read = pieces.weight_bytes + pieces.decode_bytes + pieces.prefill_bytes
        least = np.maximum(flops / 989e12, read / 4.8e12).sum()
        assert deployment.step_seconds(shape).seconds > least


def test_the_profile_has_what_physics_allows() -> None:
    for name, (default, least, most, what) in MEANINGS.items():
        assert 0 < least <= default <= most < inf, name
        assert what
    assert set(PUBLISHED.values) == set(MEANINGS)


def test_what_does_not_fit_says_what_would() -> None:
    deployment = deployed("meta-llama/Llama-3.3-70B-Instruct", "bf16", tp=2)
    deployment.check_fits(8, 4096)
    with pytest.raises(CapacityError, match="rows would fit"):
        deployment.check_fits(512, 131072)
    with pytest.raises(CapacityError, match="smaller weights would fit"):
        deployed("meta-llama/Llama-3.3-70B-Instruct", "bf16").check_fits()


def test_what_is_not_known_is_said() -> None:
    described = describe(MODELS["Qwen/Qwen3-32B"]["config"], "bf16")
    with pytest.raises(RidgelineError, match="nvfp4"):
        describe(MODELS["Qwen/Qwen3-32B"]["config"], "fp3")
    with pytest.raises(RidgelineError, match="sglang"):
        deploy(described, chip=CHIP, engine="tgi")
    with pytest.raises(RidgelineError, match="has no experts"):
        deploy(described, chip=CHIP, mesh=Mesh(tp=4, ep=4))
    with pytest.raises(RidgelineError, match="1 or more ranks"):
        deploy(described, chip=CHIP, mesh=Mesh(tp=0))


def test_imbalance_of_experts() -> None:
    whole = deployed("deepseek-ai/DeepSeek-R1", "fp8", tp=8)
    parted = deployed("deepseek-ai/DeepSeek-R1", "fp8", dp=8, ep=8)
    wide = deployed("deepseek-ai/DeepSeek-R1", "fp8", dp=32, ep=32)
    assert expert_imbalance(whole, 1e4) == 1.0
    assert 1.05 < expert_imbalance(parted, 1e6) < 1.5
    assert expert_imbalance(parted, 64) > expert_imbalance(parted, 1e6)
    # Popular experts have copies there: what is left is the draw, and that they were placed by what
    # was popular before.
    rng = np.random.default_rng(0)
    variation = LEFT_WHERE_PLACED * wide.profile["experts.skew"]
    popular = rng.gamma(1.0 / variation, variation, size=(500, 32, 8)).mean(2)
    draws = [rng.multinomial(32 * 64, p / p.sum()).max() / 64 for p in popular]
    assert expert_imbalance(wide, 32 * 64 / 8) == pytest.approx(np.mean(draws), rel=0.1)
    assert 1.2 < expert_imbalance(wide, 1e6) < 1.4
    assert expert_imbalance(wide, 1e6) < expert_imbalance(parted, 1e6)
    dense = deployed("Qwen/Qwen3-32B", tp=4)
    assert expert_imbalance(dense, 100) == 1.0


def test_exchanges_wait_for_the_rank_that_most_tokens_come_to() -> None:
    d = deployed("deepseek-ai/DeepSeek-R1", "fp8", dp=8, ep=8)
    pieces = d.pieces(uniform_steps(d.windows, prompts=8.0, prompt_tokens=8192.0))
    # The last layer's experts have few tokens, those that are sampled.
    exchange = (pieces.collective == COLLECTIVES.index("all_to_all")) & (pieces.count > 1)
    assert exchange.sum() == 2
    alike, skewed = (
        replace(PUBLISHED, values={**PUBLISHED.values, "experts.skew": skew})
        for skew in (0.01, 1.0)
    )
    least, busiest = (
        expert_imbalance(d.with_profile(profile), 8 * 8192.0) for profile in (alike, skewed)
    )
    assert busiest > 1.3 > 1.1 > least
    # Long messages take as long as their bytes.
    seconds = [piece_seconds(pieces, profile)[exchange] for profile in (alike, skewed)]
    assert seconds[1] / seconds[0] == pytest.approx(busiest / least, rel=0.02)


def test_prompts_make_heads_of_cached_latents_too() -> None:
    d = deployed("deepseek-ai/DeepSeek-R1", "fp8", tp=8)

    def flops(new: float, cached: float) -> float:
        prompt = uniform_steps(d.windows, prompts=1.0, prompt_tokens=new, prompt_context=cached)
        return float(d.pieces(prompt).flops.sum())

    # kv_b of a layer: 512 x 128 heads x (128 + 128), of which a rank has an eighth.
    expanded = 2.0 * 512 * 128 * 256 / 8 * 61
    assert flops(100, 5000) - flops(100, 0) == pytest.approx(5000 * expanded, rel=1e-6)
    rows = [uniform_steps(d.windows, decode=4.0, context=context) for context in (10.0, 5000.0)]
    short, long = (float(d.pieces(steps).flops.sum()) for steps in rows)
    assert short == long


@pytest.mark.parametrize(
    ("model", "precision", "mesh"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "fp8", {"tp": 2}),
        ("google/gemma-3-27b-it", "bf16", {}),
        ("openai/gpt-oss-120b", "mxfp4", {"tp": 2}),
        ("deepseek-ai/DeepSeek-R1", "fp8_block", {"tp": 2, "dp": 4, "ep": 8}),
    ],
)
def test_tables_say_what_the_deployment_says(
    model: str, precision: str, mesh: dict[str, int]
) -> None:
    deployment = deployed(model, precision, **mesh)
    times, rng, wrong = deployment.step_times(), random.Random(0), []
    for _ in range(120):
        answers, prompts = rng.choice([0, 1, 3, 17, 64, 200]), rng.choice([0, 1, 1, 2, 5])
        if answers + prompts == 0:
            continue
        new = [1] * answers + [rng.randrange(20, 4000) for _ in range(prompts)]
        contexts = [rng.randrange(1, 9000) for _ in range(answers)]
        contexts += [rng.choice([0, 0, 5000]) for _ in range(prompts)]
        shape = StepShape(tuple(new), tuple(contexts), answers + prompts)
        priced = float(deployment.price(steps_of((shape,), deployment.windows))[0])
        wrong.append(abs(times(shape) / priced - 1))
    assert sorted(wrong)[len(wrong) // 2] < 0.0075
    assert max(wrong) < 0.04
    contexts = [rng.randrange(1, 9000) for _ in range(20)]
    for done, seconds in enumerate(times.decode_run(contexts, 30)):
        shape = StepShape((1,) * 20, tuple(c + done for c in contexts), 20)
        assert seconds == pytest.approx(times(shape))


@pytest.mark.parametrize("model", ["openai/gpt-oss-20b", "meta-llama/Meta-Llama-3.1-8B"])
def test_tables_say_the_same_whatever_they_were_asked_before(model: str) -> None:
    """Places that are priced together, or one by one."""
    deployment, rng = deployed(model, "fp8", tp=2), random.Random(3)
    shapes, runs = [], []
    for _ in range(60):
        answers = [(1, rng.randrange(1, 9000)) for _ in range(rng.choice([0, 1, 31, 32, 33, 300]))]
        prompts = [(rng.randrange(20, 9000), 64) for _ in range(rng.choice([0, 1, 3]))]
        rows = [*answers, *prompts, (1, 5)]
        new, contexts = zip(*rows, strict=True)
        shapes.append(StepShape(new, contexts, rng.choice([0, len(rows)])))
        runs.append((contexts, rng.choice([1, 40, 2000])))
    forward, backward = deployment.step_times(), deployment.step_times()
    ahead = [forward(shape) for shape in shapes]
    told = [forward.decode_run(*run).tolist() for run in runs]
    assert told[::-1] == [backward.decode_run(*run).tolist() for run in runs[::-1]]
    assert ahead[::-1] == [backward(shape) for shape in shapes[::-1]]


def test_meshes_that_share_their_parts_are_as_if_they_did_not() -> None:
    described = describe(MODELS["Qwen/Qwen3-30B-A3B"]["config"], "fp8")
    parted: dict[tuple[int, int], Parted] = {}
    for mesh in (Mesh(), Mesh(tp=2), Mesh(tp=2, pp=2), Mesh(dp=4, ep=4), Mesh(tp=2, dp=2, ep=4)):
        shared = deploy(described, chip=CHIP, mesh=mesh, parted=parted)
        assert shared == deploy(described, chip=CHIP, mesh=mesh)
    assert sorted(parted) == [(1, 1), (1, 4), (2, 1), (2, 4)]


def linear_flops(d: Deployment, decode: float, prompts: float = 0.0) -> float:
    """Of a layer's linears, which take all tokens of a step."""
    steps = uniform_steps(
        d.windows, decode=decode, context=100.0, prompts=prompts, prompt_tokens=50.0
    )
    pieces = d.pieces(steps)
    tokens = pieces.tokens[0]
    assert (pieces.tokens == tokens).all()
    return float(tokens)


def test_steps_of_answers_are_as_large_as_their_cuda_graph() -> None:
    """Graphs are there for 1, 2, 4, 8 and each 8 up to 512 tokens; a step takes the next larger."""
    d = deployed("Qwen/Qwen3-32B")
    sizes = (1, 2, 4, *range(8, 513, 8))
    for rows in (*range(1, 70), 127, 128, 129, 257, 505, 511, 512):
        assert linear_flops(d, rows) == min(size for size in sizes if size >= rows), rows
    # Beyond the largest, and beside a prompt, kernels are launched for what there is.
    assert linear_flops(d, 513) == 513
    assert linear_flops(d, 9, prompts=1) == 59
    assert linear_flops(d, 0, prompts=1) == 50
    prices = d.price(uniform_steps(d.windows, decode=np.arange(17.0, 26.0), context=100.0))
    # Of the padding only attention and the host's rows are less.
    assert np.diff(prices)[:7].max() < 0.1 * np.diff(prices)[7]


def test_each_group_pads_its_own_rows() -> None:
    d = deployed("Qwen/Qwen3-32B", tp=1, dp=4)
    assert linear_flops(d, 4 * 9) == 16
    assert linear_flops(d, 4 * 8) == 8
    # The busiest of four groups has 3 of 9 rows: a graph of 4.
    assert linear_flops(d, 9) == 4


def test_padded_rows_read_no_cache() -> None:
    d = deployed("Qwen/Qwen3-32B")
    nine, sixteen = (
        d.pieces(uniform_steps(d.windows, decode=rows, context=1000.0)) for rows in (9.0, 16.0)
    )
    assert nine.flops.sum() == pytest.approx(sixteen.flops.sum(), rel=0.02)  # but the sampled
    assert nine.decode_bytes.sum() == pytest.approx(9 / 16 * sixteen.decode_bytes.sum())
    assert nine.decode_flops.sum() == pytest.approx(9 / 16 * sixteen.decode_flops.sum())


def test_experts_without_kernels_of_their_own_have_a_longer_floor() -> None:
    described = describe(MODELS["deepseek-ai/DeepSeek-R1"]["config"], "fp8_block")
    steps = uniform_steps((None,), decode=8.0, context=1000.0)

    def seconds(engine: str, slow: float, year: int, version: str = "") -> float:
        profile = replace(PUBLISHED, values={**PUBLISHED.values, "experts.slow": slow})
        d = deploy(
            described,
            chip=replace(CHIP, year=year),
            mesh=Mesh(tp=8),
            engine=engine,
            version=version,
            profile=profile,
        )
        return float(d.price(steps)[0])

    def longer(engine: str, year: int, version: str = "") -> float:
        return seconds(engine, 3.0, year, version) / seconds(engine, 1.0, year, version)

    assert longer("trtllm", 2023) > 1.05
    assert longer("trtllm", 2025, "1.1.0rc2") > 1.05
    assert longer("trtllm", 2025) == longer("vllm", 2023) == longer("sglang", 2025) == 1.0


def test_engines_keep_room_for_answers_in_their_way() -> None:
    """TensorRT-LLM holds whole answers, of 90 % of what weights leave free; vLLM takes blocks as
    answers grow, of 90 % of the memory less the weights."""
    described = describe(MODELS["Qwen/Qwen3-32B"]["config"], "fp8")
    one, other = (deploy(described, chip=CHIP, engine=name) for name in ("vllm", "trtllm"))
    for d, context in ((one, 1500.0), (other, 2000.0)):
        assert d.rows(1000, 1000) == pytest.approx(d.room.rows(context))
    used = other.room.weight_bytes + other.room.value_bytes
    free = CHIP.memory_bytes - 2 * 2**30 - used
    assert other.room.kv_bytes == pytest.approx(0.9 * free)
    assert one.room.kv_bytes == pytest.approx(0.9 * CHIP.memory_bytes - 2 * 2**30 - used)


def test_a_version_has_its_eras_host() -> None:
    described = describe(MODELS["Qwen/Qwen3-32B"]["config"], "fp8")
    values = {**PUBLISHED.values, "host.step.trtllm-1.0": 8e-3}
    profile = replace(PUBLISHED, values=values)
    steps = uniform_steps((None,), decode=4.0, context=500.0)
    old, new = (
        deploy(described, chip=CHIP, engine="trtllm", version=version, profile=profile)
        for version in ("1.0.0rc3", "1.2.0")
    )
    assert old.era == "trtllm-1.0"
    assert new.era == "trtllm"
    assert old.price(steps)[0] > 1.2 * new.price(steps)[0]


def test_an_all_reduce_in_one_shot_does_not_grow_with_the_ranks() -> None:
    """Of one row the message is small: 128 all-reduces take their floor at any tp."""
    found = []
    for tp in (2, 4, 8):
        d = deployed("Qwen/Qwen3-32B", tp=tp).with_profile(PUBLISHED)
        estimate = d.step_seconds(StepShape.decode(1, 100))
        found.append(estimate.by_class["collective"])
    assert found[0] == pytest.approx(128 * PUBLISHED["collective.latency"], rel=0.05)
    assert found[2] == pytest.approx(found[0], rel=0.1)


def test_the_switch_adds_where_an_engine_lets_it() -> None:
    """A prompt of 4,096 on eight ranks: NVLS sends 9/8 of a message, a ring 14/8."""
    described = describe(MODELS["Qwen/Qwen3-32B"]["config"], "fp8")

    def reduced(engine: str, in_switch: bool) -> float:
        chip = replace(CHIP, in_switch=in_switch)
        d = deploy(described, chip=chip, mesh=Mesh(tp=8), engine=engine, profile=PUBLISHED)
        return d.step_seconds(StepShape((4096,), (0,), 1)).by_class["collective"]

    assert reduced("vllm", True) < 0.8 * reduced("vllm", False)
    for engine in ("sglang", "trtllm"):
        assert reduced(engine, True) == reduced(engine, False) == reduced("vllm", False)


def launched(engine: str, version: str, tokens: int, *, model: str, **axes: int) -> float:
    """Operators that the host launches by itself, of a prompt of so many tokens beside 4 answers,
    for each attention of the model."""
    d = deployed(model, **axes)
    d = replace(d, engine=engine, version=version)
    groups = axes.get("dp", 1)
    shape = StepShape((1,) * 4 * groups + (tokens,) * groups, (99,) * 5 * groups, 5 * groups)
    attention = sum(line.count for line in d.lines if line.kind == "attention")
    return float(d.eager(steps_of((shape,), d.windows))[0]) / attention


@pytest.mark.parametrize(
    ("engine", "version", "largest"),
    [
        ("vllm", "", 512),
        ("vllm", "0.12.0", 512),
        ("vllm", "0.7.3", 0),
        ("sglang", "0.5.10.post1", 8192),
        ("sglang", "0.5.9", 0),
        ("trtllm", "1.2.0", 0),
    ],
)
def test_small_prompts_beside_answers_are_pieces_of_graphs(
    engine: str, version: str, largest: int
) -> None:
    model = "Qwen/Qwen3-32B"
    every = launched("trtllm", "", 64, model=model, tp=2)
    assert every > 5
    if largest:
        # Attention, and the piece of graph after it.
        assert launched(engine, version, largest - 4, model=model, tp=2) == 2
    assert launched(engine, version, largest + 64, model=model, tp=2) == every


def test_sglang_captures_less_of_latents_and_nothing_of_groups() -> None:
    model, axes = "deepseek-ai/DeepSeek-R1", {"tp": 8}
    assert launched("sglang", "", 2000, model=model, **axes) == 2
    assert launched("sglang", "", 2100, model=model, **axes) > 5
    apart = {"dp": 8, "ep": 8}
    assert launched("sglang", "", 64, model=model, **apart) > 5
    assert launched("vllm", "", 64, model=model, **apart) == 2


def test_experts_compute_whole_tiles() -> None:
    """Of 64 rows over 8 experts each has 8: a tile of 16 doubles them, one of 1 hardly adds."""
    each, all_touched = np.array([8.0]), np.array([1.0])
    assert filled_up(each, all_touched, 16.0) == pytest.approx(2.0)
    assert filled_up(each, all_touched, 1.0) == pytest.approx(1.0625)
    # What no token needs is not computed.
    assert filled_up(np.array([0.01]), np.array([0.01]), 16.0) == pytest.approx(9.0)


def test_norms_over_all_heads_are_exchanged_by_ranks() -> None:
    """MiniMax M2: two sums of squares in FP32, 8 bytes of each token, in each of 62 layers."""
    described = describe(load_configuration("MiniMaxAI/MiniMax-M2.5").config, "fp8")
    assert described.whole_norms == 62
    alone, both = (deploy(described, chip=CHIP, mesh=Mesh(tp=tp)) for tp in (1, 2))
    assert not [line for line in alone.lines if line.name.endswith("norms.all_reduce")]
    (sums,) = [line for line in both.lines if line.name.endswith("norms.all_reduce")]
    assert (sums.count, sums.ways, sums.collective) == (62, 2, "all_reduce")
    # Of a ring's two ranks each sends the value once.
    assert sums.link_bytes == (0.0, 62 * 8.0, 0.0, 0.0)
    assert describe(MODELS["Qwen/Qwen3-32B"]["config"], "bf16").whole_norms == 0


def test_weights_turned_to_bf16_reach_half_of_a_new_chips_share() -> None:
    """Experts in 4 bits, of as many tokens that arithmetic is what takes time."""
    described = describe(load_configuration("moonshotai/Kimi-K2.5").config, "int4_wo")
    fast = replace(CHIP, memory_bytes_per_second=1e18, year=2024)
    pieces = [
        deploy(described, chip=replace(fast, year=year), mesh=Mesh(tp=8)).pieces(
            uniform_steps((None,), prompts=1.0, prompt_tokens=8192.0)
        )
        for year in (2024, 2025)
    ]
    profile = replace(PUBLISHED, values={**PUBLISHED.values, "new.compute": 1.0})
    is_experts = pieces[0].kind == KINDS.index("experts")
    old, new = (piece_seconds(p, profile)[is_experts].sum() for p in pieces)
    floor = 60 * 384 / 256 * profile["floor.experts.w4a16"]
    assert new - floor == pytest.approx(2 * (old - floor), rel=1e-3)


def test_every_published_architecture_is_priced() -> None:
    seen = set()
    for one in configurations():
        (name,) = one.config["architectures"]
        if name not in seen and name not in NOT_BUILT:
            seen.add(name)
            lines = compile_lines(fuse(describe(one.config, "bf16").graph))
            assert {"linear", "attention"} <= {line.kind for line in lines}, name
    assert len(seen) > 25


def test_what_selects_blocks_looks_at_every_token() -> None:
    graph = fuse(describe(load_configuration("minimax-m3").config, "bf16").graph)
    (line,) = [line for line in compile_lines(graph) if line.name.endswith("index.select")]
    nodes = [node for node in graph.nodes if isinstance(node.op, SelectBlocks)]
    step = StepShape((1, 1, 300), (5000, 70, 0), 3)
    work = sum((node.op.cost(node, step, Precision()) for node in nodes), Work())
    assert (line.count, line.window) == (len(nodes), None)
    pairs = 5001 + 71 + 300 * 301 // 2
    assert line.decode_pair_flops * pairs == pytest.approx(work.total_flops)
    assert line.token_bytes * (5001 + 71 + 300) == pytest.approx(work.kv_read_bytes)
