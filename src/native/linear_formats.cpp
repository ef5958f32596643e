// One row of a GGUF format as float32, bit-equal to ggml's decoders.
#include "linear_formats.h"

#include "linear_kernels.h"

namespace ridgeline::RIDGELINE_ISA {

bool decode_row(const char* format, const std::byte* raw_row, std::int64_t k, float* out) {
  const auto* raw = reinterpret_cast<const std::uint8_t*>(raw_row);
  if (std::strcmp(format, "F32") == 0) {
    std::memcpy(out, raw, static_cast<std::size_t>(k) * 4);
    return true;
  }
  if (std::strcmp(format, "F16") == 0) {
    for (std::int64_t i = 0; i < k; i++) out[i] = half_at(raw + 2 * i);
    return true;
  }
  if (std::strcmp(format, "BF16") == 0) {
    for (std::int64_t i = 0; i < k; i++) {
      std::uint16_t upper;
      std::memcpy(&upper, raw + 2 * i, 2);
      out[i] = float_from_bits(static_cast<std::uint32_t>(upper) << 16);
    }
    return true;
  }
  return with_codec(format, [&](auto codec) {
    using Codec = decltype(codec);
    constexpr const std::uint8_t* kTable = integer_shape(Codec::kLayout).table;
    std::uint8_t codes[Codec::kElements];
    float scales[Codec::kElements / Codec::kGroup], offsets[Codec::kElements / Codec::kGroup];
    for (std::int64_t at = 0; at < k; at += Codec::kElements, raw += Codec::kBytes) {
      Codec::decode(raw, codes, scales, offsets);
      for (int g = 0; g < Codec::kElements / Codec::kGroup; g++) {
        for (int i = g * Codec::kGroup; i < (g + 1) * Codec::kGroup; i++) {
          int code = codes[i];
          if constexpr (kTable) code = kTable[code];
          const float value = scales[g] * static_cast<float>(code - Codec::kZero);
          out[at + i] = Codec::kMinima ? value + offsets[g] : value;
        }
      }
    }
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
