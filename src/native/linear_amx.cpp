// linear over integer weights on AMX: sums over a whole stretch of K stay in tiles. linear_amx_layout.h has the arithmetic.
//
// A panel is a stretch of K of one strip, its weights widened to two bytes: a tile of 16 channels x 64 of K of upper ones, one
// of lower ones. 16 tokens' high and low bytes times both are four products, each into sums of its own, and they are exact.
// Only when the stretch ends do sums leave the tiles and meet scales, while the next tile's products run. So a tile product
// of 16 cycles needs one tile load and little else.
#include "linear_amx.h"

#include <algorithm>

#include "amx.h"
#include "linear_amx_layout.h"
#include "linear_kernels.h"

// Compiled for AVX-512 and AMX, in the namespace of the former.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kRows = 16;                // tokens of a tile
constexpr std::int64_t kRowGroup = 288;  // tokens whose activations stay in L2 beside a panel
constexpr std::int64_t kTileBytes = 1024, kPanelBlockBytes = 2 * kTileBytes;

// Tiles: sums of (high, low) bytes of activations x (upper, lower) of weights; activations; weights.
enum { kSums = 0, kHigh = 4, kLow = 5, kUpper = 6, kLower = 7 };
using Sums16 = std::int32_t[4][kRows][kLanes];

// The numbers of a line's even and odd bytes, in 16 bits, plus the layout's zero.
template <Layout L>
[[gnu::always_inline]] inline void numbers_of(const std::uint8_t* strip, int group, int step, __m512i& even,
                                              __m512i& odd) {
  constexpr IntegerShape kShape = integer_shape(L);
  constexpr int kShift = 8 - kShape.number_bits();
  const __m512i x = Packed<L>::line(strip, group, step);
  even = _mm512_and_si512(x, _mm512_set1_epi16(255));
  if constexpr (kShift > 0) even = _mm512_srli_epi16(even, kShift);
  odd = _mm512_srli_epi16(x, 8 + kShift);
}

// A block of a strip into the panel: weights = scale * number + what the group adds.
template <Layout L>
[[gnu::always_inline]] inline void widen(const std::uint8_t* strip, std::uint8_t* out) {
  using C = Common<L>;
  constexpr IntegerShape kShape = C::kShape;
  constexpr int kGroups = kShape.groups(), kGroupSteps = kShape.group / 4;
  constexpr int kZero = kShape.table ? kCodeOffset : kShape.zero();
  const __m512i first = _mm512_set1_epi32(0x01000100), second = _mm512_set1_epi32(0x03020302);
  const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  const __m512i upper_byte = _mm512_set1_epi16(static_cast<short>(0xff00)), lower_byte = _mm512_set1_epi16(0xff);
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; g++) {
    const __m512i which = _mm512_add_epi8(g % 2 ? second : first, lanes);  // a channel's int16, twice
    const __m512i scale = _mm512_shuffle_epi8(_mm512_load_si512(C::scales_at(strip, g / 2)), which);
    __m512i offset = _mm512_mullo_epi16(scale, _mm512_set1_epi16(-kZero));
    if constexpr (kShape.minima) {
      offset = _mm512_add_epi16(offset, _mm512_shuffle_epi8(_mm512_load_si512(C::remainders_at(strip, g / 2)), which));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kGroupSteps; i++) {
      __m512i even, odd;
      numbers_of<L>(strip, g, i, even, odd);
      even = _mm512_add_epi16(_mm512_mullo_epi16(even, scale), offset);
      odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, scale), offset);
      std::uint8_t* to = out + (g * kGroupSteps + i) * kLineBytes;
      // Where the mask has ones, the first, elsewhere the second.
      store_line(to, _mm512_ternarylogic_epi32(upper_byte, odd, _mm512_srli_epi16(even, 8), 0xca));
      store_line(to + kTileBytes, _mm512_ternarylogic_epi32(lower_byte, even, _mm512_slli_epi16(odd, 8), 0xca));
    }
  }
}

