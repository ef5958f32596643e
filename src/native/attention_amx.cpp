// attention over a cache of bfloat16 pairs by AMX: scores and weighted values of up to 16 vectors by tiles, softmax
// between. Key and value tiles of the cache are rows of tiles as they lie.
//
// Per score: for each 32 channels in order, what one tile product adds (amx.h). Per output: for each block of tokens in
// order, the same. Every number of vectors goes this way, so that a vector's bits depend on itself alone.
//
// Two ways through a context. Few vectors (a decode's) go chunk by chunk as everywhere (attention_walk.h), asking for what
// comes next. Many (a prompt's) go in units of 16 vectors and a chunk, three at once: while one unit's softmax is taken,
// the tiles multiply the scores of the next and the values of the one before.
//
// The tile unit falls asleep when it has had no product for some 0.3 us, and is at half or a third of its speed for the
// next 0.5 us: so softmax, where nothing else is multiplied beside it, multiplies something for nobody.
#include "amx.h"
#include "attention_amx.h"
#include "attention_bf16.h"
#include "attention_walk.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kTileBytes = 16 * 64;
alignas(64) constexpr std::byte kZeros[kTileBytes] = {};

// What tilezero does, in a quarter of the time: a product waits 43 cycles for it.
template <int Tile>
inline void clear_tile() {
  load_tile<Tile>(kZeros, 64);
}

// 2^x for x <= 0 within 3e-6 of its value, 1 at 0; -infinity gives 0, NaN stays. Weights are rounded to 2^-9.
inline Vec rough_power_of_2(Vec x) {
  const __m512 rest = _mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // from the next whole number below
  Vec p = all(0.01342669f);
  p = fma(p, {rest}, all(0.05224247f));
  p = fma(p, {rest}, all(0.24128021f));
  p = fma(p, {rest}, all(0.69304484f));
  p = fma(p, {rest}, all(1.0f));
  return {_mm512_scalef_ps(p.v, x.v)};
}

// Scores [num_blocks, 16] become weights 2^(score - base), rounded; gives the sum of the weights before they are.
inline float set_rough_weights(const float* scores, Vec base, std::int64_t num_blocks, std::byte* out) {
  std::uint16_t* weights = reinterpret_cast<std::uint16_t*>(out);
  Vec even = zeros(), odd = zeros();
  std::int64_t b = 0;
  for (; b + 1 < num_blocks; b += 2) {
    const Vec first = rough_power_of_2(sub(load(scores + b * kBlockTokens), base));
    const Vec second = rough_power_of_2(sub(load(scores + (b + 1) * kBlockTokens), base));
    even = add(even, first);
    odd = add(odd, second);
    store_pairs(weights + b * kBlockTokens, join(first, second));
  }
  if (b < num_blocks) {
    const Vec first = rough_power_of_2(sub(load(scores + b * kBlockTokens), base));
    even = add(even, first);
    store_pairs(weights + b * kBlockTokens, join(first, zeros()));
  }
  return sum(add(even, odd));
}

// ---- few vectors

// Tiles: results (four blocks of tokens, or four times 16 channels, side by side), queries, keys, weights, values.
enum { kResults = 0, kQueries = 4, kKeys = 5, kWeights = 6, kValues = 7 };

struct TiledBf16Cache : Bf16Cache {
  static constexpr bool kWholeChunks = true;
  static constexpr int kVectors = 16;

  template <int Count>
  static void zero() {
    clear_tile<kResults>();
    if constexpr (Count > 1) clear_tile<kResults + 1>();
    if constexpr (Count > 2) clear_tile<kResults + 2>();
    if constexpr (Count > 3) clear_tile<kResults + 3>();
  }

  template <int Count>
  static void put(float* out, std::int64_t ld) {
    const std::int64_t stride = ld * static_cast<std::int64_t>(sizeof(float));
    store_tile<kResults>(out, stride);
    if constexpr (Count > 1) store_tile<kResults + 1>(out + 16, stride);
    if constexpr (Count > 2) store_tile<kResults + 2>(out + 32, stride);
    if constexpr (Count > 3) store_tile<kResults + 3>(out + 48, stride);
  }

