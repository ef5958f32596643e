// attention: the way through a context, for caches of any format: which chunks a query sees, softmax within one, merging
// them in order. How scores and weighted values are multiplied is the format's (attention_bf16.h, ...), a register tile at
// a time; attention_amx.cpp has one that takes a chunk's at once.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "attention.h"
#include "attention_parts.h"
#include "family_kernels.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// What a thread needs while it attends: see attention_scratch_bytes. Scores are in units of ln 2.
struct Scratch {
  float* states;         // [vectors, partial_floats]: running outputs, largest score, sum
  float* chunk;          // [vectors of a tile, partial_floats]
  float* scores;         // [vectors of a tile, kChunkTokens]
  float* weight_scales;  // [16]
  std::byte* weights;    // [vectors of a tile, kWeightBytes]
  std::byte* values;     // value tiles of a chunk, made of its key tiles where there are no others
  std::byte* q;          // [vectors, query_bytes], scaled
};

std::int64_t max_vectors(std::int64_t group, std::int64_t head_dim) {
  return queries_per_item(group, head_dim) * group;
}

// Of a chunk's value tiles, which are bfloat16 where they are made of keys.
std::size_t made_bytes(std::int64_t value_dim) {
  return static_cast<std::size_t>(kBlocksPerChunk) * value_tile_bytes(CacheFormat::bf16, value_dim);
}

// Where queries begin.
std::size_t floats_before_queries(std::int64_t vectors, std::int64_t tile_vectors, std::int64_t value_dim) {
  return static_cast<std::size_t>((vectors + tile_vectors) * partial_floats(value_dim) + tile_vectors * kChunkTokens +
                                  kWidth) +
         (static_cast<std::size_t>(tile_vectors) * kWeightBytes + made_bytes(value_dim)) / sizeof(float);
}

Scratch scratch_of(const AttentionArgs& args, std::int64_t tile_vectors, std::byte* memory) {
  const std::int64_t vectors = max_vectors(args.group, args.head_dim), stride = partial_floats(args.value_dim);
  Scratch out;
  out.states = reinterpret_cast<float*>(memory);
  out.chunk = out.states + vectors * stride;
  out.scores = out.chunk + tile_vectors * stride;
  out.weight_scales = out.scores + tile_vectors * kChunkTokens;
  out.weights = reinterpret_cast<std::byte*>(out.weight_scales + kWidth);
  out.values = out.weights + static_cast<std::size_t>(tile_vectors) * kWeightBytes;
  out.q = memory + floats_before_queries(vectors, tile_vectors, args.value_dim) * sizeof(float);
  return out;
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
  std::int64_t first = first_visible(args.window, args.chunked, position);
  if (args.first_seen) first = args.first_seen[position - args.num_context];
  std::int64_t last = args.causal ? position : args.num_context + args.num_new - 1;
  if (args.last_seen) last = args.last_seen[position - args.num_context];
  if (args.ahead >= 0 && position + args.ahead < last) last = position + args.ahead;
  return {first, last};
}

// What any of queries [begin, end) sees.
Range seen_by(const AttentionArgs& args, std::int64_t begin, std::int64_t end) {
  return {visible(args, args.num_context + begin).first, visible(args, args.num_context + end - 1).last};
}

// Key and value tiles of a chunk's blocks [first, first + count).
struct Tiles {
  const std::byte* keys[kBlocksPerChunk];
  const std::byte* values[kBlocksPerChunk];
};
void find_tiles(const AttentionArgs& args, const Scratch& scratch, std::int64_t first, std::int64_t count,
                Tiles& tiles) {
  const std::size_t made = value_tile_bytes(CacheFormat::bf16, args.value_dim);
  for (std::int64_t b = 0; b < count; b++) {
    const std::int32_t block = args.block_table[first + b];
    tiles.keys[b] = args.cache.tile(block, args.keys);
    tiles.values[b] = args.has_values() ? args.cache.tile(block, args.values)
                                        : scratch.values + static_cast<std::size_t>(first % kBlocksPerChunk + b) * made;
  }
}