// What becomes of a tile's sums, a row at a time, while the next tile's products run.
struct Pending {
  const Sums16* sums = nullptr;
  int rows = 0, done = 0;
  const std::uint8_t* scales;  // of row 0, `stride` bytes from row to row
  std::int64_t stride;
  float* y;
  std::int64_t ldy, channels;
  bool first, last;
  const float* units;
  const float* bias;

  [[gnu::always_inline]] inline void finish_row() {
    const int r = done++;
    const auto joined = [&](int upper) {
      return _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512((*sums)[upper][r]), 8),
                              _mm512_load_si512((*sums)[upper + 1][r]));
    };
    float* to = y + r * ldy;
    Floats sum = first ? zeros() : load_channels(to, channels);
    sum = add_stretch(sum, joined(0), joined(2), *reinterpret_cast<const WideScales*>(scales + r * stride));
    if (last) sum = fma(sum, load(units), bias ? load_channels(bias, channels) : zeros());
    store_channels(to, sum, channels);
  }
  void finish() {
    while (done < rows) finish_row();
  }
};

// Blocks [block, block + blocks) of the panel times as many rows of x, from `row` on, as the tiles are configured for.
[[gnu::noinline]] void multiply(const std::uint8_t* panel, const WideRows& x, std::int64_t row, std::int64_t block,
                                std::int64_t blocks, const std::uint8_t* ahead, std::int64_t lines_ahead,
                                Pending& pending, Sums16& sums) {
  zero_tile<kSums>();
  zero_tile<kSums + 1>();
  zero_tile<kSums + 2>();
  zero_tile<kSums + 3>();
  const std::int8_t* codes = x.codes(row, block);
  for (std::int64_t b = 0; b < blocks; b++) {
    load_tile<kHigh>(codes, x.stride);
    load_tile<kUpper>(panel, kLineBytes);
    multiply_bytes<kSums, kHigh, kUpper>();
    load_tile<kLower>(panel + kTileBytes, kLineBytes);
    multiply_bytes_unsigned<kSums + 1, kHigh, kLower>();
    load_tile<kLow>(codes + kBlock, x.stride);
    multiply_bytes<kSums + 2, kLow, kUpper>();
    multiply_bytes_unsigned<kSums + 3, kLow, kLower>();
    for (std::int64_t i = 0; i < lines_ahead; i++, ahead += kLineBytes) prefetch_far(ahead);
    if (pending.done < pending.rows) pending.finish_row();
    codes += kWideCodes;
    panel += kPanelBlockBytes;
  }
  pending.finish();
  store_tile<kSums>(sums[0], kLineBytes);
  store_tile<kSums + 1>(sums[1], kLineBytes);
  store_tile<kSums + 2>(sums[2], kLineBytes);
  store_tile<kSums + 3>(sums[3], kLineBytes);
}

TileConfig config_of(std::int64_t rows) {
  TileConfig config;
  for (int i = 0; i < 4; i++) config.shape(kSums + i, rows, kLineBytes);
  for (const int i : {kHigh, kLow}) config.shape(i, rows, kBlock);
  for (const int i : {kUpper, kLower}) config.shape(i, kRows, kLineBytes);
  return config;
}