  // at(i): the i-th tile of B, of so many Rows; for each, as many lines of `ahead` are asked for.
  template <int Count, int A, int B, int Rows, int I = 0, class At>
  static void multiply(At at, std::int64_t stride, Ahead& ahead) {
    load_tile<B>(at(I), stride);
    multiply_bfloats<kResults + I, A, B>();
    ahead.ask<Rows>();
    if constexpr (I + 1 < Count) multiply<Count, A, B, Rows, I + 1>(at, stride, ahead);
  }

  static void scores(const std::byte* queries, std::size_t ldq, std::int64_t head_dim, int count,
                     const std::byte* const* keys, int num_blocks, Ahead& ahead, float* out) {
    TileConfig config;
    for (int i = 0; i < 4; i++) config.shape(kResults + i, count, 64);
    config.shape(kQueries, count, 64);
    config.shape(kKeys, 16, 64);
    config.shape(kWeights, count, kBlockTokens * 2);
    config.shape(kValues, kBlockTokens / 2, 64);
    config.load();
    const std::int64_t num_pairs = (head_dim + 1) / 2, whole = num_pairs / 16, rest = num_pairs % 16;
    // Lines beyond the last pair of channels are another tile's, and may hold anything.
    alignas(64) std::byte padded[4][kTileBytes];
    if (rest > 0) std::memset(padded, 0, sizeof padded);
    for (int b = 0; b < num_blocks; b += 4) {
      with_size<4>(num_blocks - b, [&](auto lines) {
        constexpr int kCount = decltype(lines)::value;
        zero<kCount>();
        for (std::int64_t d = 0; d < whole; d++) {
          load_tile<kQueries>(queries + d * 64, static_cast<std::int64_t>(ldq));
          multiply<kCount, kQueries, kKeys, 16>([&](int i) { return keys[b + i] + d * kTileBytes; }, 64, ahead);
        }
        if (rest > 0) {
          for (int i = 0; i < kCount; i++)
            std::memcpy(padded[i], keys[b + i] + whole * kTileBytes, static_cast<std::size_t>(rest) * 64);
          load_tile<kQueries>(queries + whole * 64, static_cast<std::int64_t>(ldq));
          multiply<kCount, kQueries, kKeys, 16>([&](int i) { return padded[i]; }, 64, ahead);
        }
        put<kCount>(out + b * kBlockTokens, kChunkTokens);
      });
    }
    ahead.ask_all();
  }

  static float set_weights(float* scores, Vec base, const ValueTiles& values, std::byte* out, float&) {
    multiply_bfloats<kResults, kQueries, kKeys>();  // to stay awake: results have been put, and begin from zero again
    return set_rough_weights(scores, base, values.num_blocks, out);
  }

  static void values(const std::byte* weights, const ValueTiles& values, int, Ahead& ahead, float* out,
                     std::int64_t ldo) {
    for (std::int64_t l = 0; l < values.outputs; l += 4 * kWidth) {
      with_size<4>(static_cast<int>((values.outputs - l) / kWidth), [&](auto lines) {
        constexpr int kCount = decltype(lines)::value;
        zero<kCount>();
        for (std::int64_t b = 0; b < values.num_blocks; b++) {
          load_tile<kWeights>(weights + b * kBlockTokens * 2, kWeightBytes);
          multiply<kCount, kWeights, kValues, kBlockTokens / 2>(
              [&](int i) { return values.tiles[b] + 4 * (l + i * kWidth); }, values.outputs * 4, ahead);
        }
        put<kCount>(out + l, ldo);
      });
    }
    ahead.ask_all();
    release_tiles();
  }
};

// ---- many vectors

// Tiles: two neighbours' scores and outputs, and what they are made of.
enum { kScores = 0, kOutputs = 2, kUnitQueries = 4, kUnitKeys = 5, kUnitWeights = 6, kUnitValues = 7 };

constexpr int kUnitVectors = 16;

// 16 vectors (or fewer, the last ones of an item) and the blocks of a chunk that any of them sees.
struct Unit {
  std::int64_t begin, count, chunk;
  std::int64_t block_first, num_blocks;
  Tiles tiles;
  float* scores;       // [16, kChunkTokens]
  std::byte* weights;  // [16, kWeightBytes]
  float* out;          // [16, partial_floats]
};

struct Buffers {
  Scratch of_walk;        // states and queries of whole units; the rest is not used
  float* scores[2];
  std::byte* weights[2];
  float* chunks[2];
  std::byte* padded;      // two tiles
};

