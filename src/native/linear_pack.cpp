// Raw rows of a GGUF format -> the packed layouts of linear_layout.h and linear_float.h.
#include <algorithm>
#include <cmath>

#include "linear_float.h"
#include "linear_formats.h"
#include "linear_kernels.h"
#include "linear_layout.h"
#include "linear_pack.h"
#ifdef RIDGELINE_ISA_avx512
#include "linear_pack_common.h"
#include "linear_pairs.h"
#endif

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Scales and remainders times the prescale are below 2^15; float16 ends at 65504.
constexpr int kLargestExponent = 15;

// Round to nearest, ties to even.
std::uint16_t to_half(float x) {
#ifndef RIDGELINE_ISA_portable
  return static_cast<std::uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  std::uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // 65520 and above
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal: adding 0.5 rounds to multiples of 2^-24
    const float sum = float_from_bits(magnitude) + 0.5f;
    std::memcpy(&half, &sum, 4);
    half -= 0x3f000000;
  } else {
    half = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
#endif
}

// Finite numbers stay finite: a file may hold minima that no scale explains.
std::uint8_t* store_halves(const float (*rows)[kLanes], int count, std::uint8_t* out) {
  constexpr float kLargest = 65504.0f;
  for (int g = 0; g < count; g++) {
    std::uint16_t halves[kLanes];
    for (int c = 0; c < kLanes; c++) {
      const float x = rows[g][c];
      const bool beyond = std::fabs(x) > kLargest && std::fabs(x) <= 3.4028235e38f;
      halves[c] = to_half(beyond ? std::copysign(kLargest, x) : x);
    }
    std::memcpy(out, halves, sizeof halves);
    out += sizeof halves;
  }
  return out;
}

// One strip of a pair; its blocks lie 2 * strip_bytes apart.
template <class Codec>
void pack_integer_strip(const std::uint8_t* raw, std::int64_t k, std::int64_t channels,
                        float prescale, std::uint8_t* out) {
  constexpr IntegerShape kShape = integer_shape(Codec::kLayout);
  const float unit = prescale * static_cast<float>(1 << (8 - kShape.bits)) / kSumUnit;
  each_block<Codec>(raw, k, channels, [&](const auto& lines, auto* scales, auto* remainders) {
    for (int g = 0; g < kShape.groups(); g++) {
      for (int c = 0; c < kLanes; c++) {
        scales[g][c] *= prescale;
        remainders[g][c] *= unit;
      }
    }
#ifdef RIDGELINE_ISA_avx2
    std::uint8_t* to = out;
    for (int g = 0; g < kShape.groups(); g++) {
      store_codes<kShape.bits>(lines + g * kShape.group / 4, kShape.group / 4, to);
      to = store_halves(scales + g, 1, to + kShape.codes_bytes() / kShape.groups());
      if constexpr (kShape.minima) to = store_halves(remainders + g, 1, to);
    }
#else
    store_codes<kShape.bits>(lines, out);
    std::uint8_t* to = store_halves(scales, kShape.groups(), out + kShape.codes_bytes());
    if constexpr (kShape.minima) store_halves(remainders, kShape.groups(), to);
#endif
    out += 2 * kShape.strip_bytes();
  });
}

#ifdef RIDGELINE_ISA_avx512
// A pair of strips for linear_pairs.h.
template <class Codec>
void pack_pair(const std::uint8_t* raw, std::int64_t row_bytes, std::int64_t k, std::int64_t channels, std::uint8_t* out) {
  constexpr Layout kLayout = Codec::kLayout;
  const auto unit_of = [](float largest, float widest) {
    const float least = std::max(largest / kLargestPairWeight, widest / kLargestPairNumber);
    std::uint32_t bits;
    std::memcpy(&bits, &least, 4);
    const float unit = float_from_bits((bits + 0xffff) & 0xffff0000u);  // the next bfloat16
    return ChannelUnit{unit, 1.0f / unit};
  };
  float units[kStripChannels];
  for (std::int64_t first = 0; first < kStripChannels; first += kLanes) {
    pack_common_strip<Codec, true>(raw + std::min(first, channels) * row_bytes, k,
                                   std::clamp<std::int64_t>(channels - first, 0, kLanes),
                                   out + first / kLanes * integer_shape(kLayout).strip_bytes(), units + first, unit_of);
  }
  auto* to = reinterpret_cast<std::uint16_t*>(out + integer_pair_bytes(kLayout, k) - units_bytes(kLayout));
  for (std::int64_t c = 0; c < kStripChannels; c++) {
    std::uint32_t bits;
    std::memcpy(&bits, units + c, 4);
    to[c] = static_cast<std::uint16_t>(bits >> 16);
  }
}
#endif

