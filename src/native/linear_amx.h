// linear on AMX tiles, above the AVX-512 kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "beside.h"
#include "isa.h"
#include "linear.h"

namespace ridgeline::RIDGELINE_ISA {

// Integer weights as linear_amx_layout.h has them, packed and multiplied; bfloat16 weights as AVX-512 packs them.
std::size_t packed_bytes_amx(Layout layout, std::int64_t n, std::int64_t k);
bool pack_strips_amx(const char* format, const std::byte* raw, PackedMatrix out, std::byte* data,
                     std::int64_t strip_begin, std::int64_t strip_end);
float pack_prescale_amx(const char* format, const std::byte* raw, std::int64_t n, std::int64_t k);
// linear_amx_unpack.cpp, as kernels.h has them.
bool unpack_channel_amx(const PackedMatrix& w, std::int64_t channel, bool first, float* out);
void decode_activations_amx(ActivationKind kind, const std::byte* row, std::int64_t k, float* out, float* rest);
// Rows of int16 are made whole: `k` is their width.
void quantize_rows_amx(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m, std::int64_t k,
                       std::byte* out, std::size_t out_stride);

void linear_amx(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                std::byte* scratch, Beside* beside);
std::size_t linear_amx_scratch_bytes();
std::int64_t spin_arithmetic_amx(ActivationKind kind, std::int64_t steps);

void linear_bf16_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                     std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy);

}  // namespace ridgeline::RIDGELINE_ISA
