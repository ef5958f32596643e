// attention: what the kernels of all cache formats share. attention.h has the layouts, attention.cpp the way through a
// context; attention_bf16.h, attention_f16.h and attention_int8.h each say how one format is multiplied.
#pragma once

#include "attention.h"
#include "isa.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

// Vectors of a register tile of scores and of outputs; how many lines it is wide is each format's own.
#if defined(RIDGELINE_ISA_avx512)
inline constexpr int kTileVectors = 6;
#elif defined(RIDGELINE_ISA_avx2)
inline constexpr int kTileVectors = 6;
#else
inline constexpr int kTileVectors = 2;
#endif

inline constexpr std::int64_t kBlocksPerChunk = kChunkTokens / kBlockTokens;
// Of one vector's weights of a chunk: factors (pairs.h, quads.h) of 16 or 32 bits.
#if defined(RIDGELINE_ISA_avx512)
inline constexpr std::size_t kWeightBytes = 2 * kChunkTokens;
#else
inline constexpr std::size_t kWeightBytes = 4 * kChunkTokens;
#endif

inline constexpr float kLog2E = 1.44269504f;

// 2^x within 3e-6 of its value; 0 below 2^-126; NaN stays. x = n + r, |r| <= 1/2; a polynomial in r whose largest
// relative error is least.
static inline Vec power_of_2(Vec x) {
  const Vec clamped = max(all(-126.0f), x);
  const Vec n = round_even(clamped), r = sub(clamped, n);
  Vec p = all(0.00958285259f);
  p = fma(p, r, all(0.0559064285f));
  p = fma(p, r, all(0.240240986f));
  p = fma(p, r, all(0.693124193f));
  p = fma(p, r, all(1.0f));
  return select(less(x, all(-126.0f)), zeros(), times_power(p, n));
}

// Tiles that are asked for while others are computed, in order. A core has a dozen places for what it waits for: asked
// for a few lines at a time, memory answers while the core computes.
struct Ahead {
  const std::byte* tiles[kBlocksPerChunk];
  std::int64_t num_bytes[kBlocksPerChunk];
  std::int64_t count = 0;
  std::int64_t tile = 0, done = 0;  // what comes next: in this tile, after so many bytes

  // Inlined whatever the compiler thinks: around a call, a loop keeps its sums on the stack.
  [[gnu::always_inline]] void ask_tile() {
    if (tile < count)
      for (std::int64_t i = done; i < num_bytes[tile]; i += 64) prefetch_far(tiles[tile] + i);
    tile++;
    done = 0;
  }
  // So many lines, or those that are left of a tile.
  template <int Lines>
  [[gnu::always_inline]] void ask() {
    if (tile >= count) return;
    if (num_bytes[tile] - done <= 64 * Lines) return ask_tile();
#pragma GCC unroll 8
    for (int i = 0; i < Lines; i++) prefetch_far(tiles[tile] + done + 64 * i);
    done += 64 * Lines;
  }
  void ask_all() {
    while (tile < count) ask_tile();
  }
};

// Of tiles that have company: a loop that may ask keeps a register less for sums.
struct NothingAhead {
  template <int Lines>
  void ask() {}
};
// Calls f with what is to be asked for, if there is any.
template <class F>
inline void asking(Ahead& ahead, F f) {
  NothingAhead nothing;
  if (ahead.count > 0) {
    f(ahead);
  } else {
    f(nothing);
  }
}

// The value tiles of a chunk's blocks, and what is asked for meanwhile.
struct ValueTiles {
  const std::byte* const* tiles;
  std::int64_t num_blocks;
  std::int64_t outputs;  // channels of a tile, padded
};

}  // namespace ridgeline::RIDGELINE_ISA