// Units of W from rows of k numbers of `number` bytes, 16 or 32 channels side by side: a transpose.
template <class W>
void transpose(const std::uint8_t* raw, std::int64_t row_bytes, std::int64_t channels,
               std::int64_t lanes, std::uint8_t* out) {
  constexpr std::int64_t kTile = 16;
  const std::int64_t units = row_bytes / sizeof(W), left = row_bytes % sizeof(W);
  const std::int64_t all_units = units + (left ? 1 : 0);
  auto* to = reinterpret_cast<W*>(out);
  if (channels < lanes) std::memset(out, 0, static_cast<std::size_t>(all_units * lanes) * sizeof(W));
  for (std::int64_t start = 0; start < units; start += kTile) {
    const std::int64_t end = std::min(units, start + kTile);
    for (std::int64_t c = 0; c < channels; c++) {
      for (std::int64_t i = start; i < end; i++) {
        std::memcpy(to + i * lanes + c, raw + c * row_bytes + i * sizeof(W), sizeof(W));
      }
    }
  }
  for (std::int64_t c = 0; left && c < channels; c++) {
    W last = 0;
    std::memcpy(&last, raw + c * row_bytes + units * sizeof(W), static_cast<std::size_t>(left));
    to[units * lanes + c] = last;
  }
}

std::int64_t pair_bytes(Layout layout, std::int64_t k) {
  switch (layout) {
    case Layout::bf16: return (k + 1) / 2 * kStripChannels * 4;
    case Layout::f16: return k * kStripChannels * 2;
    case Layout::f32: return k * kStripChannels * 4;
    default: return integer_pair_bytes(layout, k);
  }
}

}  // namespace

std::size_t packed_bytes(Layout layout, std::int64_t n, std::int64_t k) {
  const std::int64_t pairs = (n + kStripChannels - 1) / kStripChannels;
  return static_cast<std::size_t>(pairs * pair_bytes(layout, k));
}

bool pack_strips(const char* format, const std::byte* raw_rows, PackedMatrix out, std::byte* data,
                 std::int64_t strip_begin, std::int64_t strip_end) {
  const auto* raw = reinterpret_cast<const std::uint8_t*>(raw_rows);
  const std::int64_t stride = pair_bytes(out.layout, out.k);
  for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
    auto* to = reinterpret_cast<std::uint8_t*>(data) + pair * stride;
    const std::int64_t channel = pair * kStripChannels;
    const std::int64_t channels = std::min(kStripChannels, out.n - channel);
    if (std::strcmp(format, "F32") == 0 && out.layout == Layout::f32) {
      transpose<std::uint32_t>(raw + channel * out.k * 4, out.k * 4, channels, kStripChannels, to);
    } else if (std::strcmp(format, "F16") == 0 && out.layout == Layout::f16) {
      transpose<std::uint16_t>(raw + channel * out.k * 2, out.k * 2, channels, kStripChannels, to);
    } else if (std::strcmp(format, "BF16") == 0 && out.layout == Layout::bf16) {
      transpose<std::uint32_t>(raw + channel * out.k * 2, out.k * 2, channels, kStripChannels, to);
    } else {
      bool packed = false;
      with_codec(format, [&](auto codec) {
        using Codec = decltype(codec);
        if (out.layout != Codec::kLayout) return;
        const std::int64_t row_bytes = out.k / Codec::kElements * Codec::kBytes;
        packed = true;
#ifdef RIDGELINE_ISA_avx512
        if constexpr (in_pairs(Codec::kLayout)) {
          return pack_pair<Codec>(raw + channel * row_bytes, row_bytes, out.k, channels, to);
        }
#endif
        for (std::int64_t strip = 0; strip < 2; strip++) {
          const std::int64_t first = strip * kLanes;
          pack_integer_strip<Codec>(
              raw + (channel + std::min(first, channels)) * row_bytes, out.k,
              std::clamp<std::int64_t>(channels - first, 0, kLanes), out.prescale,
              to + strip * integer_shape(Codec::kLayout).strip_bytes());
        }
      });
      if (!packed) return false;
    }
  }
  return true;
}

float pack_prescale(const char* format, const std::byte* raw_rows, std::int64_t n, std::int64_t k) {
  const auto* raw = reinterpret_cast<const std::uint8_t*>(raw_rows);
  float prescale = 1.0f;
  with_codec(format, [&](auto codec) {
    using Codec = decltype(codec);
    // One float16 a group is stored as it is, exactly. A product of two is not. (In pairs channels have units.)
    if constexpr (!in_pairs(Codec::kLayout) && requires { Codec::bound(raw); }) {
      float largest = 0.0f;
      const std::int64_t blocks = n * (k / Codec::kElements);
      for (std::int64_t i = 0; i < blocks; i++) {
        const float bound = Codec::bound(raw + i * Codec::kBytes);
        if (bound > largest && bound <= 3e38f) largest = bound;
      }
      // A remainder is at most 8 scales (16 of five bits, halved) and the offset.
      constexpr int kHeadroom = Codec::kMinima ? 4 : 0;
      int exponent = 0;  // the largest is below 2^exponent
      std::frexp(largest, &exponent);
      if (largest > 0.0f) {
        prescale = std::ldexp(1.0f, std::clamp(kLargestExponent - kHeadroom - exponent, -120, 120));
      }
    }
  });
  return prescale;
}

}  // namespace ridgeline::RIDGELINE_ISA
