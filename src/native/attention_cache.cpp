// attention: writes of the paged cache. Layout: attention.h.
#include "attention.h"
#include "family_kernels.h"
#include "pairs.h"

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

// Pairs of `count` tokens, 16 of each, into columns [first_slot, first_slot + count) of `lines` lines.
void store_columns(const Pairs* tokens, std::int64_t count, std::uint16_t* out, std::int64_t lines,
                   std::int64_t first_slot) {
  __m512i rows[16];
  for (std::int64_t t = 0; t < kBlockTokens; t++) {
    const std::int64_t token = t - first_slot;
    rows[t] = token >= 0 && token < count ? tokens[token].v : _mm512_setzero_si512();
  }
  transpose(rows);
  const __mmask16 written = static_cast<__mmask16>(((1u << count) - 1) << first_slot);
  for (std::int64_t i = 0; i < lines; i++) _mm512_mask_storeu_epi32(out + i * 2 * kBlockTokens, written, rows[i]);
}

#else

void store_columns(const Pairs* tokens, std::int64_t count, std::uint16_t* out, std::int64_t lines,
                   std::int64_t first_slot) {
  std::uint16_t pairs[kBlockTokens][2 * kWidth];
  for (std::int64_t t = 0; t < count; t++) store_pairs(pairs[t], tokens[t]);
  for (std::int64_t i = 0; i < lines; i++)
    for (std::int64_t t = 0; t < count; t++)
      std::memcpy(out + (i * kBlockTokens + first_slot + t) * 2, pairs[t] + 2 * i, 4);
}

#endif

// 32 channels of a token from `d` on, as far as there are.
inline Pairs load_channels(const float* x, std::int64_t d, std::int64_t num_channels) {
  const std::int64_t left = num_channels - d;
  return join(load_n(x + d, left), left > kWidth ? load_n(x + d + kWidth, left - kWidth) : zeros());
}

}  // namespace

void write_keys(const float* k, std::int64_t ldk, std::int64_t head_dim, std::byte* tile, std::int64_t first_slot,
                std::int64_t count) {
  std::uint16_t* out = reinterpret_cast<std::uint16_t*>(tile);
  for (std::int64_t d = 0; d < head_dim; d += 2 * kWidth) {
    const std::int64_t left = (head_dim - d + 1) / 2, lines = left < kWidth ? left : kWidth;
    if (count >= kTransposedTokens) {
      Pairs tokens[kBlockTokens];
      for (std::int64_t t = 0; t < count; t++) tokens[t] = load_channels(k + t * ldk, d, head_dim);
      store_columns(tokens, count, out, lines, first_slot);
    } else {
      for (std::int64_t t = 0; t < count; t++) {
        std::uint16_t pairs[2 * kWidth];
        store_pairs(pairs, load_channels(k + t * ldk, d, head_dim));
        for (std::int64_t i = 0; i < lines; i++)
          std::memcpy(out + (i * kBlockTokens + first_slot + t) * 2, pairs + 2 * i, 4);
      }
    }
    out += kWidth * 2 * kBlockTokens;
  }
}

// Whoever writes an even slot clears the odd one beside it, and whoever writes a block's first slot clears all that are
// still to come: a hidden token has weight 0, but what another row left there may be NaN.
void write_values(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile, std::int64_t first_slot,
                  std::int64_t count) {
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

void prefetch_slots(const std::byte* begin, std::size_t num_bytes) {
  for (std::size_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(begin + i, 1);
}

}  // namespace ridgeline::RIDGELINE_ISA
