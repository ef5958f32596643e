// rope: what the program needs of the family.
#pragma once

#include <cstdint>

namespace ridgeline {

// Rotates the first 2 * half channels of a head; the rest are copied. A table row is half cosines, then half sines, of
// one position, both times the magnitude.
struct RopeArgs {
  std::int64_t head_dim;
  std::int64_t half;
  bool interleaved;
  const float* table;  // [positions, 2 * half]
};

}  // namespace ridgeline
