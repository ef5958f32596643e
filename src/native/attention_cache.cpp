// attention: writes of the paged cache. Layouts: attention.h.
//
// A hidden token has weight 0, but what another row left in its slot may be NaN: whoever writes a block's first slot
// clears the values, or their scales, of all slots that are still to come.
#include "attention.h"
#include "family_kernels.h"
#include "hadamard.h"
#include "pairs.h"
#include "quads.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Tokens of a step that pay for a transposition; fewer are written pair by pair.
constexpr std::int64_t kTransposedTokens = 4;

#if defined(RIDGELINE_ISA_avx512)

// rows[i] lane j -> rows[j] lane i.
void transpose(__m512i* rows) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
    }
  // b[i + j]: columns j, j + 4, j + 8, j + 12 of rows i .. i + 3, a quarter of the vector each.
  for (int j = 0; j < 4; j++) {
    const __m512i p = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), q = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i r = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd), s = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_i32x4(p, q, 0x88);
    rows[j + 8] = _mm512_shuffle_i32x4(p, q, 0xdd);
    rows[j + 4] = _mm512_shuffle_i32x4(r, s, 0x88);
    rows[j + 12] = _mm512_shuffle_i32x4(r, s, 0xdd);
  }
}

// Sixteen words of each of `count` tokens, as columns from `first_slot` on; gives which columns they are.
__mmask16 columns(const std::uint32_t (*words)[kBlockTokens], std::int64_t count, std::int64_t first_slot,
                  __m512i* rows) {
  for (std::int64_t t = 0; t < kBlockTokens; t++) {
    const std::int64_t token = t - first_slot;
    rows[t] = token >= 0 && token < count ? _mm512_loadu_si512(words[token]) : _mm512_setzero_si512();
  }
  transpose(rows);
  return static_cast<__mmask16>(((1u << count) - 1) << first_slot);
}

// Sixteen 32-bit words of each of `count` tokens, into columns [first_slot, first_slot + count) of `lines` lines.
void store_columns(const std::uint32_t (*words)[kBlockTokens], std::int64_t count, std::byte* out, std::int64_t lines,
                   std::int64_t first_slot) {
  __m512i rows[16];
  const __mmask16 written = columns(words, count, first_slot, rows);
  for (std::int64_t i = 0; i < lines; i++) _mm512_mask_storeu_epi32(out + i * 4 * kBlockTokens, written, rows[i]);
}

// The same, each word a float32 that becomes a float16.
void store_half_columns(const std::uint32_t (*words)[kBlockTokens], std::int64_t count, std::uint16_t* out,
                        std::int64_t lines, std::int64_t first_slot) {
  __m512i rows[16];
  const __mmask16 written = columns(words, count, first_slot, rows);
  for (std::int64_t i = 0; i < lines; i++)
    _mm256_mask_storeu_epi16(out + i * kBlockTokens, written,
                             _mm512_cvtps_ph(_mm512_castsi512_ps(rows[i]), _MM_FROUND_TO_NEAREST_INT));
}

// Codes of 16 channels of `count` tokens into bytes [first, first + count) of each channel's four.
void store_fours(std::byte* line, const std::int8_t* codes, std::int64_t ldc, std::int64_t first, std::int64_t count) {
  __m512i fours = _mm512_setzero_si512();
  for (std::int64_t t = 0; t < count; t++) {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + t * ldc)));
    fours = _mm512_or_si512(fours, _mm512_sll_epi32(bytes, _mm_cvtsi64_si128(8 * (first + t))));
  }
  const __mmask64 written = 0x1111111111111111ull * (((1u << count) - 1) << first);
  _mm512_mask_storeu_epi8(line, written, fours);
}

#else

void store_columns(const std::uint32_t (*words)[kBlockTokens], std::int64_t count, std::byte* out, std::int64_t lines,
                   std::int64_t first_slot) {
  for (std::int64_t i = 0; i < lines; i++)
    for (std::int64_t t = 0; t < count; t++)
      std::memcpy(out + (i * kBlockTokens + first_slot + t) * 4, words[t] + i, 4);
}

void store_half_columns(const std::uint32_t (*words)[kBlockTokens], std::int64_t count, std::uint16_t* out,
                        std::int64_t lines, std::int64_t first_slot) {
  std::uint16_t halves[kBlockTokens][kWidth];
  for (std::int64_t t = 0; t < count; t++) {
    float numbers[kWidth];
    std::memcpy(numbers, words[t], sizeof numbers);
    store_half(halves[t], load(numbers));
  }
  for (std::int64_t i = 0; i < lines; i++)
    for (std::int64_t t = 0; t < count; t++) out[i * kBlockTokens + first_slot + t] = halves[t][i];
}

