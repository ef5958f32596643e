// linear over integer weights on AMX machines, for so few rows that memory bounds it: weights as they stream by, integer
// sums of each group by vpdpbusd. linear_amx_layout.h has the arithmetic.
#include <algorithm>

#include "linear_amx_layout.h"
#include "linear_kernels.h"

// Compiled for AVX-512, in its namespace.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kPrefetchBytes = 8192;  // how far ahead memory is asked, into L2: into L1 it is a tenth slower

struct Pair {
  const std::uint8_t* weights;
  float* y;
  std::int64_t ldy, channels;
  const float* units;
  const float* bias;
};

__m512i all_words(const void* p) {
  std::int32_t bits;
  std::memcpy(&bits, p, 4);
  return _mm512_set1_epi32(bits);
}

// Two groups' sums of 32 bits side by side, as int16.
template <int Shift>
[[gnu::always_inline]] inline __m512i side_by_side(const __m512i (&sums)[2]) {
  const __m512i low = Shift ? _mm512_srai_epi32(sums[0], Shift) : sums[0];
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(sums[1], 16 - Shift));
}

// One block of one strip of weights in digits, whose sums of a group are below 2^15.
template <Layout L, int Rows>
[[gnu::always_inline]] inline void add_digits(const std::uint8_t* strip, const std::int8_t* const (&codes)[Rows],
                                              const WideSums* const (&sums)[Rows], __m512i (&acc)[Rows]) {
  using C = Common<L>;
  constexpr IntegerShape kShape = C::kShape;
  constexpr int kGroups = kShape.groups(), kGroupSteps = kShape.group / 4;
  constexpr int kAheadLines = static_cast<int>((C::kStripBytes / kLineBytes + kGroups - 1) / kGroups);
  constexpr bool kFifths = kShape.bits == 5;
#pragma GCC unroll 2
  for (int p = 0; p < C::kPairs; p++) {
    __m512i made[Rows][2][2], fifths[Rows][2][2];  // [row][high, low][group]: of four bits; of the fifth
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      const int g = 2 * p + h;
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
        for (int term = 0; term < 2; term++) {
          made[r][term][h] =
              _mm512_set1_epi32(kGroups == 2 ? sums[r]->start32[term][g] : sums[r]->start16[term][g]);
          if constexpr (kFifths) fifths[r][term][h] = _mm512_setzero_si512();
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kGroupSteps; i++) {
        if (i < kAheadLines) prefetch_near(strip + kPrefetchBytes + (g * kAheadLines + i) * kLineBytes);
        const int step = g * kGroupSteps + i;
        const Line line = nibble_line(strip + g * kGroupSteps * kLineBytes / 2, i);
        Line fifth;
        if constexpr (kFifths) fifth = _mm512_maskz_set1_epi8(C::fifths(strip, step), 1);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
          for (int term = 0; term < 2; term++) {
            const __m512i x = all_words(codes[r] + term * kBlock + step * 4);
            made[r][term][h] = _mm512_dpbusd_epi32(made[r][term][h], line, x);
            if constexpr (kFifths) fifths[r][term][h] = _mm512_dpbusd_epi32(fifths[r][term][h], fifth, x);
          }
        }
        keep_loads_here();
      }
    }
    const Digits<L> digits(strip, p);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int term = 0; term < 2; term++) {
        // High bytes times weights, low bytes times upper digits.
        acc[r] = _mm512_dpwssd_epi32(acc[r], side_by_side<4>(made[r][term]), term ? digits.upper_scale : digits.scale);
        const auto& offset = term ? digits.upper_offset : digits.offset;
        if constexpr (kFifths) {
          acc[r] = _mm512_dpwssd_epi32(acc[r], side_by_side<0>(fifths[r][term]), _mm512_sub_epi16(offset[1], offset[0]));
        }
        if constexpr (kFifths || kShape.minima) {
          const std::int16_t* totals = kGroups == 2 ? sums[r]->sum32[term] : sums[r]->sum16[term] + 2 * p;
          acc[r] = _mm512_dpwssd_epi32(acc[r], offset[0], all_words(totals));
        }
      }
    }
  }
}

