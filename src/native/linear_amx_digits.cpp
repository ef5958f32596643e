// linear over weights of four and five bits on AMX, many rows: three products of bytes for one of numbers.
//
// Of each block of a strip a panel has a tile of upper digits and one of lower ones (linear_amx_tiles.h). Sixteen tokens' high bytes meet
// both, their low ones the upper digits. The products that count alike go into the same sums, so a strip has two tiles of them.
#include "linear_amx_tiles.h"

// Compiled for AVX-512 and AMX, in the namespace of the former.
namespace ridgeline::RIDGELINE_ISA {
namespace {

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

struct InDigits {
  static constexpr int kStrips = 2;
  static constexpr int kFinishedRows = 3;

  template <Layout L>
  [[gnu::always_inline]] static inline void widen(const std::uint8_t* strip, std::uint8_t* out) {
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

  // Of each strip: high bytes x upper digits; high x lower and low x upper, which count alike.
  [[gnu::always_inline]] static inline void multiply(const std::int8_t* codes, std::int64_t stride,
                                                     const std::uint8_t* panel) {
    multiply_first(codes, stride, panel);
    load_tile<kWeights>(panel + kTileBytes, kLineBytes);
    multiply_bytes<kSums + 1, kHigh, kWeights>();
    load_tile<kWeights + 1>(panel + kPanelStripBytes + kTileBytes, kLineBytes);
    multiply_bytes<kSums + 3, kHigh, kWeights + 1>();
  }

  [[gnu::always_inline]] static inline Floats add(Floats acc, const std::int32_t* sums, const WideScales& scales) {
    const __m512i joined = join_digits(_mm512_load_si512(sums), _mm512_load_si512(sums + kRows * kLanes));
    return add_digit_stretch(acc, joined, scales);
  }
};

}  // namespace

void linear_digits_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                       std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::byte* scratch,
                       Beside* beside) {
  with_integer_layout(w.layout, [&]<Layout L>() {
    if constexpr (in_digits(L)) {
      linear_tiles<InDigits, L>(w, activations, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
    }
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
