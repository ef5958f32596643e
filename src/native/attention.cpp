// attention: writes of the paged cache, and scaled dot-product attention over it. Layout and determinism: attention.h.
#include "attention.h"

#include "family_kernels.h"
#include "simd.h"

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

// Float16 has no room above 65504; a key or value beyond is held there. NaN stays.
inline Vec clamp_half(Vec x) { return min(all(65504.0f), max(all(-65504.0f), x)); }

inline const std::uint16_t* halves(const std::byte* p) { return reinterpret_cast<const std::uint16_t*>(p); }

// What a thread needs while it attends: see attention_scratch_bytes.
struct Scratch {
  float* q;       // [vectors, head_dim], scaled
  float* states;  // [vectors, partial_floats]: running outputs, largest score, sum
  float* scores;  // [kTileVectors, kChunkTokens]
  float* chunk;   // [kTileVectors, partial_floats]
};

std::int64_t max_vectors(std::int64_t group, std::int64_t head_dim) {
  return queries_per_item(group, head_dim) * group;
}

Scratch scratch_of(const AttentionArgs& args, std::byte* memory) {
  const std::int64_t vectors = max_vectors(args.group, args.head_dim);
  float* p = reinterpret_cast<float*>(memory);
  Scratch out;
  out.q = p;
  p += vectors * padded_to_16(args.head_dim);
  out.states = p;
  p += vectors * partial_floats(args.value_dim);
  out.scores = p;
  p += kTileVectors * kChunkTokens;
  out.chunk = p;
  return out;
}

// Tokens [first, last] that a query at `position` sees.
struct Range {
  std::int64_t first, last;
};
Range visible(const AttentionArgs& args, std::int64_t position) {
  const std::int64_t first = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
  return {first, args.causal ? position : args.num_context + args.num_new - 1};
}

void prefetch_tile(const std::byte* tile, std::size_t num_bytes) {
  for (std::size_t i = 0; i < num_bytes; i += 64) prefetch(tile + i);
}

// Key (or value) tiles of blocks [first, last] of the row's table, as far as they exist.
void prefetch_tiles(const AttentionArgs& args, const std::byte* tiles, std::size_t tile_bytes, std::int64_t first,
                    std::int64_t last) {
  const std::int64_t end = (args.num_context + args.num_new - 1) / kBlockTokens;
  for (std::int64_t b = first; b <= last && b <= end; b++)
    prefetch_tile(tiles + static_cast<std::size_t>(args.block_table[b]) * args.block_stride, tile_bytes);
}

// scores[i][16 b + lane] = sum over channels of q[i][d] * key: one chain over d, whatever the tile.
template <int Vectors, int Lines>
void score_tile(const float* q, std::int64_t ldq, std::int64_t head_dim, const std::uint16_t* const* tiles,
                float* scores) {
  Vec acc[Vectors][Lines];
  for (int i = 0; i < Vectors; i++)
    for (int b = 0; b < Lines; b++) acc[i][b] = zeros();
  for (std::int64_t d = 0; d < head_dim; d++) {
    Vec keys[Lines];
    for (int b = 0; b < Lines; b++) keys[b] = load_half(tiles[b] + d * kBlockTokens);
    for (int i = 0; i < Vectors; i++) {
      const Vec channel = all(q[i * ldq + d]);
      for (int b = 0; b < Lines; b++) acc[i][b] = fma(channel, keys[b], acc[i][b]);
    }
  }
  for (int i = 0; i < Vectors; i++)
    for (int b = 0; b < Lines; b++) store(scores + i * kChunkTokens + b * kBlockTokens, acc[i][b]);
}