// Pairs of channels of 16 tokens become pairs of tokens of all channels: the bfloat16 value tiles of blocks [first,
// last] of a chunk, where values are channels of the keys.
void make_values(const AttentionArgs& args, const Scratch& scratch, std::int64_t first, std::int64_t last) {
  const std::int64_t width = padded_to_16(args.value_dim);
  for (std::int64_t block = first; block <= last; block++) {
    const auto* keys = reinterpret_cast<const std::uint32_t*>(args.cache.tile(args.block_table[block], args.keys));
    auto* values = reinterpret_cast<std::uint32_t*>(scratch.values) +
                   block % kBlocksPerChunk * (width * kBlockTokens / 2);
    for (std::int64_t t = 0; t < kBlockTokens; t += 2) {
      std::uint32_t* out = values + t / 2 * width;
      for (std::int64_t d = 0; d < args.value_dim / 2; d++) {
        const std::uint32_t a = keys[d * kBlockTokens + t], b = keys[d * kBlockTokens + t + 1];
        out[2 * d] = (a & 0xffff) | b << 16;
        out[2 * d + 1] = a >> 16 | (b & 0xffff0000);
      }
      if (args.value_dim % 2) {
        const std::uint32_t* pair = keys + args.value_dim / 2 * kBlockTokens + t;
        out[args.value_dim - 1] = (pair[0] & 0xffff) | pair[1] << 16;
      }
      for (std::int64_t d = args.value_dim; d < width; d++) out[d] = 0;
    }
  }
}

// Of all blocks of a chunk that any of the queries sees.
void make_values_of(const AttentionArgs& args, const Scratch& scratch, std::int64_t query_begin,
                    std::int64_t query_end, std::int64_t chunk) {
  const std::int64_t first = chunk * kBlocksPerChunk, last = first + kBlocksPerChunk - 1;
  const std::int64_t lowest = visible(args, args.num_context + query_begin).first / kBlockTokens;
  const std::int64_t highest = visible(args, args.num_context + query_end - 1).last / kBlockTokens;
  make_values(args, scratch, lowest > first ? lowest : first, highest < last ? highest : last);
}

// The tiles of a KV head in the order in which they are read: of each chunk its keys, then its values.
class TileOrder {
 public:
  TileOrder() = default;
  // Chunks [begin, end), of which the blocks of tokens `seen` are read.
  TileOrder(CacheFormat format, const AttentionArgs& args, std::int64_t begin, std::int64_t end, Range seen)
      : args_(&args), chunk_(begin), chunk_end_(end), first_(seen.first / kBlockTokens), end_(seen.last / kBlockTokens + 1) {
    bytes_[0] = static_cast<std::int64_t>(key_tile_bytes(format, args.head_dim));
    bytes_[1] = static_cast<std::int64_t>(value_tile_bytes(format, args.value_dim));
    if (chunk_ < chunk_end_) block_ = block_begin();
  }

  void skip(std::int64_t tiles) {
    while (tiles > 0 && find()) {
      const std::int64_t passed = std::min(tiles, block_end() - block_);
      block_ += passed;
      tiles -= passed;
    }
  }
  // Adds the next tile. False: there is none.
  bool add(Ahead& out) {
    if (!find()) return false;
    out.tiles[out.count] = args_->cache.tile(args_->block_table[block_++], values_ ? args_->values : args_->keys);
    out.num_bytes[out.count++] = bytes_[values_];
    return true;
  }

 private:
  std::int64_t block_begin() const { return std::max(chunk_ * kBlocksPerChunk, first_); }
  std::int64_t block_end() const { return std::min((chunk_ + 1) * kBlocksPerChunk, end_); }
  // To where a tile is.
  bool find() {
    while (chunk_ < chunk_end_ && block_ >= block_end()) {
      if (values_ || !args_->has_values()) chunk_++;
      values_ = !values_ && args_->has_values();
      block_ = block_begin();
    }
    return chunk_ < chunk_end_;
  }

  const AttentionArgs* args_ = nullptr;
  std::int64_t chunk_ = 0, chunk_end_ = 0, first_ = 0, end_ = 0, block_ = 0;
  std::int64_t bytes_[2] = {};
  bool values_ = false;
};

// What an item asks memory for: a chunk's keys' worth ahead of what it reads, its own tiles and then those that the item
// after it begins with. For each tile that is read one is asked for, so that a chunk of few tokens leaves no hole.
struct Upcoming {
  TileOrder own, after;
  std::int64_t left = kBlocksPerChunk;  // of the item after: so many

  Ahead take(std::int64_t tiles) {
    Ahead out;
    while (out.count < tiles && own.add(out)) {
    }
    while (out.count < tiles && left > 0 && after.add(out)) left--;
    return out;
  }
};

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

// The largest visible score of a vector in units of ln 2; hidden ones become -infinity, soft caps are applied.
float largest_score(const AttentionArgs& args, float* scores, std::int64_t first_token, std::int64_t num_blocks,
                    Range seen) {
  Vec top = all(-INFINITY);
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
  return largest(top);
}

// A vector that has seen nothing.
void clear(float* state, std::int64_t outputs) {
  for (std::int64_t i = 0; i < outputs; i += kWidth) store(state + i, zeros());
  state[outputs] = -INFINITY;
  state[outputs + 1] = 0.0f;
}

