// Integer weights as whole numbers in units of a float a channel: AMX's (linear_amx_layout.h), and those of four bits that
// AVX-512 multiplies in pairs of groups (linear_pairs.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "linear_pack.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// A channel's unit, and one by it.
struct ChannelUnit {
  float unit, inverse;
};

struct GroupRow {
  float scales[kLanes], remainders[kLanes];
};

std::int16_t nearest_short(float x) { return std::isnan(x) ? std::int16_t{0} : static_cast<std::int16_t>(std::lrintf(x)); }

// Two groups' integers side by side, for each channel: in order, or the second group's first.
using Channels = float[kLanes];
template <bool SecondFirst>
std::uint8_t* store_shorts(const GroupRow* groups, Channels GroupRow::*numbers, const Channels& inverse, int count,
                           std::uint8_t* out) {
  for (int g = 0; g < count; g++) {
    const Channels& from = groups[g].*numbers;
    std::uint8_t* line = out + g / 2 * kLineBytes + (SecondFirst ? 1 - g % 2 : g % 2) * 2;
    for (int c = 0; c < kLanes; c++) {
      const std::int16_t number = nearest_short(from[c] * inverse[c]);
      std::memcpy(line + c * 4, &number, 2);
    }
  }
  return out + count / 2 * kLineBytes;
}

// The largest magnitude that a code stands for.
constexpr float largest_number(const IntegerShape& shape) {
  if (!shape.table) return static_cast<float>(shape.zero());
  int most = 0;
  for (int i = 0; i < 16; i++) most = std::max({most, shape.table[i] - kCodeOffset, kCodeOffset - shape.table[i]});
  return static_cast<float>(most);
}

// One strip of a pair; its blocks lie 2 * strip_bytes apart. units: of its channels. unit_of(largest weight, largest scale or
// remainder) is a channel's ChannelUnit.
template <class Codec, bool SecondFirst, class UnitOf>
void pack_common_strip(const std::uint8_t* raw, std::int64_t k, std::int64_t channels, std::uint8_t* out, float* units,
                       UnitOf unit_of) {
  constexpr IntegerShape kShape = integer_shape(Codec::kLayout);
  constexpr int kGroups = kShape.groups();
  constexpr float kLargestNumber = largest_number(kShape);
  const std::int64_t blocks = num_blocks(k);
  std::vector<GroupRow> groups(static_cast<std::size_t>(blocks * kGroups));
  float largest[kLanes] = {}, widest[kLanes] = {};
  GroupRow* at = groups.data();
  std::uint8_t* codes = out;
  each_block<Codec>(raw, k, channels, [&](const auto& lines, auto* scales, auto* remainders) {
    store_codes<kShape.bits>(lines, codes);
    codes += 2 * kShape.strip_bytes();
    for (int g = 0; g < kGroups; g++, at++) {
      for (int c = 0; c < kLanes; c++) {
        at->scales[c] = scales[g][c];
        at->remainders[c] = remainders[g][c];
        const float scale = std::fabs(scales[g][c]), remainder = std::fabs(remainders[g][c]);
        const float most = scale * kLargestNumber + remainder;
        if (!(most <= largest[c])) largest[c] = most;  // NaN stays
        widest[c] = std::max({widest[c], scale, remainder});
      }
    }
  });
  float inverse[kLanes];
  for (int c = 0; c < kLanes; c++) {
    ChannelUnit of = {largest[c] <= 1e-30f ? 0.0f : std::nanf(""), 0.0f};
    if (largest[c] > 1e-30f && largest[c] <= 3e38f) of = unit_of(largest[c], widest[c]);
    units[c] = of.unit;
    inverse[c] = of.inverse;
  }
  for (std::int64_t b = 0; b < blocks; b++) {
    const GroupRow* row = groups.data() + b * kGroups;
    std::uint8_t* to = out + b * 2 * kShape.strip_bytes() + kShape.codes_bytes();
    to = store_shorts<SecondFirst>(row, &GroupRow::scales, inverse, kGroups, to);
    if constexpr (kShape.minima) store_shorts<SecondFirst>(row, &GroupRow::remainders, inverse, kGroups, to);
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