void store_fours(std::byte* line, const std::int8_t* codes, std::int64_t ldc, std::int64_t first, std::int64_t count) {
  for (std::int64_t t = 0; t < count; t++)
    for (int i = 0; i < kWidth; i++) line[4 * i + first + t] = static_cast<std::byte>(codes[t * ldc + i]);
}

#endif

// 32 channels of a token from `d` on, as far as there are.
inline Pairs load_channels(const float* x, std::int64_t d, std::int64_t num_channels) {
  const std::int64_t left = num_channels - d;
  return join(load_n(x + d, left), left > kWidth ? load_n(x + d + kWidth, left - kWidth) : zeros());
}

// ---- bf16

void write_bf16_keys(const float* k, std::int64_t ldk, std::int64_t head_dim, const KeyBalance*, std::byte* tile,
                     std::int64_t first_slot, std::int64_t count) {
  for (std::int64_t d = 0; d < head_dim; d += 2 * kWidth) {
    const std::int64_t left = (head_dim - d + 1) / 2, lines = left < kWidth ? left : kWidth;
    std::uint32_t words[kBlockTokens][kBlockTokens];
    for (std::int64_t t = 0; t < count; t++)
      store_pairs(reinterpret_cast<std::uint16_t*>(words[t]), load_channels(k + t * ldk, d, head_dim));
    if (count >= kTransposedTokens) {
      store_columns(words, count, tile, lines, first_slot);
    } else {
      for (std::int64_t t = 0; t < count; t++)
        for (std::int64_t i = 0; i < lines; i++)
          std::memcpy(tile + (i * kBlockTokens + first_slot + t) * 4, words[t] + i, 4);
    }
    tile += kWidth * 4 * kBlockTokens;
  }
}

// Whoever writes an even slot clears the odd one beside it.
void write_bf16_values(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile,
                       std::int64_t first_slot, std::int64_t count) {
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile);
  const std::int64_t line = 2 * padded_to_16(value_dim), end = first_slot + count;
  for (std::int64_t slot = first_slot; slot < end; slot = (slot / 2 + 1) * 2) {
    const float* x = v + (slot - first_slot) * ldv;
    for (std::int64_t d = 0; d < value_dim; d += kWidth) {
      std::uint16_t* pairs = out + slot / 2 * line + 2 * d;
      const Vec here = load_n(x + d, value_dim - d);
      if (slot % 2) {
        store_pairs(pairs, zip(firsts(load_pairs(pairs)), here));
      } else {
        store_pairs(pairs, zip(here, slot + 1 < end ? load_n(x + ldv + d, value_dim - d) : zeros()));
      }
    }
  }
  if (first_slot == 0) {
    std::uint16_t* rest = out + (count + 1) / 2 * line;
    std::memset(rest, 0, static_cast<std::size_t>(kBlockTokens / 2 * line - (rest - out)) * sizeof *rest);
  }
}

// ---- f16: to nearest, beyond 65,504 infinity

void write_f16_keys(const float* k, std::int64_t ldk, std::int64_t head_dim, const KeyBalance*, std::byte* tile,
                    std::int64_t first_slot, std::int64_t count) {
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile);
  for (std::int64_t d = 0; d < head_dim; d += kWidth, out += kWidth * kBlockTokens) {
    const std::int64_t left = head_dim - d, lines = left < kWidth ? left : kWidth;
    if (count >= kTransposedTokens) {
      std::uint32_t words[kBlockTokens][kBlockTokens];
      for (std::int64_t t = 0; t < count; t++) {
        float numbers[kWidth];
        store(numbers, load_n(k + t * ldk + d, left));
        std::memcpy(words[t], numbers, sizeof numbers);
      }
      store_half_columns(words, count, out, lines, first_slot);
    } else {
      for (std::int64_t t = 0; t < count; t++) {
        std::uint16_t halves[kWidth];
        store_half(halves, load_n(k + t * ldk + d, left));
        for (std::int64_t i = 0; i < lines; i++) out[i * kBlockTokens + first_slot + t] = halves[i];
      }
    }
  }
}

void write_f16_values(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile,
                      std::int64_t first_slot, std::int64_t count) {
  const std::int64_t line = padded_to_16(value_dim);
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile) + first_slot * line;
  for (std::int64_t t = 0; t < count; t++, out += line)
    for (std::int64_t d = 0; d < value_dim; d += kWidth) store_half(out + d, load_n(v + t * ldv + d, value_dim - d));
  if (first_slot == 0) std::memset(out, 0, static_cast<std::size_t>((kBlockTokens - count) * line) * sizeof *out);
}

// ---- int8: code = round(number * (127 / largest)), scale = largest / 127, by token and head; a head whose largest
// number is below 2^-100 is zero, one that is not finite has no finite scale

