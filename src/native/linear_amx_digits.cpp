// linear over weights of four and five bits on AMX, many rows: three products of bytes for one of numbers.
//
// A panel is a stretch of K of a pair of strips, its weights as two digits: for each block the upper ones of one strip (a tile
// of 16 channels x 64 of K), its lower ones, and the other strip's. Sixteen tokens' high bytes meet all four, their low ones
// the upper digits. The products that count alike go into the same sums, so a strip has two tiles of them; they leave the
// tiles when the stretch ends, and meet scales while the next tile's products run.
#include <algorithm>

#include "amx.h"
#include "linear_amx.h"
#include "linear_amx_layout.h"
#include "linear_kernels.h"

// Compiled for AVX-512 and AMX, in the namespace of the former.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kRows = 16;                // tokens of a tile
constexpr int kFinishedRows = 4;         // rows of sums that are finished beside a block's products
constexpr std::int64_t kRowGroup = 288;  // tokens whose activations stay in L2 beside a panel
constexpr std::int64_t kTileBytes = 1024, kPanelStripBytes = 2 * kTileBytes, kPanelBlockBytes = 2 * kPanelStripBytes;

// Tiles. Sums of the first strip: high bytes x upper digits; high x lower and low x upper. Then the second strip's.
enum { kSums = 0, kHigh = 4, kLow = 5, kWeights = 6 };
using Sums16 = std::int32_t[4][kRows][kLanes];

// One digit of a pair of groups' weights: digit = size * number + offset in bytes, where the number is a code's four bits or, if
// the scale's digit is negative, 15 less them.
template <int Offsets>
struct DigitPlane {
  __m512i size, flip, offset[Offsets];  // int16, as scales are stored; of an offset the lower byte counts

  [[gnu::always_inline]] inline DigitPlane(__m512i scale, const __m512i (&offsets)[Offsets]) {
    const __m512i negative = _mm512_srai_epi16(scale, 15);
    size = _mm512_abs_epi16(scale);
    flip = _mm512_and_si512(negative, _mm512_set1_epi8(15));
    // size * (number - 8), or size * (7 - number).
    const __m512i centre = _mm512_sub_epi16(_mm512_slli_epi16(size, 3), _mm512_and_si512(negative, size));
    for (int i = 0; i < Offsets; i++) offset[i] = _mm512_sub_epi16(offsets[i], centre);
  }
  // Of one of the groups, for all four bytes of a channel. both: int16 twice; low: its lower byte four times.
  [[gnu::always_inline]] inline void spread(__m512i both, __m512i low) {
    size = _mm512_shuffle_epi8(size, both);
    flip = _mm512_shuffle_epi8(flip, low);
    for (int i = 0; i < Offsets; i++) offset[i] = _mm512_shuffle_epi8(offset[i], low);
  }
  // Two numbers times a size fit their sixteen bits: 15 * 15 < 256.
  [[gnu::always_inline]] inline __m512i of(__m512i shifted, __mmask64 fifths) const {
    const __m512i number = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi8(15), flip, 0x6a);  // (a & b) ^ c
    const __m512i add = Offsets == 1 ? offset[0] : _mm512_mask_blend_epi8(fifths, offset[0], offset[Offsets - 1]);
    return _mm512_add_epi8(_mm512_mullo_epi16(number, size), add);
  }
};

// A block of a strip into the panel.
template <Layout L>
[[gnu::always_inline]] inline void widen(const std::uint8_t* strip, std::uint8_t* out) {
  using C = Common<L>;
  constexpr int kGroupSteps = C::kShape.group / 4, kOffsets = Digits<L>::kOffsets;
  const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
#pragma GCC unroll 2
  for (int p = 0; p < C::kPairs; p++) {
    const Digits<L> digits(strip, p);
    __m512i lower_offset[kOffsets];
    for (int i = 0; i < kOffsets; i++) lower_offset[i] = lower_digit(digits.offset[i], digits.upper_offset[i]);
    const DigitPlane<kOffsets> uppers(digits.upper_scale, digits.upper_offset);
    const DigitPlane<kOffsets> lowers(lower_digit(digits.scale, digits.upper_scale), lower_offset);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      const __m512i both = _mm512_add_epi8(_mm512_set1_epi32(h ? 0x03020302 : 0x01000100), lanes);
      const __m512i low = _mm512_add_epi8(_mm512_set1_epi32(h ? 0x02020202 : 0), lanes);
      DigitPlane<kOffsets> upper = uppers, lower = lowers;
      upper.spread(both, low);
      lower.spread(both, low);
#pragma GCC unroll 8
      for (int i = 0; i < kGroupSteps; i++) {
        const int step = (2 * p + h) * kGroupSteps + i;
        const __m512i x = load_line(strip + step / 2 * kLineBytes), shifted = step % 2 ? _mm512_srli_epi16(x, 4) : x;
        const __mmask64 fifths = kOffsets == 1 ? 0 : C::fifths(strip, step);
        store_line(out + step * kLineBytes, upper.of(shifted, fifths));
        store_line(out + step * kLineBytes + kTileBytes, lower.of(shifted, fifths));
      }
    }
  }
}

