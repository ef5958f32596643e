// The block formats of GGUF files (ggml-common.h lays them out), each as a codec:
//   kName, kLayout     its GGUF name and what it is packed in
//   kElements, kBytes  weights and bytes of a block
//   kGroup             weights that share a scale
//   kZero              weight = scale * (code - kZero) [+ offset], rounded to float32 at each step
//                      (of a layout with a table: of the code's entry)
//   kMinima            whether there are offsets
//   kShift             code + kShift is the code in the packed layout
//   bound              (where a scale is not just one float16) what no scale or offset of a block
//                      exceeds; infinite or NaN if the file says so
//   decode             codes [kElements], scales and offsets [kElements / kGroup]
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef RIDGELINE_ISA_portable
#include <immintrin.h>
#endif

#include "isa.h"
#include "linear.h"
#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {

static inline float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

static inline float half_at(const std::uint8_t* p) {
  std::uint16_t half;
  std::memcpy(&half, p, 2);
#ifndef RIDGELINE_ISA_portable
  return _cvtsh_ss(half);
#else
  const std::uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  if (magnitude >= 0x1fu << 23) return float_from_bits(magnitude | 0x7f800000u | sign);
  const float value = float_from_bits(magnitude) * 0x1p112f;  // the difference of the biases
  return sign ? -value : value;
#endif
}

// Codes 0..15: low halves are the first n, high halves the other n.
template <int N>
static inline void split_halves(const std::uint8_t* packed, std::uint8_t* codes) {
  for (int i = 0; i < N; i++) {
    codes[i] = packed[i] & 15;
    codes[N + i] = packed[i] >> 4;
  }
}

// 16 where bit i of the little-endian word is set, added to code i.
static inline void add_fifth_bits(const std::uint8_t* word, std::uint8_t* codes) {
  for (int byte = 0; byte < 4; byte++) {
    // Byte i of the word keeps bit i; adding 0x7f carries any bit into the byte's top one.
    const std::uint64_t kept = word[byte] * 0x0101010101010101ULL & 0x8040201008040201ULL;
    const std::uint64_t spread = (kept + 0x7f7f7f7f7f7f7f7fULL) >> 7 & 0x0101010101010101ULL;
    std::uint64_t eight;
    std::memcpy(&eight, codes + byte * 8, 8);
    eight |= spread << 4;
    std::memcpy(codes + byte * 8, &eight, 8);
  }
}

// Twelve bytes: eight six-bit scales and eight six-bit minima (Q4_K, Q5_K).
static inline void split_six_bits(const std::uint8_t* packed, std::uint8_t* scales,
                                  std::uint8_t* minima) {
  for (int i = 0; i < 4; i++) {
    scales[i] = packed[i] & 0x3f;
    minima[i] = packed[4 + i] & 0x3f;
    scales[4 + i] = static_cast<std::uint8_t>((packed[8 + i] & 15) | (packed[i] >> 2 & 0x30));
    minima[4 + i] = static_cast<std::uint8_t>(packed[8 + i] >> 4 | (packed[4 + i] >> 2 & 0x30));
  }
}

struct Q4_0 {
  static constexpr const char* kName = "Q4_0";
  static constexpr Layout kLayout = Layout::i4g32;
  static constexpr int kElements = 32, kBytes = 18, kGroup = 32, kZero = 8, kShift = 0;
  static constexpr bool kMinima = false;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    split_halves<16>(block + 2, codes);
  }
};

struct Q4_1 {
  static constexpr const char* kName = "Q4_1";
  static constexpr Layout kLayout = Layout::i4g32m;
  static constexpr int kElements = 32, kBytes = 20, kGroup = 32, kZero = 0, kShift = 0;
  static constexpr bool kMinima = true;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales,
                     float* offsets) {
    scales[0] = half_at(block);
    offsets[0] = half_at(block + 2);
    split_halves<16>(block + 4, codes);
  }
};

struct Q5_0 {
  static constexpr const char* kName = "Q5_0";
  static constexpr Layout kLayout = Layout::i5g32;
  static constexpr int kElements = 32, kBytes = 22, kGroup = 32, kZero = 16, kShift = 0;
  static constexpr bool kMinima = false;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    split_halves<16>(block + 6, codes);
    add_fifth_bits(block + 2, codes);
  }
};

