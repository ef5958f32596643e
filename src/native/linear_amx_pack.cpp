// Integer weights in common integers, and int16 activations: what linear on AMX multiplies (linear_amx_layout.h).
#include <algorithm>
#include <cmath>

#include "linear_amx.h"
#include "linear_amx_layout.h"
#include "linear_kernels.h"
#include "linear_pack_common.h"
#include "linear_quantize.h"

// Compiled for AVX-512, in its namespace.
namespace ridgeline::RIDGELINE_ISA {
namespace {

// ---- activations

__mmask16 lanes_of(std::int64_t left) {
  return static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<unsigned>(std::clamp<std::int64_t>(left, 0, 16))));
}

// Among bit patterns, in which NaN is above infinity and that above all others.
float largest_of(const float* x, std::int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most[4] = {};
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    for (int j = 0; j < 4; j++) {
      most[j] = _mm512_max_epu32(most[j], _mm512_and_si512(_mm512_loadu_si512(x + i + j * 16), magnitude));
    }
  }
  for (; i < count; i += 16) {
    most[0] = _mm512_max_epu32(most[0], _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_of(count - i), x + i), magnitude));
  }
  return float_from_bits(_mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3]))));
}

void quantize_wide_block(const float* x, std::int64_t left, __m512 inverse, std::int8_t* codes, WideSums& out) {
  __m512 v[4];
  for (int i = 0; i < 4; i++) {
    v[i] = left >= kBlock ? _mm512_loadu_ps(x + i * 16) : _mm512_maskz_loadu_ps(lanes_of(left - i * 16), x + i * 16);
    v[i] = _mm512_mul_ps(v[i], inverse);
  }
  for (int term = 0; term < 2; term++) {
    __m512i q[4];
    for (int i = 0; i < 4; i++) {
      q[i] = _mm512_cvtps_epi32(v[i]);
      v[i] = _mm512_mul_ps(_mm512_sub_ps(v[i], _mm512_cvtepi32_ps(q[i])), _mm512_set1_ps(kLowSteps));
    }
    const __m512i bytes = to_bytes(q);
    _mm512_store_si512(codes + term * kBlock, in_order(bytes));
    const __m128i sum16 = sums_of_codes(bytes), sum32 = _mm_hadd_epi32(sum16, sum16);
    const __m128i none = _mm_setzero_si128();
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.start16[term]), _mm_slli_epi32(_mm_sub_epi32(none, sum16), 7));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out.start32[term]), _mm_slli_epi32(_mm_sub_epi32(none, sum32), 7));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out.sum16[term]), _mm_packs_epi32(sum16, sum16));
    const std::int32_t both = _mm_cvtsi128_si32(_mm_packs_epi32(sum32, sum32));
    std::memcpy(out.sum32[term], &both, 4);
  }
}

void quantize_wide_row(const float* x, std::int64_t k, std::byte* out) {
  const std::int64_t blocks = num_blocks(k), stretches = num_stretches(blocks);
  auto* codes = reinterpret_cast<std::int8_t*>(out);
  auto* sums = reinterpret_cast<WideSums*>(out + blocks * kWideCodes);
  auto* scales = reinterpret_cast<WideScales*>(sums + blocks);
  for (std::int64_t stretch = 0; stretch < stretches; stretch++) {
    const std::int64_t begin = stretch_begin(blocks, stretch), end = stretch_begin(blocks, stretch + 1);
    const float largest = largest_of(x + begin * kBlock, std::min(end * kBlock, k) - begin * kBlock);
    const bool something = !(largest < kNothing);
    const float scale = something ? largest * (1.0f / kLargest) : 0.0f;
    scales[stretch] = {{scale, scale * (1.0f / kLowSteps)}};
    const __m512 inverse = _mm512_set1_ps(something ? kLargest / largest : 0.0f);
    for (std::int64_t b = begin; b < end; b++) {
      quantize_wide_block(x + b * kBlock, k - b * kBlock, inverse, codes + b * kWideCodes, sums[b]);
    }
  }
}

}  // namespace

void quantize_rows_amx(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m, std::int64_t k,
                       std::byte* out, std::size_t out_stride) {
  if (kind != ActivationKind::int16) return quantize_rows(kind, x, ldx, m, k, out, out_stride);
  for (std::int64_t row = 0; row < m; row++) {
    quantize_wide_row(x + row * ldx, k, out + static_cast<std::size_t>(row) * out_stride);
  }
}

std::size_t packed_bytes_amx(Layout layout, std::int64_t n, std::int64_t k) {
  const std::int64_t pairs = (n + kStripChannels - 1) / kStripChannels;
  std::size_t bytes = 0;
  const bool integers = with_integer_layout(layout, [&]<Layout L>() {
    bytes = static_cast<std::size_t>(pairs * common_pair_bytes<L>(num_blocks(k)));
  });
  return integers ? bytes : packed_bytes(layout, n, k);
}

bool pack_strips_amx(const char* format, const std::byte* raw_rows, PackedMatrix out, std::byte* data,
                     std::int64_t strip_begin, std::int64_t strip_end) {
  const auto* raw = reinterpret_cast<const std::uint8_t*>(raw_rows);
  bool integers = false;
  with_codec(format, [&](auto codec) {
    using Codec = decltype(codec);
    if (out.layout != Codec::kLayout) return;
    integers = true;
    // Rounding a scale adds half of it to each unit of the largest number, and rounding a remainder half a unit.
    const std::int64_t most = largest_weight(Codec::kLayout, num_blocks(out.k));
    const float room = static_cast<float>(most) - largest_number(integer_shape(Codec::kLayout)) / 2 - 1;
    const auto unit_of = [room](float largest, float) { return ChannelUnit{largest / room, room / largest}; };
    const std::int64_t row_bytes = out.k / Codec::kElements * Codec::kBytes;
    const std::int64_t stride = common_pair_bytes<Codec::kLayout>(num_blocks(out.k));
    for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
      auto* to = reinterpret_cast<std::uint8_t*>(data) + pair * stride;
      auto* units = reinterpret_cast<float*>(to + stride - kUnitsBytes);
      const std::int64_t channel = pair * kStripChannels, channels = std::min(kStripChannels, out.n - channel);
      for (std::int64_t strip = 0; strip < 2; strip++) {
        const std::int64_t first = strip * kLanes;
        pack_common_strip<Codec, false>(raw + (channel + std::min(first, channels)) * row_bytes, out.k,
                                 std::clamp<std::int64_t>(channels - first, 0, kLanes),
                                 to + strip * Common<Codec::kLayout>::kStripBytes, units + first, unit_of);
      }
    }
  });
  return integers || pack_strips(format, raw_rows, out, data, strip_begin, strip_end);
}

float pack_prescale_amx(const char* format, const std::byte* raw, std::int64_t n, std::int64_t k) {
  bool integers = false;
  with_codec(format, [&](auto) { integers = true; });
  return integers ? 1.0f : pack_prescale(format, raw, n, k);
}

}  // namespace ridgeline::RIDGELINE_ISA
