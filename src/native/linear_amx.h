// linear on AMX tiles, above the AVX-512 kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "linear.h"

namespace ridgeline::RIDGELINE_ISA {

// As `linear` of AVX-512: the same bits over integer weights; over bfloat16 weights sums as AMX makes them.
void linear_amx(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                std::byte* scratch);
std::size_t linear_amx_scratch_bytes();
std::int64_t spin_arithmetic_amx(ActivationKind kind, std::int64_t steps);

void linear_bf16_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                     std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy);

}  // namespace ridgeline::RIDGELINE_ISA
