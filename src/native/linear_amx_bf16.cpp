// linear over bfloat16 weights on AMX: up to 32 tokens x 32 channels of sums in tiles while K runs, 32 of K at a time.
//
// Per output: for each 32 of K in order, what one tile product adds (amx.h); then the bias. Every number of rows goes
// this way, one included, so that an output's bits depend on its row alone. A stretch of K ends by storing the sums in y
// and the next begins by loading them, which changes no bit.
#include <algorithm>
#include <cstring>

#include "amx.h"
#include "linear_amx.h"
#include "linear_float.h"
#include "linear_lanes.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kTileRows = 16, kTileSteps = 16;           // a step is a pair along K
constexpr std::int64_t kStepBytes = 2 * kLineBytes;               // of both strips
constexpr std::int64_t kTileBytes = kTileSteps * kStepBytes;
constexpr std::int64_t kStretchTiles = 64;                      // of K, at most, before sums go to y and back
constexpr std::int64_t kRowGroup = 288;
constexpr std::int64_t kPrefetchBytes = 8192;

// Tiles: sums [row tile][strip], activations of a row tile, weights of a strip.
enum { kSums = 0, kX = 4, kWeights = 6 };

TileConfig config_of(std::int64_t rows) {
  TileConfig config;
  const std::int64_t first = std::min(rows, kTileRows), second = rows - first;
  for (int i = 0; i < 2; i++) {
    config.shape(kSums + i, first, kLineBytes);
    config.shape(kSums + 2 + i, second, kLineBytes);
    config.shape(kWeights + i, kTileSteps, kLineBytes);
  }
  config.shape(kX, first, kLineBytes);
  config.shape(kX + 1, second, kLineBytes);
  return config;
}

struct Stretch {
  const std::uint8_t* weights;
  const std::uint8_t* rest;  // the last tile of K, padded with zeros, or null
  std::int64_t tiles;        // without it
  const std::uint16_t* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t ldy, channels;
  bool first, last;
  bool near;                // whether this pass reads weights from memory: asks for what it will read a little later
  const std::uint8_t* far;  // what the next pair's passes will read, or null
  std::int64_t far_lines;   // of it, for each tile of K
  const float* bias;
};

template <bool Two>
[[gnu::always_inline]] inline void multiply_tile(const std::uint8_t* weights, const std::uint16_t* x,
                                                 std::int64_t x_stride) {
  load_tile<kWeights>(weights, kStepBytes);
  load_tile<kX>(x, x_stride * 2);
  multiply_bfloats<kSums, kX, kWeights>();
  load_tile<kWeights + 1>(weights + kLineBytes, kStepBytes);
  multiply_bfloats<kSums + 1, kX, kWeights + 1>();
  if constexpr (Two) {
    load_tile<kX + 1>(x + kTileRows * x_stride, x_stride * 2);
    multiply_bfloats<kSums + 2, kX + 1, kWeights>();
    multiply_bfloats<kSums + 3, kX + 1, kWeights + 1>();
  }
}

using Sums32 = float[2 * kTileRows][kStripChannels];

// What becomes of a tile's sums, some rows at a time, while the next tile's products run.
struct Pending {
  const Sums32* sums = nullptr;
  std::int64_t rows = 0, done = 0;
  float* y;
  std::int64_t ldy, channels;
  bool last;
  const float* bias;

  [[gnu::always_inline]] inline void finish_row() {
    const std::int64_t r = done++;
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      const std::int64_t count = channels - c * kLanes;
      Floats sum = load((*sums)[r] + c * kLanes);
      if (last) sum = fma(sum, all(1.0f), bias ? load_channels(bias + c * kLanes, count) : zeros());
      store_channels(y + r * ldy + c * kLanes, sum, count);
    }
  }
  void finish() {
    while (done < rows) finish_row();
  }
};

