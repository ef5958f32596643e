// How both kernels of many rows on AMX go through weights: which of them is a `Scheme`.
//
//     kStrips         strips of a panel: 1 or 2
//     kFinishedRows   rows of sums that are finished beside a block's products
//     widen<L>        a block of a strip, as two tiles of 16 channels x 64 of K (kTileBytes each)
//     multiply        a block's products: sixteen tokens' bytes, the panel's block
//     add             a row of a strip's sums, times the row's scales, to what was there
//
// A panel is a stretch of K of its strips, widened. Only when the stretch ends do sums leave the tiles and meet scales, while
// the next tile's products run. So a tile product needs a tile load and little else.
#pragma once

#include <algorithm>

#include "amx.h"
#include "beside.h"
#include "linear_amx_layout.h"

// For files compiled for AVX-512 and AMX.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kRows = 16;                // tokens of a tile
constexpr std::int64_t kRowGroup = 288;  // tokens whose activations stay in L2 beside a panel
constexpr std::int64_t kTileBytes = 1024, kPanelStripBytes = 2 * kTileBytes;
static_assert(kStretchBlocks * 2 * kPanelStripBytes <= kPanelBytes);
// What is asked for beside each block that is multiplied, and beside each of a strip that is widened, where there is something
// (beside.h): more, and weights wait for a place.
constexpr std::int64_t kBesideLines = 3;

// Tiles: four of sums, activations' high and low bytes, weights.
enum { kSums = 0, kHigh = 4, kLow = 5, kWeights = 6 };
using Sums16 = std::int32_t[4][kRows][kLanes];

inline TileConfig config_of(std::int64_t rows) {
  TileConfig config;
  for (int i = 0; i < 4; i++) config.shape(kSums + i, rows, kLineBytes);
  for (const int i : {kHigh, kLow}) config.shape(i, rows, kBlock);
  for (int i = 0; i < 2; i++) config.shape(kWeights + i, kRows, kLineBytes);
  return config;
}

// Both bytes of sixteen tokens' activations times the first tile of each of two strips: high ones into a strip's first sums, low
// ones into its second.
[[gnu::always_inline]] static inline void multiply_first(const std::int8_t* codes, std::int64_t stride,
                                                         const std::uint8_t* panel) {
  load_tile<kHigh>(codes, stride);
  load_tile<kWeights>(panel, kLineBytes);
  multiply_bytes<kSums, kHigh, kWeights>();
  load_tile<kWeights + 1>(panel + kPanelStripBytes, kLineBytes);
  multiply_bytes<kSums + 2, kHigh, kWeights + 1>();
  load_tile<kLow>(codes + kBlock, stride);
  multiply_bytes<kSums + 1, kLow, kWeights>();
  multiply_bytes<kSums + 3, kLow, kWeights + 1>();
}

// Sums of a tile that has been multiplied: where they go. They are finished, some rows at a time, beside the next tile's products.
template <class Scheme>
struct Pending {
  const std::int32_t* sums;  // four of 16, a tile apart, a row after the other
  int rows;
  __mmask16 channels[Scheme::kStrips];
  const std::uint8_t* scales;
  std::int64_t stride;
  float* y;
  std::int64_t ldy;
  const float* units;
  const float* bias;

  // Of the first stretch of K: y has nothing yet. Of the last: then comes the channel's unit. Whole: all channels exist.
  template <bool First, bool Last, bool Whole>
  [[gnu::always_inline]] inline void finish_row() {
    const WideScales& scale = *reinterpret_cast<const WideScales*>(scales);
#pragma GCC unroll 2
    for (int c = 0; c < Scheme::kStrips; c++) {
      const std::int32_t* from = sums + c * (4 / Scheme::kStrips) * kRows * kLanes;
      float* to = y + c * kLanes;
      const auto there = [&](const float* p) { return Whole ? load(p) : _mm512_maskz_loadu_ps(channels[c], p); };
      Floats sum = Scheme::add(First ? zeros() : there(to), from, scale);
      if constexpr (Last) sum = fma(sum, load(units + c * kLanes), bias ? there(bias + c * kLanes) : zeros());
      if constexpr (Whole) {
        store(to, sum);
      } else {
        _mm512_mask_storeu_ps(to, channels[c], sum);
      }
    }
    sums += kLanes;
    scales += stride;
    y += ldy;
    rows--;
  }
};

// Blocks of a panel, and the rows of x that the tiles are configured for.
struct Product {
  const std::int8_t* codes;
  std::int64_t stride;
  const std::uint8_t* panel;
  std::int64_t blocks;
  const std::uint8_t* ahead;
  std::int64_t lines_ahead;  // to ask memory for beside each block
  const std::uint8_t* beside;  // and the same of what is not weights
  std::int64_t lines_beside;
};

