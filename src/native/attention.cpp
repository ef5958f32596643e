// attention: scaled dot-product attention over the paged cache. Layout and determinism: attention.h.
#include "attention.h"

#include <algorithm>

#include "family_kernels.h"
#include "pairs.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// The register tile of scores and of outputs: kTileVectors x kTileLines accumulators of 16 lanes.
#if defined(RIDGELINE_ISA_avx512)
constexpr int kTileVectors = 6, kTileLines = 4;
#elif defined(RIDGELINE_ISA_avx2)
constexpr int kTileVectors = 4, kTileLines = 1;
#else
constexpr int kTileVectors = 2, kTileLines = 1;
#endif

constexpr std::int64_t kBlocksPerChunk = kChunkTokens / kBlockTokens;
constexpr std::int64_t kLine = 2 * kWidth;  // bfloat16 of a line of pairs

// What a thread needs while it attends: see attention_scratch_bytes. Scores are in units of ln 2.
struct Scratch {
  std::uint16_t* q;        // [vectors, head_dim padded to 32], scaled
  float* states;           // [vectors, partial_floats]: running outputs, largest score, sum
  float* scores;           // [kTileVectors, kChunkTokens]
  std::uint16_t* weights;  // [kTileVectors, kChunkTokens]
  float* chunk;            // [kTileVectors, partial_floats]
};

std::int64_t max_vectors(std::int64_t group, std::int64_t head_dim) {
  return queries_per_item(group, head_dim) * group;
}

std::int64_t query_stride(std::int64_t head_dim) { return (head_dim + 2 * kWidth - 1) / (2 * kWidth) * (2 * kWidth); }

Scratch scratch_of(const AttentionArgs& args, std::byte* memory) {
  const std::int64_t vectors = max_vectors(args.group, args.head_dim);
  float* p = reinterpret_cast<float*>(memory);
  Scratch out;
  out.q = reinterpret_cast<std::uint16_t*>(p);
  p += vectors * query_stride(args.head_dim) / 2;
  out.states = p;
  p += vectors * partial_floats(args.value_dim);
  out.scores = p;
  p += kTileVectors * kChunkTokens;
  out.weights = reinterpret_cast<std::uint16_t*>(p);
  p += kTileVectors * kChunkTokens / 2;
  out.chunk = p;
  return out;
}

constexpr float kLog2E = 1.44269504f;

// 2^x within 3e-6 of its value; 0 below 2^-126; NaN stays. x = n + r, |r| <= 1/2; a polynomial in r whose largest
// relative error is least.
inline Vec power_of_2(Vec x) {
  const Vec clamped = max(all(-126.0f), x);
  const Vec n = round_even(clamped), r = sub(clamped, n);
  Vec p = all(0.00958285259f);
  p = fma(p, r, all(0.0559064285f));
  p = fma(p, r, all(0.240240986f));
  p = fma(p, r, all(0.693124193f));
  p = fma(p, r, all(1.0f));
  return select(less(x, all(-126.0f)), zeros(), times_power(p, n));
}

// -infinity in the lanes before `low` and after `high`.
inline Vec hide(Vec scores, std::int64_t low, std::int64_t high) {
  alignas(64) static constexpr float kRamp[kWidth] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vec lane = load(kRamp), hidden = all(-INFINITY);
  // Within a block the numbers are small, so that float32 compares them exactly.
  const float first = static_cast<float>(low > kWidth ? kWidth : low < 0 ? 0 : low);
  const float last = static_cast<float>(high < -1 ? -1 : high > kWidth ? kWidth : high);
  return select(less(all(last), lane), hidden, select(less(lane, all(first)), hidden, scores));
}

// Tokens [first, last] that a query at `position` sees.
struct Range {
  std::int64_t first, last;
};
Range visible(const AttentionArgs& args, std::int64_t position) {
  const std::int64_t first = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
  return {first, args.causal ? position : args.num_context + args.num_new - 1};
}

// Key and value tiles of a chunk's blocks [first, first + count).
struct Tiles {
  const std::uint16_t* keys[kBlocksPerChunk];
  const std::uint16_t* values[kBlocksPerChunk];
};
void find_tiles(const AttentionArgs& args, std::int64_t first, std::int64_t count, Tiles& tiles) {
  for (std::int64_t b = 0; b < count; b++) {
    const std::size_t offset = static_cast<std::size_t>(args.block_table[first + b]) * args.block_stride;
    tiles.keys[b] = reinterpret_cast<const std::uint16_t*>(args.keys + offset);
    tiles.values[b] = reinterpret_cast<const std::uint16_t*>(args.values + offset);
  }
}

// Tiles that are asked for while others are computed, one a block.
struct Ahead {
  const std::uint16_t* tiles[kBlocksPerChunk];
  std::int64_t count = 0;
  std::int64_t num_bytes = 0;

