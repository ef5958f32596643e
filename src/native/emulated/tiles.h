// AMX in memory: amx.h's functions for a CPU that has no tiles. Shapes that do not fit each other, tiles that were not
// configured, and configurations that the instruction would refuse end the process, as the instructions do.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace ridgeline::RIDGELINE_ISA {

struct EmulatedTiles {
  struct Tile {
    int rows = 0, row_bytes = 0;
    alignas(64) std::uint8_t bytes[16][64];
  };
  Tile tile[8];
};
// Of this file: a thread's tiles do not survive a call that enters another file's kernels, nor do kernels want that.
static inline EmulatedTiles& emulated_tiles() {
  static thread_local EmulatedTiles all;
  return all;
}
static inline EmulatedTiles::Tile& configured(int tile) {
  EmulatedTiles::Tile& out = emulated_tiles().tile[tile];
  if (out.rows == 0) std::abort();
  return out;
}

static inline void release_tiles() {
  for (EmulatedTiles::Tile& tile : emulated_tiles().tile) tile.rows = tile.row_bytes = 0;
}
static inline void configure_tiles(const std::uint8_t* config) {
  if (config[0] != 1) std::abort();
  for (int i = 1; i < 64; i++) {
    const bool is_used = (i >= 16 && i < 32) || (i >= 48 && i < 56);
    if (!is_used && config[i] != 0) std::abort();
  }
  for (int t = 0; t < 8; t++) {
    EmulatedTiles::Tile& tile = emulated_tiles().tile[t];
    tile.rows = config[48 + t];
    tile.row_bytes = config[16 + 2 * t] | config[17 + 2 * t] << 8;
    if (tile.rows > 16 || tile.row_bytes > 64 || (tile.rows == 0) != (tile.row_bytes == 0)) std::abort();
    std::memset(tile.bytes, 0, sizeof tile.bytes);
  }
}

template <int Tile>
static inline void load_tile(const void* p, std::int64_t stride) {
  EmulatedTiles::Tile& to = configured(Tile);
  std::memset(to.bytes, 0, sizeof to.bytes);
  for (int i = 0; i < to.rows; i++)
    std::memcpy(to.bytes[i], static_cast<const std::byte*>(p) + i * stride, static_cast<std::size_t>(to.row_bytes));
}
template <int Tile>
static inline void store_tile(void* p, std::int64_t stride) {
  const EmulatedTiles::Tile& from = configured(Tile);
  for (int i = 0; i < from.rows; i++)
    std::memcpy(static_cast<std::byte*>(p) + i * stride, from.bytes[i], static_cast<std::size_t>(from.row_bytes));
}
template <int Tile>
static inline void zero_tile() {
  std::memset(configured(Tile).bytes, 0, sizeof EmulatedTiles::Tile::bytes);
}

// body(sums of a row, that row's four bytes at k in each lane, row k of B), in order of k. What lies past B's columns
// is zero.
template <int C, int A, int B, class Start, class Body, class Finish>
static inline void multiply_tiles(Start start, Body body, Finish finish) {
  EmulatedTiles::Tile& c = configured(C);
  const EmulatedTiles::Tile &a = configured(A), &b = configured(B);
  if (C == A || C == B || A == B) std::abort();
  if (c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes != b.rows * 4 || b.row_bytes % 4) std::abort();
  for (int m = 0; m < c.rows; m++) {
    auto sums = start(c.bytes[m]);
    for (int k = 0; k < b.rows; k++) {
      std::int32_t four;
      std::memcpy(&four, a.bytes[m] + 4 * k, 4);
      body(sums, _mm256_set1_epi32(four), halves_of(_mm512_loadu_si512(b.bytes[k])));
    }
    const __m512i out = finish(sums, c.bytes[m]);
    std::memcpy(c.bytes[m], &out, static_cast<std::size_t>(c.row_bytes));
  }
}

template <int C, int A, int B, bool SignedB>
static inline void multiply_integers() {
  multiply_tiles<C, A, B>(
      [](const std::uint8_t* row) { return halves_of(_mm512_loadu_si512(row)); },
      [](IntegerHalves& sums, __m256i four, IntegerHalves row) {
        sums = {dot_bytes<true, SignedB>(sums.low, four, row.low), dot_bytes<true, SignedB>(sums.high, four, row.high)};
      },
      [](IntegerHalves sums, const std::uint8_t*) { return joined(sums.low, sums.high); });
}
template <int C, int A, int B>
static inline void multiply_bytes() {
  multiply_integers<C, A, B, true>();
}
template <int C, int A, int B>
static inline void multiply_bytes_unsigned() {
  multiply_integers<C, A, B, false>();
}
template <int C, int A, int B>
static inline void multiply_bfloats() {
  struct Sums {
    FloatHalves even, odd;
  };
  multiply_tiles<C, A, B>(
      [](const std::uint8_t*) {
        const __m256 zero = _mm256_setzero_ps();
        return Sums{{zero, zero}, {zero, zero}};
      },
      [](Sums& sums, __m256i two, IntegerHalves row) {
        const __m256 even = even_bfloats(two), odd = odd_bfloats(two);
        sums.even = {fma_bfloats(even, even_bfloats(row.low), sums.even.low),
                     fma_bfloats(even, even_bfloats(row.high), sums.even.high)};
        sums.odd = {fma_bfloats(odd, odd_bfloats(row.low), sums.odd.low),
                    fma_bfloats(odd, odd_bfloats(row.high), sums.odd.high)};
      },
      [](const Sums& sums, const std::uint8_t* row) {
        const auto add = [](__m256 x, __m256 y) { return no_subnormals(_mm256_add_ps(no_subnormals(x), no_subnormals(y))); };
        const FloatHalves before = halves_of(_mm512_loadu_ps(row));
        return std::bit_cast<__m512i>(joined(add(before.low, add(sums.even.low, sums.odd.low)),
                                             add(before.high, add(sums.even.high, sums.odd.high))));
      });
}

}  // namespace ridgeline::RIDGELINE_ISA
