// Weights as they are stored, a line and a group at a time, in the lanes of one instruction set.
#pragma once

#include <cstdint>

#include "linear_lanes.h"
#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

template <Layout L>
struct Packed {
  static constexpr bool kStreams = true;  // from memory, as it is multiplied
  static constexpr bool kWidens = false;
  static constexpr Layout kLayout = L;
  static constexpr IntegerShape kShape = integer_shape(L);
  static constexpr std::int64_t kStripBytes = kShape.strip_bytes();
  static constexpr std::int64_t kNextStrip = kStripBytes;  // from a strip's block to the other's

#ifdef RIDGELINE_ISA_avx2
  static constexpr std::int64_t kGroupCodes = kShape.codes_bytes() / kShape.groups();
  static constexpr std::int64_t kGroupBytes = kStripBytes / kShape.groups();

  static Line line(const std::uint8_t* strip, int group, int i) {
    const std::uint8_t* codes = strip + group * kGroupBytes;
    if constexpr (kShape.table) return table_line(codes, kShape.table, i);
    if constexpr (kShape.bits == 4) return nibble_line(codes, i);
    if constexpr (kShape.bits == 5) return five_bit_line(codes, i);
    if constexpr (kShape.bits == 6) return six_bit_line(codes, i);
    if constexpr (kShape.bits == 8) return byte_line(codes, i);
  }
  static Floats scales(const std::uint8_t* strip, int group) {
    return load_halves(strip + group * kGroupBytes + kGroupCodes);
  }
  static Floats minima(const std::uint8_t* strip, int group) {
    return load_halves(strip + group * kGroupBytes + kGroupCodes + kLanes * 2);
  }
#else
  // Step i of a group. (Only the group is known late: shifts and half lines are constants of i.)
  static Line line(const std::uint8_t* strip, int group, int i) {
    const int first = group * (kShape.group / 4);
    if constexpr (kShape.table) return table_line(strip + first * kLineBytes / 2, kShape.table, i);
    if constexpr (kShape.bits == 4) return nibble_line(strip + first * kLineBytes / 2, i);
    if constexpr (kShape.bits == 8) return byte_line(strip + first * kLineBytes, i);
    const std::uint8_t* planes = strip + kSteps / 2 * kLineBytes;
    if constexpr (kShape.bits == 5) {
      return five_bit_line(strip + first * kLineBytes / 2, planes + first * 8, i);
    }
    if constexpr (kShape.bits == 6) {
      return six_bit_line(strip + first * kLineBytes / 2, planes + first / 4 * kLineBytes, i);
    }
  }
  static Floats scales(const std::uint8_t* strip, int group) {
    if constexpr (in_pairs(L)) return words_of_pair(strip + kShape.codes_bytes(), group);
    return load_halves(strip + kShape.codes_bytes() + group * kLanes * 2);
  }
  static Floats minima(const std::uint8_t* strip, int group) {
    if constexpr (in_pairs(L)) return words_of_pair(strip + kShape.codes_bytes() + kShape.scales_bytes(), group);
    return load_halves(strip + kShape.codes_bytes() + kShape.scales_bytes() + group * kLanes * 2);
  }
#endif
};

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