  void ask(std::int64_t block) const {
    if (block >= count) return;
    for (std::int64_t i = 0; i < num_bytes; i += 64) prefetch_far(reinterpret_cast<const std::byte*>(tiles[block]) + i);
  }
};

// The key tiles that a chunk will read of what one query at `position` sees.
Ahead keys_ahead(const AttentionArgs& args, std::int64_t chunk) {
  Ahead out;
  const std::int64_t begin = chunk * kBlocksPerChunk, end = (args.num_context + args.num_new - 1) / kBlockTokens + 1;
  out.num_bytes = static_cast<std::int64_t>(key_tile_bytes(args.head_dim));
  for (std::int64_t b = begin; b < end && b < begin + kBlocksPerChunk; b++)
    out.tiles[out.count++] = reinterpret_cast<const std::uint16_t*>(
        args.keys + static_cast<std::size_t>(args.block_table[b]) * args.block_stride);
  return out;
}

// scores[i][16 b + lane] = sum over pairs of channels of q[i] * key: one chain over the pairs, whatever the tile.
template <int Vectors, int Lines>
void score_tile(const std::uint16_t* q, std::int64_t ldq, std::int64_t num_pairs, const std::uint16_t* const* tiles,
                float* scores) {
  Vec acc[Vectors][Lines];
  for (int i = 0; i < Vectors; i++)
    for (int b = 0; b < Lines; b++) acc[i][b] = zeros();
  for (std::int64_t d = 0; d < num_pairs; d++) {
    Pairs keys[Lines];
    for (int b = 0; b < Lines; b++) keys[b] = load_pairs(tiles[b] + d * kLine);
    for (int i = 0; i < Vectors; i++) {
      const Pairs channels = all_pairs(q + i * ldq + 2 * d);
      for (int b = 0; b < Lines; b++) acc[i][b] = dot(channels, keys[b], acc[i][b]);
    }
  }
  for (int i = 0; i < Vectors; i++)
    for (int b = 0; b < Lines; b++) store(scores + i * kChunkTokens + b * kBlockTokens, acc[i][b]);
}

// out[i][16 l + lane] = sum over pairs of tokens of weights[i] * value: one chain over the chunk's pairs, whatever the
// tile. Meanwhile `ahead` is asked for.
template <int Vectors, int Lines>
void value_tile(const std::uint16_t* weights, const std::uint16_t* const* tiles, std::int64_t num_blocks,
                std::int64_t ldv, const Ahead& ahead, float* out, std::int64_t ldo) {
  Vec acc[Vectors][Lines];
  for (int i = 0; i < Vectors; i++)
    for (int l = 0; l < Lines; l++) acc[i][l] = zeros();
  for (std::int64_t b = 0; b < num_blocks; b++) {
    ahead.ask(b);
    for (std::int64_t t = 0; t < kBlockTokens; t += 2) {
      Pairs values[Lines];
      for (int l = 0; l < Lines; l++) values[l] = load_pairs(tiles[b] + t * ldv + l * kLine);
      for (int i = 0; i < Vectors; i++) {
        const Pairs weight = all_pairs(weights + i * kChunkTokens + b * kBlockTokens + t);
        for (int l = 0; l < Lines; l++) acc[i][l] = dot(weight, values[l], acc[i][l]);
      }
    }
  }
  for (int i = 0; i < Vectors; i++)
    for (int l = 0; l < Lines; l++) store(out + i * ldo + l * kWidth, acc[i][l]);
}

// Calls f with std::integral_constant-like tags for the run-time sizes of a tile.
template <int N>
struct Size {
  static constexpr int value = N;
};
template <int N, class F>
inline void with_size(int n, F f) {
  if constexpr (N == 1) {
    f(Size<1>{});
  } else {
    if (n >= N) {
      f(Size<N>{});
    } else {
      with_size<N - 1>(n, f);
    }
  }
}

// Scores of a vector in units of ln 2 become weights 2^(score - largest), 0 where hidden, rounded to bfloat16. Gives the
// largest visible score, and the sum of the weights before they are rounded.
void softmax(const AttentionArgs& args, float* scores, std::uint16_t* weights, std::int64_t first_token,
             std::int64_t num_blocks, Range seen, float& largest_score, float& total) {
  const Vec hidden = all(-INFINITY);
  Vec top = hidden;
  for (std::int64_t b = 0; b < num_blocks; b++) {
    const std::int64_t token = first_token + b * kBlockTokens;
    Vec s = load(scores + b * kBlockTokens);
    if (args.softcap > 0) s = mul(all(args.softcap * kLog2E), tanh(div(s, all(args.softcap))));
    if (token < seen.first || token + kBlockTokens - 1 > seen.last) {
      s = hide(s, seen.first - token, seen.last - token);
      store(scores + b * kBlockTokens, s);
    } else if (args.softcap > 0) {
      store(scores + b * kBlockTokens, s);
    }
    top = max(top, s);
  }
  largest_score = largest(top);
  const Vec base = all(largest_score == -INFINITY ? 0.0f : largest_score);
  Vec sums = zeros();
  for (std::int64_t b = 0; b < num_blocks; b += 2) {
    const Vec first = power_of_2(sub(load(scores + b * kBlockTokens), base));
    const Vec second = b + 1 < num_blocks ? power_of_2(sub(load(scores + (b + 1) * kBlockTokens), base)) : zeros();
    sums = add(add(sums, first), second);
    store_pairs(weights + b * kBlockTokens, join(first, second));
  }
  total = sum(sums);
}