template <Layout L>
void linear_integer_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                        std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::uint8_t* panel) {
  constexpr std::int64_t kStrip = Common<L>::kStripBytes;
  const WideRows x(activations, w.k);
  const std::int64_t pair_bytes = common_pair_bytes<L>(x.blocks), stretches = num_stretches(x.blocks);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const std::int64_t rest = m % kRows;
  const TileConfig whole = config_of(kRows), last = config_of(rest);
  struct alignas(64) {
    Sums16 each[2];
  } sums;
  int turn = 0;
  Pending pending;
  (m >= kRows ? whole : last).load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), tiles = (row_end - row + kRows - 1) / kRows;
    // Of both strips' blocks, over the tiles of both.
    const std::int64_t lines_ahead = (kStrip / kLineBytes + tiles - 1) / tiles;
    for (std::int64_t stretch = 0; stretch < stretches; stretch++) {
      const std::int64_t block = stretch_begin(x.blocks, stretch), count = stretch_begin(x.blocks, stretch + 1) - block;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        const std::uint8_t* packed = data + pair * pair_bytes + block * 2 * kStrip;
        const std::uint8_t* ahead = packed + pair_bytes;
        for (std::int64_t strip = 0; strip < 2; strip++) {
          const std::int64_t channel = pair * kStripChannels + strip * kLanes;
          const std::int64_t channels = std::min(kLanes, w.n - channel);
          if (channels <= 0) break;
          for (std::int64_t b = 0; b < count; b++) {
            widen<L>(packed + (2 * b + strip) * kStrip, panel + b * kPanelBlockBytes);
          }
          for (std::int64_t r = row; r < row_end; r += kRows) {
            const std::int64_t rows = std::min<std::int64_t>(kRows, row_end - r);
            if (rows < kRows && m >= kRows) last.load();
            multiply(panel, x, r, block, count, ahead, lines_ahead, pending, sums.each[turn]);
            pending = {&sums.each[turn], static_cast<int>(rows), 0,
                       reinterpret_cast<const std::uint8_t*>(&x.scales(r, stretch)), x.stride,
                       y + r * ldy + channel, ldy, channels, stretch == 0, stretch + 1 == stretches,
                       reinterpret_cast<const float*>(data + (pair + 1) * pair_bytes - kUnitsBytes) + strip * kLanes,
                       bias ? bias + channel : nullptr};
            turn ^= 1;
            ahead += count * lines_ahead * kLineBytes;
            if (rows < kRows && m >= kRows) whole.load();
          }
        }
      }
    }
  }
  pending.finish();
  release_tiles();
}

}  // namespace

std::size_t linear_amx_scratch_bytes() {
  return std::max({linear_scratch_bytes(), static_cast<std::size_t>(kStretchBlocks * kPanelBlockBytes),
                   static_cast<std::size_t>(kDigitPanelBytes)});
}

void linear_amx(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                std::byte* scratch) {
  if (w.layout == Layout::bf16) return linear_bf16_amx(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  if (kind != ActivationKind::int16) return linear(w, kind, activations, m, strip_begin, strip_end, bias, y, ldy, scratch);
  if (m <= kFewRows) return linear_common_rows(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  if (in_digits(w.layout)) {
    return linear_digits_amx(w, activations, m, strip_begin, strip_end, bias, y, ldy, scratch);
  }
  with_integer_layout(w.layout, [&]<Layout L>() {
    if constexpr (!in_digits(L)) linear_integer_amx<L>(w, activations, m, strip_begin, strip_end, bias, y, ldy, reinterpret_cast<std::uint8_t*>(scratch));
  });
}

std::int64_t spin_arithmetic_amx(ActivationKind kind, std::int64_t steps) {
  if (kind == ActivationKind::f32) return spin_arithmetic(kind, steps);
  TileConfig config;
  for (int i = 0; i < 8; i++) config.shape(i, 16, 64);
  config.load();
  for (std::int64_t i = 0; i < steps; i++) {
    if (kind == ActivationKind::bf16) {
      multiply_bfloats<0, 4, 6>();
      multiply_bfloats<1, 4, 7>();
      multiply_bfloats<2, 5, 6>();
      multiply_bfloats<3, 5, 7>();
    } else {
      multiply_bytes<0, 4, 6>();
      multiply_bytes<1, 4, 7>();
      multiply_bytes<2, 5, 6>();
      multiply_bytes<3, 5, 7>();
    }
  }
  release_tiles();
  return steps * 4 * 16 * 16 * (kind == ActivationKind::bf16 ? 64 : 128);
}

}  // namespace ridgeline::RIDGELINE_ISA
