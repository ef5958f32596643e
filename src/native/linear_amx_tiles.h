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
#include "linear_amx_layout.h"

// For files compiled for AVX-512 and AMX.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kRows = 16;                // tokens of a tile
constexpr std::int64_t kRowGroup = 288;  // tokens whose activations stay in L2 beside a panel
constexpr std::int64_t kTileBytes = 1024, kPanelStripBytes = 2 * kTileBytes;
static_assert(kStretchBlocks * 2 * kPanelStripBytes <= kPanelBytes);

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

// What becomes of a tile's sums, a row at a time.
template <class Scheme>
struct Pending {
  const std::int32_t* sums = nullptr;  // of the next row: four of 16, a tile apart
  int rows = 0;                        // left
  bool first, last;
  __mmask16 channels[Scheme::kStrips];
  const std::uint8_t* scales;
  std::int64_t stride;
  float* y;
  std::int64_t ldy;
  const float* units;
  const float* bias;

  [[gnu::always_inline]] inline void finish(int count) {
    count = std::min(count, rows);
    rows -= count;
    for (; count > 0; count--) {
      const WideScales& scale = *reinterpret_cast<const WideScales*>(scales);
#pragma GCC unroll 2
      for (int c = 0; c < Scheme::kStrips; c++) {
        const std::int32_t* from = sums + c * (4 / Scheme::kStrips) * kRows * kLanes;
        float* to = y + c * kLanes;
        Floats sum = Scheme::add(first ? zeros() : _mm512_maskz_loadu_ps(channels[c], to), from, scale);
        if (last) {
          const Floats start = bias ? _mm512_maskz_loadu_ps(channels[c], bias + c * kLanes) : zeros();
          sum = fma(sum, load(units + c * kLanes), start);
        }
        _mm512_mask_storeu_ps(to, channels[c], sum);
      }
      sums += kLanes;
      scales += stride;
      y += ldy;
    }
  }
};

// Blocks [block, block + blocks) of the panel times as many rows of x, from `row` on, as the tiles are configured for.
template <class Scheme>
[[gnu::noinline]] void multiply_panel(const std::uint8_t* panel, const WideRows& x, std::int64_t row, std::int64_t block,
                                      std::int64_t blocks, const std::uint8_t* ahead, std::int64_t lines_ahead,
                                      Pending<Scheme>& pending, Sums16& sums) {
  zero_tile<kSums>();
  zero_tile<kSums + 1>();
  zero_tile<kSums + 2>();
  zero_tile<kSums + 3>();
  const std::int8_t* codes = x.codes(row, block);
  for (std::int64_t b = 0; b < blocks; b++) {
    Scheme::multiply(codes, x.stride, panel);
    for (std::int64_t i = 0; i < lines_ahead; i++, ahead += kLineBytes) prefetch_far(ahead);
    pending.finish(Scheme::kFinishedRows);
    codes += kWideCodes;
    panel += Scheme::kStrips * kPanelStripBytes;
  }
  pending.finish(kRows);
  store_tile<kSums>(sums[0], kLineBytes);
  store_tile<kSums + 1>(sums[1], kLineBytes);
  store_tile<kSums + 2>(sums[2], kLineBytes);
  store_tile<kSums + 3>(sums[3], kLineBytes);
}

template <class Scheme, Layout L>
void linear_tiles(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                  std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::byte* scratch) {
  constexpr std::int64_t kStrip = Common<L>::kStripBytes;
  constexpr int kStrips = Scheme::kStrips;
  auto* panel = reinterpret_cast<std::uint8_t*>(scratch);
  const WideRows x(activations, w.k);
  const std::int64_t pair_bytes = common_pair_bytes<L>(x.blocks), stretches = num_stretches(x.blocks);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const TileConfig whole = config_of(kRows), last = config_of(m % kRows);
  struct alignas(64) {
    Sums16 each[2];
  } sums;
  int turn = 0;
  Pending<Scheme> pending;
  (m >= kRows ? whole : last).load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), tiles = (row_end - row + kRows - 1) / kRows;
    // Of the panel's blocks of the next pair, over the tiles of this one's.
    const std::int64_t lines_ahead = (kStrips * kStrip / kLineBytes + tiles - 1) / tiles;
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
            for (int c = 0; c < kStrips; c++) {
              Scheme::template widen<L>(packed + (2 * b + strip + c) * kStrip, panel + (b * kStrips + c) * kPanelStripBytes);
            }
          }
          for (std::int64_t r = row; r < row_end; r += kRows) {
            const std::int64_t rows = std::min<std::int64_t>(kRows, row_end - r);
            if (rows < kRows && m >= kRows) last.load();
            multiply_panel<Scheme>(panel, x, r, block, count, ahead, lines_ahead, pending, sums.each[turn]);
            pending = {&sums.each[turn][0][0][0],
                       static_cast<int>(rows),
                       stretch == 0,
                       stretch + 1 == stretches,
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
            turn ^= 1;
            ahead += count * lines_ahead * kLineBytes;
            if (rows < kRows && m >= kRows) whole.load();
          }
        }
      }
    }
  }
  pending.finish(kRows);
  release_tiles();
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
