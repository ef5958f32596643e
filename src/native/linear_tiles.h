// linear over integer weights: all rows and strips of a call, in tiles (linear_tile.h), stretch by stretch of K.
#pragma once

#include <algorithm>
#include <type_traits>

#include "linear_tile.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Of tiles of nearly equal height: the fewest rows that one has, of `m` rows or more together.
constexpr int fewest_rows(std::int64_t m) {
  std::int64_t fewest = kTileRows;
  for (const std::int64_t end = m + kTileRows; m < end; m++) {
    fewest = std::min(fewest, m / ((m + kTileRows - 1) / kTileRows));
  }
  return static_cast<int>(fewest);
}

// Tiles of fewer rows than Fewest are not asked for, and not compiled.
template <class W, int Fewest, int Rows = kTileRows, class X>
void tile_of(const Stretch<X>& s, int rows) {
  if constexpr (Rows > Fewest) {
    if (rows < Rows) return tile_of<W, Fewest, Rows - 1>(s, rows);
  }
  tile<W, Rows>(s);
}

// All rows of a stretch, in tiles of nearly equal height. Weights that stream are asked for ahead of
// the first tile; the passes over a panel share the asking for what the next one is made of. The first may read what it
// makes the panel of. Of Fewest rows or more. `beside` is asked for, too, unless weights stream.
template <class W, int Fewest, class First = W, class X>
void tiles(Stretch<X> s, std::int64_t m, const std::uint8_t* next, std::int64_t next_bytes, Beside* beside) {
  const std::int64_t count = (m + kTileRows - 1) / kTileRows;
  s.ahead = next;
  s.ahead_bytes = W::kStreams ? 2 * W::kStripBytes : next_bytes / (s.blocks * count) / 64 * 64 + 64;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < count; i++) {
    const std::int64_t rows = (m - row) / (count - i);
    if (!W::kStreams && beside) s.beside_bytes = beside->take(kBesideBytes * s.blocks, s.beside) / s.blocks;
    if (First::kWidens && i == 0) {
      tile_of<First, fewest_rows(Fewest)>(s, static_cast<int>(rows));
      s.weights = s.panel;
    } else {
      tile_of<W, fewest_rows(Fewest)>(s, static_cast<int>(rows));
    }
    s.x += rows * s.x_stride;
    s.y += rows * s.ldy;
    s.ahead += s.ahead_bytes * s.blocks;
    if (W::kStreams) s.ahead_bytes = 0;
    row += rows;
  }
}

#ifdef RIDGELINE_ISA_avx2

// One row reads memory as four streams in turns, a group of each: the quarters of the pairs; two read halves, or there would
// be more sums than registers. All are asked for, in order, so that what the hardware reads ahead of its own accord adds to
// it (docs/log.md).
constexpr std::int64_t kStreamAheadBytes = 768;
template <int Rows>
inline constexpr int kStreams = 4 / Rows;

// A pair of each of Count streams, `apart` pairs from one to the next.
template <class W, int Rows, int Count, class X>
[[gnu::noinline]] void side_by_side(const Stretch<X>& s, std::int64_t apart) {
  Floats sums[2][Count][Rows][2];
  for (auto& strip : sums)
    for (auto& stream : strip)
      for (auto& row : stream) row[0] = zeros();
  const std::int64_t blocks = s.blocks, x_stride = s.x_stride, stream = apart * blocks * 2 * W::kStripBytes;
  const std::uint8_t* weights = s.weights;
  for (std::int64_t block = 0; block < blocks; block++) {
#pragma GCC unroll 1
    for (int c = 0; c < 2; c++, weights += W::kStripBytes) {
      Floats acc[Count][Rows][2];
#pragma GCC unroll 4
      for (int p = 0; p < Count; p++)
#pragma GCC unroll 2
        for (int r = 0; r < Rows; r++) acc[p][r][0] = sums[c][p][r][0];
#pragma GCC unroll 1
      for (int g = 0; g < W::kShape.groups(); g++) {
#pragma GCC unroll 4
        for (int p = 0; p < Count; p++) {
          const std::uint8_t* from = weights + p * stream;
          multiply_group<W, Rows, 1>(from, g, s.x + block, x_stride, from + kStreamAheadBytes, acc[p], 0);
        }
      }
#pragma GCC unroll 4
      for (int p = 0; p < Count; p++)
#pragma GCC unroll 2
        for (int r = 0; r < Rows; r++) sums[c][p][r][0] = acc[p][r][0];
    }
  }
  for (std::int64_t p = 0; p < Count; p++) {
    for (int c = 0; c < 2; c++) {
      const std::int64_t at = p * apart * kStripChannels + c * kLanes, channels = s.channels - at;
      const Floats bias = s.bias ? load_channels(s.bias + at, channels) : zeros();
      for (int r = 0; r < Rows; r++)
        store_channels(s.y + r * s.ldy + at, fma(sums[c][p][r][0], all(s.scale), bias), channels);
    }
  }
}

// Pairs [strip_begin, strip_end). `whole` is the matrix, of n channels.
template <class W, int Rows, class X>
void pairs_of_few_rows(const Stretch<X>& whole, std::int64_t n, std::int64_t strip_begin, std::int64_t strip_end) {
  const std::int64_t pair_bytes = whole.blocks * 2 * W::kStripBytes, apart = (strip_end - strip_begin) / kStreams<Rows>;
  const auto pairs = [&]<int Count>(std::int64_t begin, std::int64_t end) {
    Stretch<X> s = whole;
    for (std::int64_t pair = begin; pair < end; pair++) {
      s.weights = whole.weights + pair * pair_bytes;
      s.channels = n - pair * kStripChannels;
      s.y = whole.y + pair * kStripChannels;
      s.bias = whole.bias ? whole.bias + pair * kStripChannels : nullptr;
      side_by_side<W, Rows, Count>(s, apart);
    }
  };
  pairs.template operator()<kStreams<Rows>>(strip_begin, strip_begin + apart);
  pairs.template operator()<1>(strip_begin + kStreams<Rows> * apart, strip_end);
}