std::int64_t whole_units(std::int64_t vectors) { return (vectors + kUnitVectors - 1) / kUnitVectors * kUnitVectors; }

// Of two units' buffers.
std::size_t buffer_bytes(std::int64_t value_dim) {
  return 2 * kUnitVectors * (kChunkTokens * sizeof(float) + kWeightBytes +
                             static_cast<std::size_t>(partial_floats(value_dim)) * sizeof(float)) +
         2 * kTileBytes;
}

Buffers buffers_of(const AttentionArgs& args, std::byte* memory) {
  const std::int64_t vectors = whole_units(max_vectors(args.group, args.head_dim)), stride = partial_floats(args.value_dim);
  Buffers out;
  for (int i = 0; i < 2; i++) {
    out.scores[i] = reinterpret_cast<float*>(memory);
    memory += kUnitVectors * kChunkTokens * sizeof(float);
    out.weights[i] = memory;
    memory += kUnitVectors * kWeightBytes;
  }
  out.padded = memory;
  memory += 2 * kTileBytes;
  for (int i = 0; i < 2; i++) {
    out.chunks[i] = reinterpret_cast<float*>(memory);
    memory += static_cast<std::size_t>(kUnitVectors * stride) * sizeof(float);
  }
  out.of_walk.states = reinterpret_cast<float*>(memory);
  out.of_walk.q = memory + static_cast<std::size_t>(vectors * stride) * sizeof(float);
  return out;
}

// The products of two units, a few at a time: scores of one, values of another.
class Products {
 public:
  Products(const AttentionArgs& args, const std::byte* queries, const Unit* scores, const Unit* values, std::byte* padded)
      : scores_(scores), values_(values), ldq_(static_cast<std::int64_t>(Bf16Cache::query_bytes(args.head_dim))),
        outputs_(padded_to_16(args.value_dim)), padded_(padded) {
    const std::int64_t num_pairs = (args.head_dim + 1) / 2;
    depth_ = (num_pairs + 15) / 16;
    rest_ = num_pairs % 16;
    if (scores) {
      queries_ = queries + scores->begin * ldq_;
      num_scores_ = (scores->num_blocks + 1) / 2 * depth_;
    }
    if (values) num_values_ = values->num_blocks * ((outputs_ / kWidth + 1) / 2);
  }

  // As many as belong to the first `part` of `whole` parts.
  void advance(std::int64_t part, std::int64_t whole) {
    const std::int64_t until = (num_scores_ + num_values_) * part / whole;
    while (done_scores_ + done_values_ < until) {
      if (done_scores_ * num_values_ <= done_values_ * num_scores_ && done_scores_ < num_scores_) {
        multiply_scores();
      } else {
        multiply_values();
      }
    }
  }

 private:
  // 32 channels of two blocks.
  void multiply_scores() {
    const std::byte* const* keys = scores_->tiles.keys + pair_;
    const bool two = pair_ + 1 < scores_->num_blocks;
    if (d_ == 0) {
      clear_tile<kScores>();
      clear_tile<kScores + 1>();
    }
    load_tile<kUnitQueries>(queries_ + d_ * 64, ldq_);
    load_tile<kUnitKeys>(keys_at(keys[0], 0), 64);
    multiply_bfloats<kScores, kUnitQueries, kUnitKeys>();
    if (two) {
      load_tile<kUnitKeys>(keys_at(keys[1], 1), 64);
      multiply_bfloats<kScores + 1, kUnitQueries, kUnitKeys>();
    }
    if (++d_ == depth_) {
      constexpr std::int64_t kStride = kChunkTokens * sizeof(float);
      store_tile<kScores>(scores_->scores + pair_ * kBlockTokens, kStride);
      if (two) store_tile<kScores + 1>(scores_->scores + (pair_ + 1) * kBlockTokens, kStride);
      d_ = 0;
      pair_ += 2;
    }
    done_scores_++;
  }

  // Lines beyond the last pair of channels are another tile's, and may hold anything.
  const std::byte* keys_at(const std::byte* tile, int i) {
    tile += d_ * kTileBytes;
    if (rest_ == 0 || d_ + 1 < depth_) return tile;
    std::byte* out = padded_ + i * kTileBytes;
    std::memcpy(out, tile, static_cast<std::size_t>(rest_) * 64);
    return out;
  }