// A vector that has seen nothing.
void clear(float* state, std::int64_t outputs) {
  for (std::int64_t i = 0; i < outputs; i += kWidth) store(state + i, zeros());
  state[outputs] = -INFINITY;
  state[outputs + 1] = 0.0f;
}

// One chunk of vectors [begin, begin + count), count <= kTileVectors, into `out` [count, partial_floats]. With `next`,
// nobody will come back to the chunk's tiles: its values are fetched from memory while scores are computed, and the keys
// of `next` while the values are added up.
void compute_chunk(const AttentionArgs& args, const Scratch& scratch, std::int64_t query_begin, std::int64_t begin,
                   int count, std::int64_t chunk, const AttentionNext* next, float* out) {
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t ldq = query_stride(args.head_dim), num_pairs = (args.head_dim + 1) / 2;
  const auto position_of = [&](std::int64_t vector) { return args.num_context + query_begin + vector / args.group; };
  const std::int64_t chunk_first = chunk * kChunkTokens, chunk_last = chunk_first + kChunkTokens - 1;
  const std::int64_t lowest = visible(args, position_of(begin)).first;
  const std::int64_t highest = visible(args, position_of(begin + count - 1)).last;
  if (lowest > chunk_last || highest < chunk_first) {
    for (int i = 0; i < count; i++) clear(out + i * stride, outputs);
    return;
  }
  const std::int64_t block_first = (lowest > chunk_first ? lowest : chunk_first) / kBlockTokens;
  const std::int64_t block_last = (highest < chunk_last ? highest : chunk_last) / kBlockTokens;
  const int num_blocks = static_cast<int>(block_last - block_first + 1);
  Tiles tiles;
  find_tiles(args, block_first, num_blocks, tiles);

  Ahead ahead;
  if (next) {
    std::copy(tiles.values, tiles.values + num_blocks, ahead.tiles);
    ahead.count = num_blocks;
    ahead.num_bytes = static_cast<std::int64_t>(value_tile_bytes(args.value_dim));
  }
  with_size<kTileVectors>(count, [&](auto vectors) {
    for (int b = 0; b < num_blocks; b += kTileLines) {
      for (int i = 0; i < kTileLines; i++) ahead.ask(b + i);
      with_size<kTileLines>(num_blocks - b, [&](auto lines) {
        score_tile<decltype(vectors)::value, decltype(lines)::value>(
            scratch.q + begin * ldq, ldq, num_pairs, tiles.keys + b, scratch.scores + b * kBlockTokens);
      });
    }
  });
  for (int i = 0; i < count; i++) {
    float* result = out + i * stride + outputs;
    softmax(args, scratch.scores + i * kChunkTokens, scratch.weights + i * kChunkTokens, block_first * kBlockTokens,
            num_blocks, visible(args, position_of(begin + i)), result[0], result[1]);
  }
  ahead = next && next->args ? keys_ahead(*next->args, next->chunk) : Ahead{};
  with_size<kTileVectors>(count, [&](auto vectors) {
    for (std::int64_t l = 0; l < outputs; l += kTileLines * kWidth) {
      const std::uint16_t* columns[kBlocksPerChunk];
      for (int b = 0; b < num_blocks; b++) columns[b] = tiles.values[b] + 2 * l;
      with_size<kTileLines>(static_cast<int>((outputs - l) / kWidth), [&](auto lines) {
        value_tile<decltype(vectors)::value, decltype(lines)::value>(scratch.weights, columns, num_blocks, outputs,
                                                                     ahead, out + l, stride);
      });
      ahead.count = 0;
    }
  });
}

