// How a tile asks memory for the weights that it will read.
#pragma once

#include <cstdint>

#include "linear_lanes.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// How a single pass of so many rows asks memory for what it will read: one waits for memory, and has room for lines in the
// first-level cache; those of several compute about as long as memory takes, and theirs go to the second.
#ifdef RIDGELINE_ISA_avx512
constexpr bool asks_far(std::int64_t rows) { return rows > 1; }
#else
constexpr bool asks_far(std::int64_t) { return false; }
#endif
constexpr std::int64_t ahead_of(std::int64_t rows) { return asks_far(rows) ? 16384 : 8192; }
template <int Rows>
inline void ask(const std::uint8_t* p) {
  if constexpr (asks_far(Rows)) {
    prefetch_far(p);
  } else {
    prefetch_near(p);
  }
}

// What a tile of several rows asks for beside each block where it is told to (beside.h): as much as leaves room for the lines
// that it waits for itself. It goes to the second-level cache, in the first it would take the tile's place.
constexpr std::int64_t kBesideBytes = 7 * 64;

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
