// What linear on AMX multiplies, as float32: of packed weights a channel, of int16 activations a row (linear_amx_layout.h).
#include <algorithm>

#include "family_kernels.h"
#include "linear_amx.h"
#include "linear_amx_layout.h"
#include "linear_kernels.h"

// Compiled for AVX-512, in its namespace.
namespace ridgeline::RIDGELINE_ISA {
namespace {

// As the instructions round: v / 28, and v / 256 below 2^15.
int upper_digit_of(int v) { return (((v * 1170) >> 14) + 1) >> 1; }
int upper_byte_of(int v) { return std::min(v + 128, 0x7fff) >> 8; }

struct GroupNumbers {
  int scale, remainder;
};

template <Layout L>
int weight_of(const GroupNumbers& group, int number) {
  constexpr IntegerShape kShape = integer_shape(L);
  return group.scale * (number - (kShape.table ? kCodeOffset : kShape.zero())) + group.remainder;
}

// The first digit's or byte's share of it.
template <Layout L>
int first_of(const GroupNumbers& group, int number) {
  if constexpr (!in_digits(L)) return upper_byte_of(weight_of<L>(group, number)) * 256;
  int offset = group.remainder;
  if constexpr (integer_shape(L).bits == 5) offset += number < 16 ? -8 * group.scale : 8 * group.scale;
  const int upper = upper_digit_of(group.scale) * (number % 16 - 8) + upper_digit_of(offset);
  return upper * static_cast<int>(kLowSteps);
}

int short_at(const std::uint8_t* line, int lane, int half) {
  std::int16_t word;
  std::memcpy(&word, line + lane * 4 + half * 2, 2);
  return word;
}

template <Layout L>
void unpack(const PackedMatrix& w, std::int64_t channel, bool first, float* out) {
  using C = Common<L>;
  constexpr IntegerShape kShape = C::kShape;
  const std::int64_t blocks = num_blocks(w.k), stride = common_pair_bytes<L>(blocks);
  const auto lane = static_cast<int>(channel % kLanes);
  const auto* pair = reinterpret_cast<const std::uint8_t*>(w.data) + channel / kStripChannels * stride;
  const std::uint8_t* strip = pair + channel % kStripChannels / kLanes * C::kStripBytes;
  float unit;
  std::memcpy(&unit, pair + stride - kUnitsBytes + channel % kStripChannels * 4, 4);
  for (std::int64_t b = 0; b < blocks; b++, strip += 2 * C::kStripBytes) {
    for (int g = 0; g < kShape.groups(); g++) {
      GroupNumbers group{short_at(C::scales_at(strip, g / 2), lane, g % 2), 0};
      if constexpr (kShape.minima) group.remainder = short_at(C::remainders_at(strip, g / 2), lane, g % 2);
#pragma GCC unroll 8
      for (int i = 0; i < kShape.group / 4; i++) {
        alignas(64) std::uint8_t line[kLineBytes];
        store_line(line, Packed<L>::line(strip, g, i));
        const std::int64_t at = b * kBlock + g * kShape.group + i * 4;
        for (std::int64_t j = 0; j < 4 && at + j < w.k; j++) {
          const int number = line[lane * 4 + j] >> C::kShift;
          out[at + j] = unit * static_cast<float>(first ? first_of<L>(group, number) : weight_of<L>(group, number));
        }
      }
    }
  }
}

}  // namespace

bool unpack_channel_amx(const PackedMatrix& w, std::int64_t channel, bool first, float* out) {
  return with_integer_layout(w.layout, [&]<Layout L>() { unpack<L>(w, channel, first, out); });
}

void decode_activations_amx(ActivationKind kind, const std::byte* row, std::int64_t k, float* out, float* rest) {
  if (stored_kind(kind) != ActivationKind::int16) return decode_activations(kind, row, k, out, rest);
  const WideRows x(row, k);
  for (std::int64_t stretch = 0; stretch < num_stretches(x.blocks); stretch++) {
    const WideScales& scales = x.scales(0, stretch);
    for (std::int64_t b = stretch_begin(x.blocks, stretch); b < stretch_begin(x.blocks, stretch + 1); b++) {
      const std::int8_t *high = x.codes(0, b), *low = high + kBlock;
      const std::int64_t count = std::min(kBlock, k - b * kBlock);
      for (std::int64_t i = 0; i < count; i++) {
        const float second = scales.scale[1] * static_cast<float>(low[i]);
        out[b * kBlock + i] = scales.scale[0] * static_cast<float>(high[i]) + second;
        if (rest) rest[b * kBlock + i] = second;
      }
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
