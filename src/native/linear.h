// linear: y = x W^T + b over packed weights. What the program needs of the family; the layouts are in linear_pack.cpp.
//
// Determinism: an output is computed by one fixed sequence of operations over K, whatever the number of rows, the tile
// that it falls in, and the thread: output channels lie in lanes, K runs in order, threads split rows and strips only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline {

// How packed weights are stored. G32/G16: numbers per scale. I4..I8: integer bits; an integer layout multiplies int8
// activations quantized per token and group of 32; BF16 multiplies bf16 activations; F16 and F32 multiply float32.
enum class Layout : std::uint8_t { i4g32, i5g32, i6g16, i8g32, i8g16, bf16, f16, f32 };

// What a row of activations looks like to the kernel of a layout.
enum class ActivationKind : std::uint8_t { int8, bf16, f32 };

inline ActivationKind activation_of(Layout layout) {
  if (layout == Layout::bf16) return ActivationKind::bf16;
  if (layout == Layout::f16 || layout == Layout::f32) return ActivationKind::f32;
  return ActivationKind::int8;
}

// Output channels that one work item covers: threads split a matrix at multiples of this.
inline constexpr std::int64_t kStripChannels = 32;

// A packed matrix; does not own `data` (64-byte aligned). n and k are the true sizes; the padding to whole strips and
// groups is inside `data` and multiplies to zero.
struct PackedMatrix {
  Layout layout;
  std::int64_t n;
  std::int64_t k;
  float prescale;  // power of two that keeps stored fp16 scales normal; 1 where unused
  const std::byte* data;

  std::int64_t num_strips() const { return (n + kStripChannels - 1) / kStripChannels; }
};

}  // namespace ridgeline