// scores [count, kChunkTokens] of the queries with the keys of blocks. Meanwhile `ahead` is asked for.
template <class Cache>
void multiply_scores(const std::byte* queries, std::size_t ldq, std::int64_t head_dim, int count,
                     const std::byte* const* keys, int num_blocks, Ahead& ahead, float* scores) {
  if constexpr (Cache::kWholeChunks) {
    Cache::scores(queries, ldq, head_dim, count, keys, num_blocks, ahead, scores);
  } else {
    asking(ahead, [&](auto& asked) {
      with_size<Cache::kVectors>(count, [&](auto vectors) {
        for (int b = 0; b < num_blocks; b += Cache::kTileLines)
          with_size<Cache::kTileLines>(num_blocks - b, [&](auto lines) {
            Cache::template score_tile<decltype(vectors)::value, decltype(lines)::value>(
                queries, ldq, head_dim, keys + b, asked, scores + b * kBlockTokens);
          });
      });
    });
  }
}

// out [count, outputs] of the weights with the values. Meanwhile `ahead` is asked for.
template <class Cache>
void multiply_values(const Scratch& scratch, const ValueTiles& values, int count, Ahead& ahead, float* out,
                     std::int64_t ldo) {
  if constexpr (Cache::kWholeChunks) {
    Cache::values(scratch.weights, values, count, ahead, out, ldo);
  } else {
    asking(ahead, [&](auto& asked) {
      with_size<Cache::kVectors>(count, [&](auto vectors) {
        for (std::int64_t l = 0; l < values.outputs; l += Cache::kTileLines * kWidth)
          with_size<Cache::kTileLines>(static_cast<int>((values.outputs - l) / kWidth), [&](auto lines) {
            Cache::template value_tile<decltype(vectors)::value, decltype(lines)::value>(
                scratch.scores, scratch.weights, scratch.weight_scales, values, l, asked, out + l, ldo);
          });
      });
    });
  }
}

// One chunk of vectors [begin, begin + count), count <= Cache::kVectors, into `out` [count, partial_floats]. Memory is asked
// for what comes then while scores are computed, where nobody has been there (`is_first`), and while values are added up,
// where nobody comes after (`is_last`).
template <class Cache>
void compute_chunk(const AttentionArgs& args, const Scratch& scratch, std::int64_t query_begin, std::int64_t begin,
                   int count, std::int64_t chunk, bool is_first, bool is_last, Upcoming& upcoming, float* out) {
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::size_t ldq = Cache::query_bytes(args.head_dim);
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
  find_tiles(args, scratch, block_first, num_blocks, tiles);

  Ahead ahead = is_first && args.has_values() ? upcoming.take(num_blocks) : Ahead{};
  const std::byte* queries = scratch.q + static_cast<std::size_t>(begin) * ldq;
  multiply_scores<Cache>(queries, ldq, args.head_dim, count, tiles.keys, num_blocks, ahead, scratch.scores);
  const ValueTiles values{tiles.values, num_blocks, outputs};
  for (int i = 0; i < count; i++) {
    float* result = out + i * stride + outputs;
    float* scores = scratch.scores + i * kChunkTokens;
    result[0] = largest_score(args, scores, block_first * kBlockTokens, num_blocks,
                              visible(args, position_of(begin + i)));
    const Vec base = all(result[0] == -INFINITY ? 0.0f : result[0]);
    result[1] = Cache::set_weights(scores, base, values, scratch.weights + static_cast<std::size_t>(i) * kWeightBytes,
                                   scratch.weight_scales[i]);
  }
  ahead = is_last ? upcoming.take(num_blocks) : Ahead{};
  multiply_values<Cache>(scratch, values, count, ahead, out, stride);
}

// Adds a chunk to the running states of `count` vectors, count <= kWidth. A chunk of which a vector sees nothing
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

// A sink takes a share of the weights, and gives nothing.
float share_of_all(const AttentionArgs& args, float largest_score, float total, std::int64_t head) {
  if (!args.sinks) return 1.0f / total;
  const float sink = args.sinks[head] * kLog2E, top = sink > largest_score ? sink : largest_score;
  float score[kWidth] = {largest_score - top, sink - top}, weight[kWidth];
  store(weight, power_of_2(load(score)));
  const float whole = total * weight[0];
  return weight[0] / (whole + weight[1]);
}

void finish(const AttentionArgs& args, const float* state, std::int64_t query, std::int64_t head) {
  float* out = args.out + query * args.ldo + head * args.value_dim;
  const float* rest = state + padded_to_16(args.value_dim);
  const Vec inverse = all(share_of_all(args, rest[0], rest[1], head));
  for (std::int64_t i = 0; i < args.value_dim; i += kWidth)
    store_n(out + i, mul(load(state + i), inverse), args.value_dim - i);
}