// One block of one strip of other weights. acc: [row][high, low], sums of weights times bytes.
template <Layout L, int Rows>
[[gnu::always_inline]] inline void add_block(const std::uint8_t* strip, const std::int8_t* const (&codes)[Rows],
                                             const WideSums* const (&sums)[Rows], __m512i (&acc)[Rows][2]) {
  using From = Packed<L>;
  using C = Common<L>;
  constexpr IntegerShape kShape = C::kShape;
  constexpr int kGroups = kShape.groups(), kGroupSteps = kShape.group / 4;
  constexpr int kAheadLines = static_cast<int>((C::kStripBytes / kLineBytes + kGroups - 1) / kGroups);
#pragma GCC unroll 2
  for (int p = 0; p < C::kPairs; p++) {
    __m512i made[Rows][2][2];  // [row][high, low][group]
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      const int g = 2 * p + h;
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
        for (int term = 0; term < 2; term++) {
          made[r][term][h] =
              _mm512_set1_epi32(kGroups == 2 ? sums[r]->start32[term][g] : sums[r]->start16[term][g]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kGroupSteps; i++) {
        if (i < kAheadLines) prefetch_far(strip + kPrefetchBytes + (g * kAheadLines + i) * kLineBytes);
        const Line line = From::line(strip, g, i);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
          for (int term = 0; term < 2; term++) {
            made[r][term][h] = _mm512_dpbusd_epi32(made[r][term][h], line,
                                                   all_words(codes[r] + term * kBlock + g * kShape.group + i * 4));
          }
        }
        keep_loads_here();
      }
    }
    const __m512i scales = _mm512_load_si512(C::scales_at(strip, p));
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int term = 0; term < 2; term++) {
        const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(scales, 16), 16);
        const __m512i second = _mm512_srai_epi32(scales, 16);
        const __m512i low = _mm512_mullo_epi32(_mm512_srai_epi32(made[r][term][0], C::kShift), first);
        const __m512i high = _mm512_mullo_epi32(_mm512_srai_epi32(made[r][term][1], C::kShift), second);
        acc[r][term] = _mm512_add_epi32(acc[r][term], _mm512_add_epi32(low, high));
      }
    }
  }
}

// Rows of a pair of strips.
template <Layout L, int Rows>
[[gnu::noinline]] void tile(const Pair& pair, const WideRows& x) {
  constexpr std::int64_t kStrip = Common<L>::kStripBytes;
  const std::int64_t blocks = x.blocks, stretches = num_stretches(blocks);
  Floats out[Rows][2];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; r++) {
    prefetch_channels(pair.y + r * pair.ldy);
    out[r][0] = out[r][1] = zeros();
  }
  const std::uint8_t* weights = pair.weights;
  for (std::int64_t stretch = 0; stretch < stretches; stretch++) {
    __m512i joined[2][Rows] = {}, acc[2][Rows][2] = {};
    const std::int64_t end = stretch_begin(blocks, stretch + 1);
    for (std::int64_t b = stretch_begin(blocks, stretch); b < end; b++) {
      const std::int8_t* codes[Rows];
      const WideSums* sums[Rows];
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
        codes[r] = x.codes(r, b);
        sums[r] = &x.sums(r, b);
      }
#pragma GCC unroll 2
      for (int c = 0; c < 2; c++) {
        if constexpr (in_digits(L)) {
          add_digits<L, Rows>(weights + c * kStrip, codes, sums, joined[c]);
        } else {
          add_block<L, Rows>(weights + c * kStrip, codes, sums, acc[c]);
        }
      }
      weights += 2 * kStrip;
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int c = 0; c < 2; c++) {
        const WideScales& scales = x.scales(r, stretch);
        out[r][c] = in_digits(L) ? add_digit_stretch(out[r][c], joined[c][r], scales)
                                 : add_stretch(out[r][c], acc[c][r][0], acc[c][r][1], scales);
      }
    }
  }
#pragma GCC unroll 2
  for (int c = 0; c < 2; c++) {
    const std::int64_t channels = pair.channels - c * kLanes;
    const Floats units = load(pair.units + c * kLanes);
    const Floats bias = pair.bias ? load_channels(pair.bias + c * kLanes, channels) : zeros();
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
      store_channels(pair.y + r * pair.ldy + c * kLanes, fma(out[r][c], units, bias), channels);
    }
  }
}

template <Layout L>
void rows_of(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
             std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy) {
  const WideRows x(activations, w.k);
  const std::int64_t bytes = common_pair_bytes<L>(x.blocks);
  for (std::int64_t at = strip_begin; at < strip_end; at++) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(w.data) + at * bytes;
    const std::int64_t channel = at * kStripChannels;
    const Pair pair{data,
                    y + channel,
                    ldy,
                    std::min(kStripChannels, w.n - channel),
                    reinterpret_cast<const float*>(data + bytes - kUnitsBytes),
                    bias ? bias + channel : nullptr};
    switch (m) {
      case 1: tile<L, 1>(pair, x); break;
      case 2: tile<L, 2>(pair, x); break;
      case 3: tile<L, 3>(pair, x); break;
      default: tile<L, 4>(pair, x);
    }
  }
}

}  // namespace

void linear_common_rows(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                        std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy) {
  with_integer_layout(w.layout, [&]<Layout L>() {
    rows_of<L>(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
