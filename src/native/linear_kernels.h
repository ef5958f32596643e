// The linear family's functions of one instruction set; kernels.h says what each does.
#pragma once

#include "beside.h"
#include "isa.h"
#include "linear.h"
#include "linear_layout.h"

#ifndef RIDGELINE_ISA
#error "kernel headers are for files that are compiled per instruction set"
#endif

namespace ridgeline::RIDGELINE_ISA {

// linear_pack.cpp
std::size_t packed_bytes(Layout layout, std::int64_t n, std::int64_t k);
bool pack_strips(const char* format, const std::byte* raw, PackedMatrix out, std::byte* data, std::int64_t strip_begin,
                 std::int64_t strip_end);
float pack_prescale(const char* format, const std::byte* raw, std::int64_t n, std::int64_t k);
bool decode_row(const char* format, const std::byte* raw_row, std::int64_t k, float* out);

// linear_activations.cpp
std::size_t activation_row_bytes(ActivationKind kind, std::int64_t k);
void quantize_rows(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m, std::int64_t k,
                   std::byte* out, std::size_t out_stride);
#ifdef RIDGELINE_ISA_avx2
void split_terms(const FineBlock* x, std::int64_t count, TermBlock* out);
#endif

// linear.cpp
void linear(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
            std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
            std::byte* scratch, Beside* beside);
std::size_t linear_scratch_bytes();
#ifdef RIDGELINE_ISA_avx512
inline constexpr std::int64_t kLeastOwnRows = 32;
#else
inline constexpr std::int64_t kLeastOwnRows = 128;
#endif

// linear_fine.cpp. False: these weights are no integers.
bool linear_fine(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                 std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::uint8_t* scratch,
                 Beside* beside);

// linear_float.cpp
std::int64_t streamed_rows(Layout layout);

// linear_roofs.cpp
std::int64_t spin_arithmetic(ActivationKind kind, std::int64_t steps);

}  // namespace ridgeline::RIDGELINE_ISA