// Adds a chunk to the running states of `count` vectors, count <= kTileVectors. A chunk of which a vector sees nothing
// changes no bit of it.
void merge(float* states, const float* chunk, std::int64_t count, std::int64_t outputs) {
  const std::int64_t stride = outputs + kBlockTokens;
  float state_top[kWidth] = {}, chunk_top[kWidth] = {}, top[kWidth], keep[kWidth], take[kWidth];
  for (std::int64_t i = 0; i < count; i++) {
    state_top[i] = states[i * stride + outputs];
    chunk_top[i] = chunk[i * stride + outputs];
  }
  const Vec before = load(state_top), added = load(chunk_top), larger = max(before, added);
  store(top, larger);
  store(keep, power_of_2(sub(before, larger)));
  store(take, power_of_2(sub(added, larger)));
  for (std::int64_t i = 0; i < count; i++) {
    if (chunk_top[i] == -INFINITY) continue;
    float* state = states + i * stride;
    const float* part = chunk + i * stride;
    for (std::int64_t l = 0; l < outputs; l += kWidth)
      store(state + l, fma(load(part + l), all(take[i]), mul(load(state + l), all(keep[i]))));
    state[outputs] = top[i];
    const float taken = part[outputs + 1] * take[i];
    state[outputs + 1] = state[outputs + 1] * keep[i] + taken;
  }
}

void finish(const AttentionArgs& args, const float* state, std::int64_t query, std::int64_t head) {
  float* out = args.out + query * args.ldo + head * args.value_dim;
  const Vec inverse = all(1.0f / state[padded_to_16(args.value_dim) + 1]);
  for (std::int64_t i = 0; i < args.value_dim; i += kWidth)
    store_n(out + i, mul(load(state + i), inverse), args.value_dim - i);
}

// Queries in units of which the scores come out in units of ln 2; a soft cap takes them as they are.
void round_queries(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::uint16_t* q) {
  const Vec scale = all(args.softcap > 0 ? args.scale : args.scale * kLog2E);
  for (std::int64_t query = query_begin; query < query_end; query++)
    for (std::int64_t head = 0; head < args.group; head++) {
      const float* from = args.q + query * args.ldq + head * args.head_dim;
      for (std::int64_t i = 0; i < args.head_dim; i += 2 * kWidth) {
        const std::int64_t left = args.head_dim - i;
        const Vec first = load_n(from + i, left);
        const Vec second = left > kWidth ? load_n(from + i + kWidth, left - kWidth) : zeros();
        store_pairs(q + i, join(mul(first, scale), mul(second, scale)));
      }
      q += query_stride(args.head_dim);
    }
}

}  // namespace

std::size_t attention_scratch_bytes(std::int64_t group, std::int64_t head_dim, std::int64_t value_dim) {
  const std::int64_t vectors = max_vectors(group, head_dim);
  const std::int64_t floats = vectors * (query_stride(head_dim) / 2 + partial_floats(value_dim)) +
                              kTileVectors * (kChunkTokens * 3 / 2 + partial_floats(value_dim));
  return static_cast<std::size_t>(floats) * sizeof(float);
}

void attend(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, const AttentionArgs* next,
            std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  round_queries(args, query_begin, query_end, scratch.q);
  const std::int64_t first = visible(args, args.num_context + query_begin).first / kChunkTokens;
  const std::int64_t last = visible(args, args.num_context + query_end - 1).last / kChunkTokens;
  for (std::int64_t chunk = first; chunk <= last; chunk++) {
    AttentionNext after{&args, chunk + 1};
    if (chunk == last) after = {next, next ? visible(*next, next->num_context).first / kChunkTokens : 0};
    for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
      const int count = static_cast<int>(vectors - begin < kTileVectors ? vectors - begin : kTileVectors);
      float* states = scratch.states + begin * stride;
      float* out = chunk == first ? states : scratch.chunk;
      compute_chunk(args, scratch, query_begin, begin, count, chunk, vectors <= kTileVectors ? &after : nullptr, out);
      if (chunk != first) merge(states, out, count, outputs);
    }
  }
  for (std::int64_t i = 0; i < vectors; i++)
    finish(args, scratch.states + i * stride, query_begin + i / args.group, i % args.group);
}

void attend_chunk(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::int64_t chunk,
                  const AttentionNext& next, float* partials, std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  round_queries(args, query_begin, query_end, scratch.q);
  for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
    const int count = static_cast<int>(vectors - begin < kTileVectors ? vectors - begin : kTileVectors);
    compute_chunk(args, scratch, query_begin, begin, count, chunk, vectors <= kTileVectors ? &next : nullptr,
                  partials + begin * stride);
  }
}

void merge_chunks(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                  std::int64_t chunk_begin, std::int64_t chunk_end, const float* partials, std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
    const std::int64_t count = vectors - begin < kTileVectors ? vectors - begin : kTileVectors;
    const float* part = partials + begin * stride;
    std::memcpy(scratch.states, part, static_cast<std::size_t>(count * stride) * sizeof(float));
    for (std::int64_t chunk = chunk_begin + 1; chunk < chunk_end; chunk++)
      merge(scratch.states, part += vectors * stride, count, outputs);
    for (std::int64_t i = begin; i < begin + count; i++)
      finish(args, scratch.states + (i - begin) * stride, query_begin + i / args.group, i % args.group);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