// out[i][16 l + lane] = sum over tokens of weight[i][t] * value: one chain over the chunk's tokens, whatever the tile.
template <int Vectors, int Lines>
void value_tile(const float* weights, const std::uint16_t* const* tiles, std::int64_t num_blocks, std::int64_t ldv,
                float* out, std::int64_t ldo) {
  Vec acc[Vectors][Lines];
  for (int i = 0; i < Vectors; i++)
    for (int l = 0; l < Lines; l++) acc[i][l] = zeros();
  for (std::int64_t b = 0; b < num_blocks; b++) {
    for (std::int64_t t = 0; t < kBlockTokens; t++) {
      Vec values[Lines];
      for (int l = 0; l < Lines; l++) values[l] = load_half(tiles[b] + t * ldv + l * kWidth);
      for (int i = 0; i < Vectors; i++) {
        const Vec weight = all(weights[i * kChunkTokens + b * kBlockTokens + t]);
        for (int l = 0; l < Lines; l++) acc[i][l] = fma(weight, values[l], acc[i][l]);
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

// The largest visible score of a vector; scores become weights e^(score - largest), 0 where hidden. Their sum.
void softmax(const AttentionArgs& args, float* scores, std::int64_t first_token, std::int64_t num_blocks, Range seen,
             float& largest_score, float& total) {
  const Vec hidden = all(-INFINITY);
  float ramp[kWidth];
  for (int i = 0; i < kWidth; i++) ramp[i] = static_cast<float>(i);
  Vec top = hidden;
  for (std::int64_t b = 0; b < num_blocks; b++) {
    const std::int64_t token = first_token + b * kBlockTokens;
    Vec s = load(scores + b * kBlockTokens);
    if (args.softcap > 0) s = mul(all(args.softcap), tanh(div(s, all(args.softcap))));
    if (token < seen.first || token + kBlockTokens - 1 > seen.last) {
      // Offsets within a block are small, so that float32 compares them exactly.
      const std::int64_t low = seen.first - token, high = seen.last - token;
      const Vec lane = load(ramp);
      s = select(less(lane, all(static_cast<float>(low > kWidth ? kWidth : low < 0 ? 0 : low))), hidden, s);
      s = select(less(all(static_cast<float>(high < -1 ? -1 : high > kWidth ? kWidth : high)), lane), hidden, s);
    }
    top = max(top, s);
    store(scores + b * kBlockTokens, s);
  }
  largest_score = largest(top);
  const Vec base = all(largest_score == -INFINITY ? 0.0f : largest_score);
  Vec sums = zeros();
  for (std::int64_t b = 0; b < num_blocks; b++) {
    const Vec weight = exp(sub(load(scores + b * kBlockTokens), base));
    sums = add(sums, weight);
    store(scores + b * kBlockTokens, weight);
  }
  total = sum(sums);
}

// One chunk of vectors [begin, begin + count), count <= kTileVectors, into scratch.chunk. streams: nobody will come
// back to the chunk's tiles, so they are fetched from memory while the ones before them are computed.
void compute_chunk(const AttentionArgs& args, const Scratch& scratch, std::int64_t query_begin, std::int64_t begin,
                   int count, std::int64_t chunk, bool streams) {
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t ldq = padded_to_16(args.head_dim);
  const auto position_of = [&](std::int64_t vector) { return args.num_context + query_begin + vector / args.group; };
  const std::int64_t chunk_first = chunk * kChunkTokens, chunk_last = chunk_first + kChunkTokens - 1;
  const std::int64_t lowest = visible(args, position_of(begin)).first;
  const std::int64_t highest = visible(args, position_of(begin + count - 1)).last;
  if (lowest > chunk_last || highest < chunk_first) {
    for (int i = 0; i < count; i++) {
      scratch.chunk[i * stride + outputs] = -INFINITY;
      scratch.chunk[i * stride + outputs + 1] = 0.0f;
    }
    return;
  }
  const std::int64_t block_first = (lowest > chunk_first ? lowest : chunk_first) / kBlockTokens;
  const std::int64_t block_last = (highest < chunk_last ? highest : chunk_last) / kBlockTokens;
  const int num_blocks = static_cast<int>(block_last - block_first + 1);

  const std::uint16_t* key_tiles[kBlocksPerChunk];
  const std::uint16_t* value_tiles[kBlocksPerChunk];
  for (int b = 0; b < num_blocks; b++) {
    const std::size_t offset = static_cast<std::size_t>(args.block_table[block_first + b]) * args.block_stride;
    key_tiles[b] = halves(args.keys + offset);
    value_tiles[b] = halves(args.values + offset);
  }

  const std::size_t key_bytes = key_tile_bytes(args.head_dim), value_bytes = value_tile_bytes(args.value_dim);
  with_size<kTileVectors>(count, [&](auto vectors) {
    for (int b = 0; b < num_blocks; b += kTileLines) {
      if (streams) {
        const std::int64_t block = block_first + b;
        prefetch_tiles(args, args.values, value_bytes, block, block + kTileLines - 1);
        prefetch_tiles(args, args.keys, key_bytes, block + kTileLines, block + 2 * kTileLines - 1);
      }
      with_size<kTileLines>(num_blocks - b, [&](auto lines) {
        score_tile<decltype(vectors)::value, decltype(lines)::value>(
            scratch.q + begin * ldq, ldq, args.head_dim, key_tiles + b, scratch.scores + b * kBlockTokens);
      });
    }
  });
  for (int i = 0; i < count; i++) {
    float* result = scratch.chunk + i * stride + outputs;
    softmax(args, scratch.scores + i * kChunkTokens, block_first * kBlockTokens, num_blocks,
            visible(args, position_of(begin + i)), result[0], result[1]);
  }
  with_size<kTileVectors>(count, [&](auto vectors) {
    for (std::int64_t l = 0; l < outputs; l += kTileLines * kWidth) {
      const std::uint16_t* tiles[kBlocksPerChunk];
      for (int b = 0; b < num_blocks; b++) tiles[b] = value_tiles[b] + l;
      with_size<kTileLines>(static_cast<int>((outputs - l) / kWidth), [&](auto lines) {
        value_tile<decltype(vectors)::value, decltype(lines)::value>(scratch.scores, tiles, num_blocks, outputs,
                                                                     scratch.chunk + l, stride);
      });
    }
  });
}

// Adds a chunk to a vector's running state. A chunk of which the vector sees nothing changes no bit.
void merge(float* state, const float* chunk, std::int64_t outputs) {
  const float chunk_top = chunk[outputs];
  if (chunk_top == -INFINITY) return;
  const float state_top = state[outputs];
  const float top = state_top > chunk_top ? state_top : chunk_top;
  const float keep = exp_one(state_top - top), take = exp_one(chunk_top - top);
  for (std::int64_t i = 0; i < outputs; i += kWidth)
    store(state + i, fma(load(chunk + i), all(take), mul(load(state + i), all(keep))));
  state[outputs] = top;
  const float taken = chunk[outputs + 1] * take;
  state[outputs + 1] = state[outputs + 1] * keep + taken;
}

void clear(float* state, std::int64_t outputs) {
  for (std::int64_t i = 0; i < outputs; i += kWidth) store(state + i, zeros());
  state[outputs] = -INFINITY;
  state[outputs + 1] = 0.0f;
}

void finish(const AttentionArgs& args, const float* state, std::int64_t query, std::int64_t head) {
  float* out = args.out + query * args.ldo + head * args.value_dim;
  const Vec inverse = all(1.0f / state[padded_to_16(args.value_dim) + 1]);
  for (std::int64_t i = 0; i < args.value_dim; i += kWidth)
    store_n(out + i, mul(load(state + i), inverse), args.value_dim - i);
}

void scale_queries(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, float* q) {
  const std::int64_t ldq = padded_to_16(args.head_dim);
  for (std::int64_t query = query_begin; query < query_end; query++)
    for (std::int64_t head = 0; head < args.group; head++) {
      const float* from = args.q + query * args.ldq + head * args.head_dim;
      for (std::int64_t i = 0; i < args.head_dim; i += kWidth)
        store(q + i, mul(load_n(from + i, args.head_dim - i), all(args.scale)));
      q += ldq;
    }
}

}  // namespace

void write_keys(const float* k, std::int64_t ldk, std::int64_t head_dim, std::byte* tile, std::int64_t first_slot,
                std::int64_t count) {
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile);
  for (std::int64_t t = 0; t < count; t++)
    for (std::int64_t d = 0; d < head_dim; d += kWidth) {
      std::uint16_t half[kWidth];
      store_half(half, clamp_half(load_n(k + t * ldk + d, head_dim - d)));
      for (std::int64_t i = 0; i < kWidth && d + i < head_dim; i++)
        out[(d + i) * kBlockTokens + first_slot + t] = half[i];
    }
}

// Whoever writes a block's first slot clears the slots that are still to come: a hidden token has weight 0, but what
// another row left there may be NaN.
void write_values(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile, std::int64_t first_slot,
                  std::int64_t count) {
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile);
  const std::int64_t ldt = padded_to_16(value_dim);
  for (std::int64_t t = 0; t < count; t++)
    for (std::int64_t d = 0; d < value_dim; d += kWidth)
      store_half(out + (first_slot + t) * ldt + d, clamp_half(load_n(v + t * ldv + d, value_dim - d)));
  if (first_slot == 0)
    for (std::int64_t i = count * ldt; i < kBlockTokens * ldt; i++) out[i] = 0;
}

std::size_t attention_scratch_bytes(std::int64_t group, std::int64_t head_dim, std::int64_t value_dim) {
  const std::int64_t vectors = max_vectors(group, head_dim);
  const std::int64_t floats = vectors * (padded_to_16(head_dim) + partial_floats(value_dim)) +
                              kTileVectors * (kChunkTokens + partial_floats(value_dim));
  return static_cast<std::size_t>(floats) * sizeof(float);
}

void prefetch_context(const AttentionArgs& args) {
  const std::int64_t first = visible(args, args.num_context).first / kBlockTokens;
  prefetch_tiles(args, args.keys, key_tile_bytes(args.head_dim), first, first + 3);
}

void attend(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  scale_queries(args, query_begin, query_end, scratch.q);
  for (std::int64_t i = 0; i < vectors; i++) clear(scratch.states + i * stride, outputs);
  const std::int64_t first = visible(args, args.num_context + query_begin).first / kChunkTokens;
  const std::int64_t last = visible(args, args.num_context + query_end - 1).last / kChunkTokens;
  for (std::int64_t chunk = first; chunk <= last; chunk++)
    for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
      const int count = static_cast<int>(vectors - begin < kTileVectors ? vectors - begin : kTileVectors);
      compute_chunk(args, scratch, query_begin, begin, count, chunk, vectors <= kTileVectors);
      for (int i = 0; i < count; i++)
        merge(scratch.states + (begin + i) * stride, scratch.chunk + i * stride, outputs);
    }
  for (std::int64_t i = 0; i < vectors; i++)
    finish(args, scratch.states + i * stride, query_begin + i / args.group, i % args.group);
}

void attend_chunk(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::int64_t chunk,
                  float* partials, std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  scale_queries(args, query_begin, query_end, scratch.q);
  for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
    const int count = static_cast<int>(vectors - begin < kTileVectors ? vectors - begin : kTileVectors);
    compute_chunk(args, scratch, query_begin, begin, count, chunk, vectors <= kTileVectors);
    std::memcpy(partials + begin * stride, scratch.chunk, static_cast<std::size_t>(count * stride) * sizeof(float));
  }
}

void merge_chunks(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                  std::int64_t chunk_begin, std::int64_t chunk_end, const float* partials, std::byte* memory) {
  const Scratch scratch = scratch_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  for (std::int64_t i = 0; i < vectors; i++) {
    clear(scratch.states, outputs);
    for (std::int64_t chunk = chunk_begin; chunk < chunk_end; chunk++)
      merge(scratch.states, partials + ((chunk - chunk_begin) * vectors + i) * stride, outputs);
    finish(args, scratch.states, query_begin + i / args.group, i % args.group);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