  // A block of tokens for 32 channels.
  void multiply_values() {
    const std::byte* values = values_->tiles.values[block_] + 4 * channel_;
    const bool two = channel_ + kWidth < outputs_;
    if (block_ == 0) {
      clear_tile<kOutputs>();
      clear_tile<kOutputs + 1>();
    }
    load_tile<kUnitWeights>(values_->weights + block_ * kBlockTokens * 2, kWeightBytes);
    load_tile<kUnitValues>(values, outputs_ * 4);
    multiply_bfloats<kOutputs, kUnitWeights, kUnitValues>();
    if (two) {
      load_tile<kUnitValues>(values + 4 * kWidth, outputs_ * 4);
      multiply_bfloats<kOutputs + 1, kUnitWeights, kUnitValues>();
    }
    if (++block_ == values_->num_blocks) {
      const std::int64_t stride = (outputs_ + kBlockTokens) * static_cast<std::int64_t>(sizeof(float));
      store_tile<kOutputs>(values_->out + channel_, stride);
      if (two) store_tile<kOutputs + 1>(values_->out + channel_ + kWidth, stride);
      block_ = 0;
      channel_ += 2 * kWidth;
    }
    done_values_++;
  }

  const Unit *scores_, *values_;
  const std::byte* queries_ = nullptr;
  std::int64_t ldq_, outputs_, depth_, rest_;
  std::byte* padded_;
  std::int64_t num_scores_ = 0, num_values_ = 0, done_scores_ = 0, done_values_ = 0;
  std::int64_t pair_ = 0, d_ = 0, block_ = 0, channel_ = 0;
};

void configure_units() {
  TileConfig config;
  for (int tile = kScores; tile <= kUnitQueries; tile++) config.shape(tile, kUnitVectors, 64);
  config.shape(kUnitKeys, 16, 64);
  config.shape(kUnitWeights, kUnitVectors, kBlockTokens * 2);
  config.shape(kUnitValues, kBlockTokens / 2, 64);
  config.load();
}

// The largest score, after soft caps and hidden ones, as largest_score has it.
inline float top_score(const AttentionArgs& args, float* scores, std::int64_t first_token, std::int64_t num_blocks,
                       Range seen) {
  if (args.softcap > 0) return largest_score(args, scores, first_token, num_blocks, seen);
  const std::int64_t before = seen.first - first_token, after = seen.last + 1 - first_token;
  const std::int64_t whole_first = std::clamp<std::int64_t>((before + kBlockTokens - 1) / kBlockTokens, 0, num_blocks);
  const std::int64_t whole_end = std::clamp<std::int64_t>(after < 0 ? 0 : after / kBlockTokens, 0, num_blocks);
  const auto hide_block = [&](std::int64_t b) {
    float* s = scores + b * kBlockTokens;
    store(s, hide(load(s), before - b * kBlockTokens, after - 1 - b * kBlockTokens));
  };
  for (std::int64_t b = 0; b < whole_first; b++) hide_block(b);
  for (std::int64_t b = std::max(whole_first, whole_end); b < num_blocks; b++) hide_block(b);
  Vec even = all(-INFINITY), odd = all(-INFINITY);
  std::int64_t b = 0;
  for (; b + 1 < num_blocks; b += 2) {
    even = max(even, load(scores + b * kBlockTokens));
    odd = max(odd, load(scores + (b + 1) * kBlockTokens));
  }
  if (b < num_blocks) even = max(even, load(scores + b * kBlockTokens));
  return largest(max(even, odd));
}

