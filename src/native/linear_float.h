// linear over weights that are floats; linear.cpp hands them on.
//
// A pair of strips is one sequential stream, with no padding along K except to an even K in bf16:
//   bf16  for each 2 of K: strip 0, strip 1, each 16 channels x 2 neighbours along K
//   f16   for each of K: 32 channels
//   f32   for each of K: 32 channels
// Activations: bf16 rows, padded with zero to 32 numbers; float32 rows, padded to 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "linear.h"

namespace ridgeline::RIDGELINE_ISA {

constexpr std::int64_t padded(std::int64_t k, std::int64_t to) { return (k + to - 1) / to * to; }

void linear_float(const PackedMatrix& w, const std::byte* activations, std::int64_t m,
                  std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
                  std::int64_t ldy);

}  // namespace ridgeline::RIDGELINE_ISA