// The same of fine rows by their terms, if there is room for them: the bits are those of words.
template <class W, class X>
void few_rows(const Stretch<X>& whole, std::int64_t m, std::int64_t n, std::int64_t strip_begin, std::int64_t strip_end,
              std::uint8_t* scratch) {
  if constexpr (std::is_same_v<X, FineBlock> && W::kShape.number_bits() != 8) {
    constexpr std::int64_t kMostBlocks = kScratchBytes / sizeof(TermBlock);
    if (m * whole.blocks <= kMostBlocks) {
      Stretch<TermBlock> s{};
      s.weights = whole.weights;
      s.x = reinterpret_cast<TermBlock*>(scratch);
      s.x_stride = s.blocks = whole.blocks;
      s.y = whole.y;
      s.ldy = whole.ldy;
      s.scale = whole.scale;
      s.bias = whole.bias;
      split_terms(whole.x, m * whole.blocks, reinterpret_cast<TermBlock*>(scratch));
      return few_rows<W>(s, m, n, strip_begin, strip_end, scratch);
    }
  }
  return m == 1 ? pairs_of_few_rows<W, 1>(whole, n, strip_begin, strip_end)
                : pairs_of_few_rows<W, 2>(whole, n, strip_begin, strip_end);
}

#endif

template <Layout L, class X>
void linear_integer(const PackedMatrix& w, const X* x, std::int64_t m,
                    std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
                    std::int64_t ldy, std::uint8_t* panel, Beside* beside) {
  using From = Packed<L>;
  using To = Unpacked<L>;
  const std::int64_t blocks = num_blocks(w.k), pair_bytes = integer_pair_bytes(L, w.k);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  Stretch<X> s{};
  s.x_stride = blocks;
  s.ldy = ldy;
  // In pairs codes are as they are; elsewhere times a power of two (linear_layout.h).
  constexpr bool kAsTheyAre = in_pairs(L) && std::is_same_v<X, ActivationBlock>;
  s.scale = 1.0f / (w.prescale * static_cast<float>(kAsTheyAre ? 1 : 1 << (8 - From::kShape.number_bits())));
  const auto at_pair = [&](std::int64_t pair) {
    s.channels = std::min(kStripChannels, w.n - pair * kStripChannels);
    s.bias = bias ? bias + pair * kStripChannels : nullptr;
  };

#ifdef RIDGELINE_ISA_avx2
  if (m >= 1 && m <= kFewRows) {
    s.weights = data;
    s.x = x;
    s.blocks = blocks;
    s.y = y;
    s.bias = bias;
    return few_rows<From>(s, m, w.n, strip_begin, strip_end, panel);
  }
#endif
  constexpr std::int64_t kDirectRows = direct_rows(From::kShape);
  const bool direct = m <= kDirectRows;
  const std::int64_t stretch = m <= kTileRows ? blocks : direct ? kDirectBlocks : kPanelBlocks;
  const std::int64_t most = direct ? kDirectRowGroup : kRowGroup, groups = (m + most - 1) / most;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < groups; i++) {
    const std::int64_t rows = (m - row) / (groups - i);
    for (std::int64_t block = 0; block < blocks; block += stretch) {
      s.blocks = std::min(stretch, blocks - block);
      s.first = block == 0;
      s.last = block + s.blocks == blocks;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        const std::uint8_t* packed = data + pair * pair_bytes + block * 2 * From::kStripBytes;
        at_pair(pair);
        s.units = reinterpret_cast<const std::uint16_t*>(data + (pair + 1) * pair_bytes - units_bytes(L));
        s.x = x + row * s.x_stride + block;
        s.y = y + row * ldy + pair * kStripChannels;
        if (direct) {
          s.weights = packed;
          if (rows <= kTileRows) {
            tiles<From, kFewRows + 1>(s, rows, packed + ahead_of(rows), 0, nullptr);
          } else {
            const std::int64_t stretch_bytes = s.blocks * 2 * From::kStripBytes + (s.last ? units_bytes(L) : 0);
            const std::uint8_t* next = packed + (pair + 1 < strip_end ? pair_bytes : stretch_bytes);
            if (pair + 1 == strip_end && !s.last) next -= (pair - strip_begin) * pair_bytes;
            tiles<Shared<L>, kTileRows + 1>(s, rows, next, stretch_bytes, beside);
          }
          continue;
        }
        if constexpr (kDirectRows != kAlwaysDirect) {
          s.panel = panel;
          const std::uint8_t* next = packed + pair_bytes;
          const std::int64_t next_bytes = s.blocks * 2 * From::kStripBytes;
          if constexpr (kWidensInTile<X>) {
            s.weights = packed;
            tiles<To, kDirectRows + 1, Widened<L>>(s, rows, next, next_bytes, beside);
          } else {
            for (std::int64_t strip = 0; strip < s.blocks * 2; strip++) {
              To::unpack(packed + strip * From::kStripBytes,
                         panel + strip / 2 * 2 * To::kStripBytes + strip % 2 * To::kNextStrip);
            }
            s.weights = panel;
            tiles<To, kDirectRows + 1>(s, rows, next, next_bytes, beside);
          }
        }
      }
    }
    row += rows;
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