void attend_by_units(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::byte* memory) {
  const Buffers buffers = buffers_of(args, memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  const std::size_t ldq = Bf16Cache::query_bytes(args.head_dim);
  float* states = buffers.of_walk.states;
  set_queries<TiledBf16Cache>(args, query_begin, query_end, buffers.of_walk.q);
  std::memset(buffers.of_walk.q + static_cast<std::size_t>(vectors) * ldq, 0,
              static_cast<std::size_t>(whole_units(vectors) - vectors) * ldq);
  if ((args.head_dim + 1) / 2 % 16) std::memset(buffers.padded, 0, 2 * kTileBytes);
  const auto position_of = [&](std::int64_t vector) { return args.num_context + query_begin + vector / args.group; };
  const std::int64_t first_chunk = visible(args, position_of(0)).first / kChunkTokens;
  const std::int64_t last_chunk = visible(args, position_of(vectors - 1)).last / kChunkTokens;

  // Units in order, but for those that see nothing.
  std::int64_t chunk = first_chunk, begin = 0, num_units = 0;
  const auto next_unit = [&](Unit& unit) {
    for (; chunk <= last_chunk; chunk++, begin = 0)
      for (; begin < vectors;) {
        const std::int64_t count = std::min<std::int64_t>(vectors - begin, kUnitVectors);
        const std::int64_t low = visible(args, position_of(begin)).first;
        const std::int64_t high = visible(args, position_of(begin + count - 1)).last;
        const std::int64_t chunk_first = chunk * kChunkTokens, chunk_last = chunk_first + kChunkTokens - 1;
        const std::int64_t here = std::exchange(begin, begin + kUnitVectors);
        if (low > chunk_last || high < chunk_first) {
          if (chunk == first_chunk)
            for (std::int64_t i = here; i < here + count; i++) clear(states + i * stride, outputs);
          continue;
        }
        unit.begin = here;
        unit.count = count;
        unit.chunk = chunk;
        unit.block_first = std::max(low, chunk_first) / kBlockTokens;
        unit.num_blocks = std::min(high, chunk_last) / kBlockTokens - unit.block_first + 1;
        find_tiles(args, buffers.of_walk, unit.block_first, unit.num_blocks, unit.tiles);
        const int turn = static_cast<int>(num_units++ % 2);
        unit.scores = buffers.scores[turn];
        unit.weights = buffers.weights[turn];
        unit.out = chunk == first_chunk ? states + here * stride : buffers.chunks[turn];
        return true;
      }
    return false;
  };

  configure_units();
  Unit units[3];
  const Unit* ready = nullptr;  // whose scores are there
  const Unit* weighed = nullptr;
  for (int turn = 0;; turn = (turn + 1) % 3) {
    const Unit* coming = next_unit(units[turn]) ? &units[turn] : nullptr;
    if (!coming && !ready && !weighed) break;
    Products products(args, buffers.of_walk.q, coming, weighed, buffers.padded);
    for (std::int64_t i = 0; ready && i < ready->count; i++) {
      float* scores = ready->scores + i * kChunkTokens;
      float* result = ready->out + i * stride + outputs;
      const float top = top_score(args, scores, ready->block_first * kBlockTokens, ready->num_blocks,
                                  visible(args, position_of(ready->begin + i)));
      result[0] = top;
      result[1] = set_rough_weights(scores, all(top == -INFINITY ? 0.0f : top), ready->num_blocks,
                                    ready->weights + static_cast<std::size_t>(i) * kWeightBytes);
      products.advance(i + 1, ready->count);
    }
    products.advance(1, 1);
    if (weighed && weighed->chunk != first_chunk)
      merge(states + weighed->begin * stride, weighed->out, weighed->count, outputs);
    weighed = ready;
    ready = coming;
  }
  release_tiles();
  for (std::int64_t i = 0; i < vectors; i++)
    finish(args, states + i * stride, query_begin + i / args.group, i % args.group);
}

void attend_by_tiles(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                     const AttentionArgs* next, std::byte* memory) {
  if (!args.has_values() || (query_end - query_begin) * args.group <= TiledBf16Cache::kVectors)
    return attend<TiledBf16Cache>(args, query_begin, query_end, next, memory);
  attend_by_units(args, query_begin, query_end, memory);
}

std::size_t tiled_scratch_bytes(std::int64_t group, std::int64_t head_dim, std::int64_t value_dim) {
  const std::int64_t vectors = whole_units(max_vectors(group, head_dim));
  const std::size_t by_units =
      buffer_bytes(value_dim) + static_cast<std::size_t>(vectors * partial_floats(value_dim)) * sizeof(float) +
      static_cast<std::size_t>(vectors) * Bf16Cache::query_bytes(head_dim);
  return std::max(by_units, scratch_bytes<TiledBf16Cache>(group, head_dim, value_dim));
}

}  // namespace

const CacheAttention* amx_cache_attention() {
  static_assert(static_cast<int>(CacheFormat::bf16) == 0);
  static const CacheAttention table[kNumCacheFormats] = {
      {tiled_scratch_bytes, attend_by_tiles, attend_chunk<TiledBf16Cache>}, kCacheAttention[1], kCacheAttention[2]};
  return table;
}

}  // namespace ridgeline::RIDGELINE_ISA