struct Q5_1 {
  static constexpr const char* kName = "Q5_1";
  static constexpr Layout kLayout = Layout::i5g32m;
  static constexpr int kElements = 32, kBytes = 24, kGroup = 32, kZero = 0, kShift = 0;
  static constexpr bool kMinima = true;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales,
                     float* offsets) {
    scales[0] = half_at(block);
    offsets[0] = half_at(block + 2);
    split_halves<16>(block + 8, codes);
    add_fifth_bits(block + 4, codes);
  }
};

struct Q8_0 {
  static constexpr const char* kName = "Q8_0";
  static constexpr Layout kLayout = Layout::i8g32;
  static constexpr int kElements = 32, kBytes = 34, kGroup = 32, kZero = 128, kShift = 0;
  static constexpr bool kMinima = false;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    for (int i = 0; i < 32; i++) codes[i] = block[2 + i] ^ 0x80;
  }
};

// Q2_K: 16 bytes of scale (low half) and minimum (high half), 64 of codes, d, dmin.
struct Q2K {
  static constexpr const char* kName = "Q2_K";
  static constexpr Layout kLayout = Layout::i4g16m;
  static constexpr int kElements = 256, kBytes = 84, kGroup = 16, kZero = 0, kShift = 6;
  static constexpr bool kMinima = true;
  static float bound(const std::uint8_t* block) {
    return 15 * (std::fabs(half_at(block + 80)) + std::fabs(half_at(block + 82)));
  }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales,
                     float* offsets) {
    const float d = half_at(block + 80), dmin = half_at(block + 82);
    for (int g = 0; g < 16; g++) {
      scales[g] = d * static_cast<float>(block[g] & 15);
      offsets[g] = -(dmin * static_cast<float>(block[g] >> 4));
    }
    for (int run = 0; run < 2; run++) {
      for (int plane = 0; plane < 4; plane++) {
        for (int i = 0; i < 32; i++) {
          codes[run * 128 + plane * 32 + i] = block[16 + run * 32 + i] >> (plane * 2) & 3;
        }
      }
    }
  }
};

// Q3_K: 32 bytes of third bits (a set bit means no -4), 64 of two-bit codes, 12 of scales, d.
struct Q3K {
  static constexpr const char* kName = "Q3_K";
  static constexpr Layout kLayout = Layout::i4g16;
  static constexpr int kElements = 256, kBytes = 110, kGroup = 16, kZero = 4, kShift = 4;
  static constexpr bool kMinima = false;
  static float bound(const std::uint8_t* block) { return 32 * std::fabs(half_at(block + 108)); }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    const float d = half_at(block + 108);
    const std::uint8_t* packed = block + 96;
    for (int g = 0; g < 16; g++) {
      const int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
      const int high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
      scales[g] = d * static_cast<float>((low | high << 4) - 32);
    }
    for (int run = 0; run < 2; run++) {
      for (int plane = 0; plane < 4; plane++) {
        for (int i = 0; i < 32; i++) {
          const int low = block[32 + run * 32 + i] >> (plane * 2) & 3;
          const int third = block[i] >> (run * 4 + plane) & 1;
          codes[run * 128 + plane * 32 + i] = static_cast<std::uint8_t>(low | third << 2);
        }
      }
    }
  }
};

// Q4_K: d, dmin, 12 bytes of scales and minima, 128 of codes.
struct Q4K {
  static constexpr const char* kName = "Q4_K";
  static constexpr Layout kLayout = Layout::i4g32m;
  static constexpr int kElements = 256, kBytes = 144, kGroup = 32, kZero = 0, kShift = 0;
  static constexpr bool kMinima = true;
  static float bound(const std::uint8_t* block) {
    return 63 * (std::fabs(half_at(block)) + std::fabs(half_at(block + 2)));
  }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales,
                     float* offsets) {
    const float d = half_at(block), dmin = half_at(block + 2);
    std::uint8_t small[8], minima[8];
    split_six_bits(block + 4, small, minima);
    for (int g = 0; g < 8; g++) {
      scales[g] = d * static_cast<float>(small[g]);
      offsets[g] = -(dmin * static_cast<float>(minima[g]));
    }
    for (int run = 0; run < 4; run++) split_halves<32>(block + 16 + run * 32, codes + run * 64);
  }
};