template <class Scheme, bool First, bool Last, bool Whole>
[[gnu::noinline]] void multiply_panel(Product p, Pending<Scheme> pending, Sums16& sums) {
  zero_tile<kSums>();
  zero_tile<kSums + 1>();
  zero_tile<kSums + 2>();
  zero_tile<kSums + 3>();
  for (std::int64_t b = 0; b < p.blocks; b++) {
    Scheme::multiply(p.codes, p.stride, p.panel);
    for (std::int64_t i = 0; i < p.lines_ahead; i++, p.ahead += kLineBytes) prefetch_far(p.ahead);
    for (std::int64_t i = 0; i < p.lines_beside; i++, p.beside += kLineBytes) prefetch_far(p.beside);
    if (pending.rows >= Scheme::kFinishedRows) {
#pragma GCC unroll 4
      for (int i = 0; i < Scheme::kFinishedRows; i++) pending.template finish_row<First, Last, Whole>();
    }
    p.codes += kWideCodes;
    p.panel += Scheme::kStrips * kPanelStripBytes;
  }
  while (pending.rows > 0) pending.template finish_row<First, Last, Whole>();
  store_tile<kSums>(sums[0], kLineBytes);
  store_tile<kSums + 1>(sums[1], kLineBytes);
  store_tile<kSums + 2>(sums[2], kLineBytes);
  store_tile<kSums + 3>(sums[3], kLineBytes);
}

template <class Scheme>
using MultiplyPanel = void (*)(Product, Pending<Scheme>, Sums16&);

// By what is pending.
template <class Scheme>
MultiplyPanel<Scheme> multiply_panel_beside(bool first, bool last, bool whole) {
  const auto third = [&]<bool First, bool Last>() {
    return whole ? multiply_panel<Scheme, First, Last, true> : multiply_panel<Scheme, First, Last, false>;
  };
  if (first) return last ? third.template operator()<true, true>() : third.template operator()<true, false>();
  return last ? third.template operator()<false, true>() : third.template operator()<false, false>();
}

template <class Scheme, Layout L>
void linear_tiles(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                  std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::byte* scratch,
                  Beside* beside) {
  constexpr std::int64_t kStrip = Common<L>::kStripBytes;
  constexpr int kStrips = Scheme::kStrips;
  auto* panel = reinterpret_cast<std::uint8_t*>(scratch);
  const WideRows x(activations, w.k);
  const std::int64_t pair_bytes = common_pair_bytes<L>(x.blocks), stretches = num_stretches(x.blocks);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const TileConfig whole = config_of(kRows), last = config_of(m % kRows);
  // One tile's: they are read before the next tile's are stored. (Of two, each is longer out of the first-level cache: 7 %.)
  alignas(64) Sums16 sums;
  Pending<Scheme> pending{};
  MultiplyPanel<Scheme> multiply = multiply_panel_beside<Scheme>(true, true, true);
  // Of what is not weights, so many lines for each of `blocks`, or fewer.
  const std::uint8_t* asked = nullptr;
  const auto lines_beside = [&](std::int64_t lines, std::int64_t blocks) {
    return beside ? beside->take(lines * kLineBytes * blocks, asked) / (kLineBytes * blocks) : 0;
  };
  (m >= kRows ? whole : last).load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), tiles = (row_end - row + kRows - 1) / kRows;
    // Of the panel's blocks of the next pair, over widening and the tiles of this one's: a core waits for a few lines at once.
    const std::int64_t lines_ahead = (kStrips * kStrip / kLineBytes + tiles) / (tiles + 1);
    for (std::int64_t stretch = 0; stretch < stretches; stretch++) {
      const std::int64_t block = stretch_begin(x.blocks, stretch), count = stretch_begin(x.blocks, stretch + 1) - block;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        const std::uint8_t* packed = data + pair * pair_bytes + block * 2 * kStrip;
        const std::uint8_t* ahead = packed + pair_bytes;
        const auto* units = reinterpret_cast<const float*>(data + (pair + 1) * pair_bytes - kUnitsBytes);
        for (int strip = 0; strip < 2; strip += kStrips) {
          const std::int64_t channel = pair * kStripChannels + strip * kLanes;
          if (channel >= w.n) break;
          for (std::int64_t b = 0; b < count; b++) {
            for (std::int64_t i = 0; i < lines_ahead; i++, ahead += kLineBytes) prefetch_far(ahead);
            for (std::int64_t i = lines_beside(kStrips * kBesideLines, 1); i > 0; i--, asked += kLineBytes) prefetch_far(asked);
            for (int c = 0; c < kStrips; c++) {
              Scheme::template widen<L>(packed + (2 * b + strip + c) * kStrip, panel + (b * kStrips + c) * kPanelStripBytes);
            }
          }
          const MultiplyPanel<Scheme> after = multiply_panel_beside<Scheme>(
              stretch == 0, stretch + 1 == stretches, channel + kStrips * kLanes <= w.n);
          for (std::int64_t r = row; r < row_end; r += kRows) {
            const std::int64_t rows = std::min<std::int64_t>(kRows, row_end - r);
            if (rows < kRows && m >= kRows) last.load();
            const std::int64_t more = lines_beside(kBesideLines, count);
            multiply({x.codes(r, block), x.stride, panel, count, ahead, lines_ahead, asked, more}, pending, sums);
            pending = {&sums[0][0][0],
                       static_cast<int>(rows),
                       {},
                       reinterpret_cast<const std::uint8_t*>(&x.scales(r, stretch)),
                       x.stride,
                       y + r * ldy + channel,
                       ldy,
                       units + strip * kLanes,
                       bias ? bias + channel : nullptr};
            for (int c = 0; c < kStrips; c++) {
              pending.channels[c] = first_lanes(std::min(kLanes, w.n - channel - c * kLanes));
            }
            multiply = after;
            ahead += count * lines_ahead * kLineBytes;
            if (rows < kRows && m >= kRows) whole.load();
          }
        }
      }
    }
  }
  multiply({nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0}, pending, sums);
  release_tiles();
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