struct Codes {
  alignas(64) std::int8_t of[kBlockTokens][kMaxCodedChannels];  // each token's, padded with zeros to a multiple of 64
  float scales[kBlockTokens];
};

void set_codes(const float* x, std::int64_t channels, std::int8_t* codes, float& scale) {
  Vec top = zeros(), faults = zeros();
  for (std::int64_t d = 0; d < channels; d += kWidth) {
    const Vec here = load_n(x + d, channels - d);
    top = max(top, absolute(here));
    faults = fma(here, zeros(), faults);  // NaN and infinity give NaN
  }
  const float largest_one = largest(top);
  const bool is_zero = largest_one < 0x1p-100f;
  const Vec inverse = all(is_zero ? 0.0f : 127.0f / largest_one);
  scale = (is_zero ? 0.0f : largest_one / 127.0f) + sum(faults);
  for (std::int64_t d = 0; d < (channels + 63) / 64 * 64; d += kWidth)
    store_codes(codes + d, d < channels ? round_even(mul(load_n(x + d, channels - d), inverse)) : zeros());
}

void write_scales(const Codes& codes, std::byte* scales, std::int64_t first_slot, std::int64_t count) {
  std::memcpy(scales + first_slot * 4, codes.scales, static_cast<std::size_t>(count) * sizeof(float));
  if (first_slot == 0) std::memset(scales + count * 4, 0, static_cast<std::size_t>(kBlockTokens - count) * 4);
}

// Balanced and mixed, in place of the numbers themselves: see attention_int8.h.
void write_int8_keys(const float* k, std::int64_t ldk, std::int64_t head_dim, const KeyBalance* balance,
                     std::byte* tile, std::int64_t first_slot, std::int64_t count) {
  Codes codes;
  alignas(64) float mixed[kMaxCodedChannels];
  for (std::int64_t t = 0; t < count; t++) {
    for (std::int64_t d = 0; d < head_dim; d += kWidth) {
      const std::int64_t left = head_dim - d;
      Vec here = load_n(k + t * ldk + d, left);
      if (balance)
        here = mul(sub(here, load_n(balance->centres + d, left)), load_n(balance->inverse_powers + d, left));
      store(mixed + d, here);
    }
    mix_channels(mixed, head_dim);
    set_codes(mixed, head_dim, codes.of[t], codes.scales[t]);
  }
  const std::int64_t num_quads = (head_dim + 3) / 4;
  for (std::int64_t d = 0; d < num_quads; d += kWidth) {
    const std::int64_t lines = num_quads - d < kWidth ? num_quads - d : kWidth;
    std::uint32_t words[kBlockTokens][kBlockTokens];
    for (std::int64_t t = 0; t < count; t++) {
      std::memcpy(words[t], codes.of[t] + 4 * d, sizeof words[t]);
      for (std::uint32_t& word : words[t]) word ^= 0x80808080u;  // + 128
    }
    if (count >= kTransposedTokens) {
      store_columns(words, count, tile + d * kQuadLine, lines, first_slot);
    } else {
      for (std::int64_t t = 0; t < count; t++)
        for (std::int64_t i = 0; i < lines; i++)
          std::memcpy(tile + (d + i) * kQuadLine + (first_slot + t) * 4, words[t] + i, 4);
    }
  }
  write_scales(codes, tile + num_quads * kQuadLine, first_slot, count);
}

void write_int8_values(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile,
                       std::int64_t first_slot, std::int64_t count) {
  Codes codes;
  for (std::int64_t t = 0; t < count; t++) set_codes(v + t * ldv, value_dim, codes.of[t], codes.scales[t]);
  const std::int64_t padded = padded_to_16(value_dim), end = first_slot + count;
  for (std::int64_t slot = first_slot; slot < end; slot = (slot / 4 + 1) * 4) {
    const std::int64_t in_four = slot % 4, tokens = (end - slot < 4 - in_four ? end - slot : 4 - in_four);
    std::byte* line = tile + slot / 4 * 4 * padded;
    for (std::int64_t d = 0; d < padded; d += kWidth, line += kQuadLine)
      store_fours(line, codes.of[slot - first_slot] + d, kMaxCodedChannels, in_four, tokens);
  }
  write_scales(codes, tile + padded * kBlockTokens, first_slot, count);
}

}  // namespace

const CacheWrites kCacheWrites[kNumCacheFormats] = {
    {write_bf16_keys, write_bf16_values}, {write_f16_keys, write_f16_values}, {write_int8_keys, write_int8_values}};

void prefetch_slots(const std::byte* begin, std::size_t num_bytes) {
  for (std::size_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(begin + i, 1);
}

}  // namespace ridgeline::RIDGELINE_ISA
