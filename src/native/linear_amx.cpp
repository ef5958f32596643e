// linear on AMX, and over integer weights of six bits and more, many rows: exact sums of two bytes times two.
// linear_amx_layout.h has the arithmetic, linear_amx_tiles.h the way through the weights.
#include "linear_amx.h"

#include <algorithm>

#include "linear_amx_tiles.h"
#include "linear_kernels.h"

// Compiled for AVX-512 and AMX, in the namespace of the former.
namespace ridgeline::RIDGELINE_ISA {
namespace {

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

// store(line, even, odd): of each line of a block, the weights of its even and odd bytes, in 16 bits.
// weight = scale * number + what the group adds.
template <Layout L, class Store>
[[gnu::always_inline]] inline void each_weight(const std::uint8_t* strip, Store store) {
  using C = Common<L>;
  constexpr IntegerShape kShape = C::kShape;
  constexpr int kGroups = kShape.groups(), kGroupSteps = kShape.group / 4;
  constexpr int kZero = kShape.table ? kCodeOffset : kShape.zero();
  const __m512i first = _mm512_set1_epi32(0x01000100), second = _mm512_set1_epi32(0x03020302);
  const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
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
      store((g * kGroupSteps + i) * kLineBytes, even, odd);
    }
  }
}

// Bytes of a line, of the upper ones of each sixteen bits.
[[gnu::always_inline]] inline __m512i upper_bytes(__m512i even, __m512i odd) {
  // Where the mask has ones, the first, elsewhere the second.
  return _mm512_ternarylogic_epi32(_mm512_set1_epi16(static_cast<short>(0xff00)), odd, _mm512_srli_epi16(even, 8), 0xca);
}

// Weights of two bytes: four products, each into sums of its own.
struct InBytes {
  static constexpr int kStrips = 1;
  static constexpr int kFinishedRows = 3;

  template <Layout L>
  [[gnu::always_inline]] static inline void widen(const std::uint8_t* strip, std::uint8_t* out) {
    const __m512i lower_byte = _mm512_set1_epi16(0xff);
    each_weight<L>(strip, [&](int line, __m512i even, __m512i odd) __attribute__((always_inline)) {
      store_line(out + line, upper_bytes(even, odd));
      store_line(out + line + kTileBytes, _mm512_ternarylogic_epi32(lower_byte, even, _mm512_slli_epi16(odd, 8), 0xca));
    });
  }

  // (High, low) bytes of activations x (upper, lower) of weights.
  [[gnu::always_inline]] static inline void multiply(const std::int8_t* codes, std::int64_t stride,
                                                     const std::uint8_t* panel) {
    load_tile<kHigh>(codes, stride);
    load_tile<kWeights>(panel, kLineBytes);
    multiply_bytes<kSums, kHigh, kWeights>();
    load_tile<kWeights + 1>(panel + kTileBytes, kLineBytes);
    multiply_bytes_unsigned<kSums + 1, kHigh, kWeights + 1>();
    load_tile<kLow>(codes + kBlock, stride);
    multiply_bytes<kSums + 2, kLow, kWeights>();
    multiply_bytes_unsigned<kSums + 3, kLow, kWeights + 1>();
  }

  [[gnu::always_inline]] static inline Floats add(Floats acc, const std::int32_t* sums, const WideScales& scales) {
    const auto joined = [&](int upper) {
      const std::int32_t* from = sums + upper * kRows * kLanes;
      return _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(from), 8), _mm512_load_si512(from + kRows * kLanes));
    };
    return add_stretch(acc, joined(0), joined(2), scales);
  }
};

// The first bytes of such weights alone (ActivationKind::int16_first): two products.
struct InFirstBytes {
  static constexpr int kStrips = 2;
  static constexpr int kFinishedRows = 3;

  template <Layout L>
  [[gnu::always_inline]] static inline void widen(const std::uint8_t* strip, std::uint8_t* out) {
    const __m512i half = _mm512_set1_epi16(128);
    each_weight<L>(strip, [&](int line, __m512i even, __m512i odd) __attribute__((always_inline)) {
      store_line(out + line, upper_bytes(_mm512_adds_epi16(even, half), _mm512_adds_epi16(odd, half)));
    });
  }

  [[gnu::always_inline]] static inline void multiply(const std::int8_t* codes, std::int64_t stride,
                                                     const std::uint8_t* panel) {
    multiply_first(codes, stride, panel);
  }

  // 127 * 128 * 64 kStretchBlocks, 29 times, is below 2^31.
  [[gnu::always_inline]] static inline Floats add(Floats acc, const std::int32_t* sums, const WideScales& scales) {
    const __m512i joined = join_digits(_mm512_load_si512(sums), _mm512_load_si512(sums + kRows * kLanes));
    return fma(_mm512_cvtepi32_ps(joined), all(256 * scales.scale[1]), acc);
  }
};

}  // namespace

std::size_t linear_amx_scratch_bytes() {
  return std::max(linear_scratch_bytes(), static_cast<std::size_t>(kPanelBytes));
}

void linear_amx(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                std::byte* scratch, Beside* beside) {
  if (w.layout == Layout::bf16) return linear_bf16_amx(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  if (stored_kind(kind) != ActivationKind::int16)
    return linear(w, kind, activations, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
  if (m <= kFewRows && kind == ActivationKind::int16)
    return linear_common_rows(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  if (in_digits(w.layout)) {
    return linear_digits_amx(w, activations, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
  }
  with_integer_layout(w.layout, [&]<Layout L>() {
    if constexpr (!in_digits(L)) {
      if (kind == ActivationKind::int16_first) {
        linear_tiles<InFirstBytes, L>(w, activations, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
      } else {
        linear_tiles<InBytes, L>(w, activations, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
      }
    }
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