// Rows are at most 16, or, with Two, 17 to 32.
template <bool Two>
[[gnu::noinline]] void tile(const Stretch& s, std::int64_t rows, Sums32& sums, Pending& pending) {
  if (!s.first) pending.finish();  // it may be what is read here
  if (s.first) {
    zero_tile<kSums>();
    zero_tile<kSums + 1>();
    if constexpr (Two) {
      zero_tile<kSums + 2>();
      zero_tile<kSums + 3>();
    }
  } else {
    for (std::int64_t r = 0; r < rows; r++) {
      for (int c = 0; c < 2; c++) {
        store(sums[r] + c * kLanes, load_channels(s.y + r * s.ldy + c * kLanes, s.channels - c * kLanes));
      }
    }
    load_tile<kSums>(sums[0], sizeof sums[0]);
    load_tile<kSums + 1>(sums[0] + kLanes, sizeof sums[0]);
    if constexpr (Two) {
      load_tile<kSums + 2>(sums[kTileRows], sizeof sums[0]);
      load_tile<kSums + 3>(sums[kTileRows] + kLanes, sizeof sums[0]);
    }
  }
  const std::uint8_t *weights = s.weights, *far = s.far;
  const std::uint16_t* x = s.x;
  for (std::int64_t t = 0; t < s.tiles; t++) {
    if (s.near) {
      for (std::int64_t i = 0; i < kTileBytes; i += kLineBytes) prefetch_near(weights + kPrefetchBytes + i);
    } else if (far) {
      for (std::int64_t i = 0; i < s.far_lines; i++, far += kLineBytes) prefetch_far(far);
    }
    multiply_tile<Two>(weights, x, s.x_stride);
    for (int i = 0; i < 2 && pending.done < pending.rows; i++) pending.finish_row();
    weights += kTileBytes;
    x += 2 * kTileSteps;
  }
  if (s.rest) multiply_tile<Two>(s.rest, x, s.x_stride);
  pending.finish();
  store_tile<kSums>(sums[0], sizeof sums[0]);
  store_tile<kSums + 1>(sums[0] + kLanes, sizeof sums[0]);
  if constexpr (Two) {
    store_tile<kSums + 2>(sums[kTileRows], sizeof sums[0]);
    store_tile<kSums + 3>(sums[kTileRows] + kLanes, sizeof sums[0]);
  }
  pending = {&sums, rows, 0, s.y, s.ldy, s.channels, s.last, s.bias};
}

}  // namespace

void linear_bf16_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                     std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy) {
  const std::int64_t steps = (w.k + 1) / 2, pair_bytes = steps * kStepBytes;
  const std::int64_t whole_tiles = steps / kTileSteps, rest_steps = steps % kTileSteps;
  const std::int64_t tiles = whole_tiles + (rest_steps ? 1 : 0);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const auto* x = reinterpret_cast<const std::uint16_t*>(activations);
  alignas(64) std::uint8_t rest[kTileBytes] = {};
  struct alignas(64) {
    Sums32 each[2];
  } sums;
  int turn = 0;
  Pending pending;
  Stretch s{};
  s.x_stride = padded(w.k, 2 * kTileSteps);
  s.ldy = ldy;
  const std::int64_t pass = 2 * kTileRows, tail = m % pass;
  const TileConfig whole = config_of(pass), last = config_of(tail);
  const std::int64_t stretches = m <= pass ? 1 : std::max<std::int64_t>(1, (tiles + kStretchTiles - 1) / kStretchTiles);
  if (m >= pass) whole.load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), passes = (row_end - row + pass - 1) / pass;
    for (std::int64_t i = 0; i < stretches; i++) {
      const std::int64_t begin = tiles * i / stretches, end = tiles * (i + 1) / stretches;
      s.first = i == 0;
      s.last = i + 1 == stretches;
      s.tiles = std::min(end, whole_tiles) - begin;
      s.near = passes == 1;
      s.far_lines = (kTileBytes / kLineBytes + passes - 1) / passes;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        s.weights = data + pair * pair_bytes + begin * kTileBytes;
        s.rest = nullptr;
        if (end > whole_tiles) {
          std::memcpy(rest, data + pair * pair_bytes + whole_tiles * kTileBytes,
                      static_cast<std::size_t>(rest_steps * kStepBytes));
          s.rest = rest;
        }
        s.channels = std::min(kStripChannels, w.n - pair * kStripChannels);
        s.bias = bias ? bias + pair * kStripChannels : nullptr;
        s.far = s.weights + pair_bytes;
        for (std::int64_t r = row; r < row_end; r += pass) {
          const std::int64_t rows = std::min(pass, row_end - r);
          s.x = x + r * s.x_stride + begin * 2 * kTileSteps;
          s.y = y + r * ldy + pair * kStripChannels;
          if (rows < pass && (m >= pass || (pair == strip_begin && i == 0))) last.load();
          rows > kTileRows ? tile<true>(s, rows, sums.each[turn], pending) : tile<false>(s, rows, sums.each[turn], pending);
          turn ^= 1;
          if (rows < pass && m >= pass) whole.load();
          s.far += s.far_lines * s.tiles * kLineBytes;
        }
      }
    }
  }
  pending.finish();
  release_tiles();
}

}  // namespace ridgeline::RIDGELINE_ISA