// What becomes of a tile's sums, a row of both strips at a time, while the next tile's products run.
struct Pending {
  const std::int32_t* sums = nullptr;  // of the next row: four of 16, a tile apart
  int rows = 0;                        // left
  bool first, last;
  __mmask16 channels[2];
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
      for (int c = 0; c < 2; c++) {
        const std::int32_t* from = sums + c * 2 * kRows * kLanes;
        const __m512i joined = join_digits(_mm512_load_si512(from), _mm512_load_si512(from + kRows * kLanes));
        float* to = y + c * kLanes;
        Floats sum = add_digit_stretch(first ? zeros() : _mm512_maskz_loadu_ps(channels[c], to), joined, scale);
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
    load_tile<kWeights>(panel, kLineBytes);
    multiply_bytes<kSums, kHigh, kWeights>();
    load_tile<kWeights + 1>(panel + kPanelStripBytes, kLineBytes);
    multiply_bytes<kSums + 2, kHigh, kWeights + 1>();
    load_tile<kLow>(codes + kBlock, x.stride);
    multiply_bytes<kSums + 1, kLow, kWeights>();
    multiply_bytes<kSums + 3, kLow, kWeights + 1>();
    load_tile<kWeights>(panel + kTileBytes, kLineBytes);
    multiply_bytes<kSums + 1, kHigh, kWeights>();
    load_tile<kWeights + 1>(panel + kPanelStripBytes + kTileBytes, kLineBytes);
    multiply_bytes<kSums + 3, kHigh, kWeights + 1>();
    for (std::int64_t i = 0; i < lines_ahead; i++, ahead += kLineBytes) prefetch_far(ahead);
    pending.finish(kFinishedRows);
    codes += kWideCodes;
    panel += kPanelBlockBytes;
  }
  pending.finish(kRows);
  store_tile<kSums>(sums[0], kLineBytes);
  store_tile<kSums + 1>(sums[1], kLineBytes);
  store_tile<kSums + 2>(sums[2], kLineBytes);
  store_tile<kSums + 3>(sums[3], kLineBytes);
}

TileConfig config_of(std::int64_t rows) {
  TileConfig config;
  for (int i = 0; i < 4; i++) config.shape(kSums + i, rows, kLineBytes);
  for (const int i : {kHigh, kLow}) config.shape(i, rows, kBlock);
  for (int i = 0; i < 2; i++) config.shape(kWeights + i, kRows, kLineBytes);
  return config;
}

static_assert(kStretchBlocks * kPanelBlockBytes <= kDigitPanelBytes);

template <Layout L>
void linear_of(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
               std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::uint8_t* panel) {
  constexpr std::int64_t kStrip = Common<L>::kStripBytes;
  const WideRows x(activations, w.k);
  const std::int64_t pair_bytes = common_pair_bytes<L>(x.blocks), stretches = num_stretches(x.blocks);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const TileConfig whole = config_of(kRows), last = config_of(m % kRows);
  struct alignas(64) {
    Sums16 each[2];
  } sums;
  int turn = 0;
  Pending pending;
  (m >= kRows ? whole : last).load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), tiles = (row_end - row + kRows - 1) / kRows;
    const std::int64_t lines_ahead = (2 * kStrip / kLineBytes + tiles - 1) / tiles;
    for (std::int64_t stretch = 0; stretch < stretches; stretch++) {
      const std::int64_t block = stretch_begin(x.blocks, stretch), count = stretch_begin(x.blocks, stretch + 1) - block;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        const std::uint8_t* packed = data + pair * pair_bytes + block * 2 * kStrip;
        const std::uint8_t* ahead = packed + pair_bytes;
        const std::int64_t channel = pair * kStripChannels;
        const std::int64_t channels = std::min(kLanes, w.n - channel), others = std::min(kLanes, w.n - channel - kLanes);
        for (std::int64_t b = 0; b < count; b++) {
          widen<L>(packed + 2 * b * kStrip, panel + b * kPanelBlockBytes);
          widen<L>(packed + (2 * b + 1) * kStrip, panel + b * kPanelBlockBytes + kPanelStripBytes);
        }
        for (std::int64_t r = row; r < row_end; r += kRows) {
          const std::int64_t rows = std::min<std::int64_t>(kRows, row_end - r);
          if (rows < kRows && m >= kRows) last.load();
          multiply(panel, x, r, block, count, ahead, lines_ahead, pending, sums.each[turn]);
          pending = {&sums.each[turn][0][0][0],
                     static_cast<int>(rows),
                     stretch == 0,
                     stretch + 1 == stretches,
                     {first_lanes(channels), first_lanes(others)},
                     reinterpret_cast<const std::uint8_t*>(&x.scales(r, stretch)),
                     x.stride,
                     y + r * ldy + channel,
                     ldy,
                     reinterpret_cast<const float*>(data + (pair + 1) * pair_bytes - kUnitsBytes),
                     bias ? bias + channel : nullptr};
          turn ^= 1;
          ahead += count * lines_ahead * kLineBytes;
          if (rows < kRows && m >= kRows) whole.load();
        }
      }
    }
  }
  pending.finish(kRows);
  release_tiles();
}

}  // namespace

void linear_digits_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                       std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::byte* scratch) {
  with_integer_layout(w.layout, [&]<Layout L>() {
    if constexpr (in_digits(L)) {
      linear_of<L>(w, activations, m, strip_begin, strip_end, bias, y, ldy, reinterpret_cast<std::uint8_t*>(scratch));
    }
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