// Q5_K: d, dmin, 12 bytes of scales and minima, 32 of fifth bits, 128 of four-bit codes.
struct Q5K {
  static constexpr const char* kName = "Q5_K";
  static constexpr Layout kLayout = Layout::i5g32m;
  static constexpr int kElements = 256, kBytes = 176, kGroup = 32, kZero = 0, kShift = 0;
  static constexpr bool kMinima = true;
  static float bound(const std::uint8_t* block) {
    return 63 * (std::fabs(half_at(block)) + std::fabs(half_at(block + 2)));
  }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales,
                     float* offsets) {
    const float d = half_at(block), dmin = half_at(block + 2);
    std::uint8_t small[8], minima[8];
    split_six_bits(block + 4, small, minima);
    for (int g = 0; g < 8; g++) {
      scales[g] = d * static_cast<float>(small[g]);
      offsets[g] = -(dmin * static_cast<float>(minima[g]));
    }
    for (int run = 0; run < 4; run++) split_halves<32>(block + 48 + run * 32, codes + run * 64);
    for (int plane = 0; plane < 8; plane++) {
      for (int i = 0; i < 32; i++) {
        codes[plane * 32 + i] |= static_cast<std::uint8_t>((block[16 + i] >> plane & 1) << 4);
      }
    }
  }
};

// Q6_K: 128 bytes of four-bit codes, 64 of upper two bits, 16 signed scales, d.
struct Q6K {
  static constexpr const char* kName = "Q6_K";
  static constexpr Layout kLayout = Layout::i6g16;
  static constexpr int kElements = 256, kBytes = 210, kGroup = 16, kZero = 32, kShift = 0;
  static constexpr bool kMinima = false;
  static float bound(const std::uint8_t* block) { return 128 * std::fabs(half_at(block + 208)); }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    const float d = half_at(block + 208);
    for (int g = 0; g < 16; g++) {
      scales[g] = d * static_cast<float>(static_cast<std::int8_t>(block[192 + g]));
    }
    for (int run = 0; run < 2; run++) {
      std::uint8_t* out = codes + run * 128;
      split_halves<64>(block + run * 64, out);
      for (int plane = 0; plane < 4; plane++) {
        for (int i = 0; i < 32; i++) {
          const int upper = block[128 + run * 32 + i] >> (plane * 2) & 3;
          out[plane * 32 + i] |= static_cast<std::uint8_t>(upper << 4);
        }
      }
    }
  }
};

struct Iq4Nl {
  static constexpr const char* kName = "IQ4_NL";
  static constexpr Layout kLayout = Layout::i4g32nl;
  static constexpr int kElements = 32, kBytes = 18, kGroup = 32, kZero = 128, kShift = 0;
  static constexpr bool kMinima = false;
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    split_halves<16>(block + 2, codes);
  }
};

// MXFP4: the scale is a power of two, 2^(byte - 127); E2M1 values are doubled, the scale halved.
struct Mxfp4 {
  static constexpr const char* kName = "MXFP4";
  static constexpr Layout kLayout = Layout::i4g32mx;
  static constexpr int kElements = 32, kBytes = 17, kGroup = 32, kZero = 128, kShift = 0;
  static constexpr bool kMinima = false;
  static float bound(const std::uint8_t* block) {
    const std::uint32_t e = block[0];
    return float_from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23);
  }
  static void decode(const std::uint8_t* block, std::uint8_t* codes, float* scales, float*) {
    scales[0] = bound(block);
    split_halves<16>(block + 1, codes);
  }
};

// Calls visit(codec) for the block format of this name; false if there is none.
template <class Visit>
static bool with_codec(const char* name, Visit visit) {
  const auto is = [&](auto codec) {
    if (std::strcmp(name, decltype(codec)::kName) != 0) return false;
    static_assert(layout_of(decltype(codec)::kName) == decltype(codec)::kLayout);
    visit(codec);
    return true;
  };
  return is(Q4_0{}) || is(Q4_1{}) || is(Q5_0{}) || is(Q5_1{}) || is(Q8_0{}) || is(Q2K{}) ||
         is(Q3K{}) || is(Q4K{}) || is(Q5K{}) || is(Q6K{}) || is(Iq4Nl{}) || is(Mxfp4{});
}

}  // namespace ridgeline::RIDGELINE_ISA