// Queries in units of which the scores come out in units of ln 2; a soft cap takes them as they are.
template <class Cache>
void set_queries(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::byte* q) {
  const float scale = args.softcap > 0 ? args.scale : args.scale * kLog2E;
  for (std::int64_t query = query_begin; query < query_end; query++)
    for (std::int64_t head = 0; head < args.group; head++) {
      Cache::set_query(args.q + query * args.ldq + head * args.head_dim, args.head_dim, scale, args.powers, q);
      q += Cache::query_bytes(args.head_dim);
    }
}

// Calls body(begin, count, is_first, is_last) for vectors in tiles of nearly equal height.
template <class Cache, class Body>
void each_tile(std::int64_t vectors, Body body) {
  const std::int64_t tiles = (vectors + Cache::kVectors - 1) / Cache::kVectors;
  for (std::int64_t i = 0, begin = 0; i < tiles; i++) {
    const std::int64_t count = (vectors - begin) / (tiles - i);
    body(begin, static_cast<int>(count), i == 0, i + 1 == tiles);
    begin += count;
  }
}

template <class Cache>
std::size_t scratch_bytes(std::int64_t group, std::int64_t head_dim, std::int64_t value_dim) {
  const std::int64_t vectors = max_vectors(group, head_dim);
  return floats_before_queries(vectors, Cache::kVectors, value_dim) * sizeof(float) +
         static_cast<std::size_t>(vectors) * Cache::query_bytes(head_dim);
}

// An item that sees tokens `seen` in chunks [begin, end); the item before has asked for a chunk's keys' worth of it.
template <class Cache>
Upcoming upcoming_of(const AttentionArgs& args, Range seen, std::int64_t begin, std::int64_t end) {
  Upcoming out;
  out.own = TileOrder(Cache::kFormat, args, begin, end, seen);
  out.own.skip(kBlocksPerChunk);
  return out;
}

template <class Cache>
void attend(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, const AttentionArgs* next,
            std::byte* memory) {
  const Scratch scratch = scratch_of(args, Cache::kVectors, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  set_queries<Cache>(args, query_begin, query_end, scratch.q);
  const Range seen = seen_by(args, query_begin, query_end);
  const std::int64_t first = seen.first / kChunkTokens, last = seen.last / kChunkTokens;
  Upcoming upcoming = upcoming_of<Cache>(args, seen, first, last + 1);
  if (next) {
    const Range then = visible(*next, next->num_context);
    upcoming.after = TileOrder(Cache::kFormat, *next, then.first / kChunkTokens, then.last / kChunkTokens + 1, then);
  }
  for (std::int64_t chunk = first; chunk <= last; chunk++) {
    if (!args.has_values()) make_values_of(args, scratch, query_begin, query_end, chunk);
    each_tile<Cache>(vectors, [&](std::int64_t begin, int count, bool is_first, bool is_last) {
      float* states = scratch.states + begin * stride;
      float* out = chunk == first ? states : scratch.chunk;
      compute_chunk<Cache>(args, scratch, query_begin, begin, count, chunk, is_first, is_last, upcoming, out);
      if (chunk != first) merge(states, out, count, outputs);
    });
  }
  for (std::int64_t i = 0; i < vectors; i++)
    finish(args, scratch.states + i * stride, query_begin + i / args.group, i % args.group);
}

template <class Cache>
void attend_chunk(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::int64_t chunk,
                  const AttentionNext& next, float* partials, std::byte* memory) {
  const Scratch scratch = scratch_of(args, Cache::kVectors, memory);
  const std::int64_t stride = partial_floats(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  set_queries<Cache>(args, query_begin, query_end, scratch.q);
  if (!args.has_values()) make_values_of(args, scratch, query_begin, query_end, chunk);
  Upcoming upcoming = upcoming_of<Cache>(args, seen_by(args, query_begin, query_end), chunk, chunk + 1);
  if (next.args) {
    const Range then = visible(*next.args, next.args->num_context);
    upcoming.after = TileOrder(Cache::kFormat, *next.args, next.chunk, next.chunk + 1, then);
  }
  each_tile<Cache>(vectors, [&](std::int64_t begin, int count, bool is_first, bool is_last) {
    compute_chunk<Cache>(args, scratch, query_begin, begin, count, chunk, is_first, is_last, upcoming,
                         partials + begin * stride);
  });
}

template <class Cache>
constexpr CacheAttention row() {
  return {scratch_bytes<Cache>, attend<Cache>, attend_chunk<Cache>};
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
