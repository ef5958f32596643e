// The table of kernels of one instruction set: all that the program calls. One row a kernel; each family fills in its own
// rows in kernels.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "linear.h"

namespace ridgeline {

struct AttentionArgs;  // attention.h

struct Kernels {
  Isa isa;

  // ---- linear (linear.cpp, linear_pack.cpp)
  // Bytes of `n` x `k` weights in `layout`.
  std::size_t (*packed_bytes)(Layout layout, std::int64_t n, std::int64_t k);
  // Packs strips [strip_begin, strip_end) of a matrix from raw rows of `format` (a GGUF format name; `raw` has n rows of
  // whole blocks). False if the format has no row for this layout.
  bool (*pack_strips)(const char* format, const std::byte* raw, PackedMatrix out, std::byte* data,
                      std::int64_t strip_begin, std::int64_t strip_end);
  // Power-of-two prescale for a matrix of `format` (1 where unused).
  float (*pack_prescale)(const char* format, const std::byte* raw, std::int64_t n, std::int64_t k);
  // Bytes of one row of `k` activations.
  std::size_t (*activation_row_bytes)(ActivationKind kind, std::int64_t k);
  // x [m, k], row stride ldx floats -> m rows of activation_row_bytes each.
  void (*quantize_rows)(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m, std::int64_t k,
                        std::byte* out);
  // y[r, c] = bias[c] + sum_k x[r, k] w[c, k], for rows [0, m) and the channels of strips [strip_begin, strip_end); y has
  // row stride ldy; channels beyond n are not written. `activations` are rows of `kind`, 64-byte aligned; bias may be
  // null. scratch: linear_scratch_bytes, 64-byte aligned, one per thread.
  void (*linear)(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                 std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                 std::byte* scratch);
  std::size_t (*linear_scratch_bytes)();
  // One raw row of `format` as float32, exactly (embedding lookup reads the file's own rows, mapped). False if unknown.
  bool (*decode_row)(const char* format, const std::byte* raw_row, std::int64_t k, float* out);

  // ---- the other families add their rows here (norm, rope, attention, elementwise, sample)
};

const Kernels& kernels_for(Isa isa);

}  // namespace ridgeline
