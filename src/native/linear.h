// linear: y = x W^T + b over packed weights. What the program needs of the family; the layouts are in linear_pack.cpp.
//
// Determinism: an output is computed by one fixed sequence of operations over K, whatever the number of rows, the tile
// that it falls in, and the thread: output channels lie in lanes, K runs in order, threads split rows and strips only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ridgeline {

// How packed weights are stored: integer bits, weights per scale, and `m` where groups have a minimum besides a scale.
// The layouts nl and mx have values from a table of 16 (IQ4_NL, MXFP4). Integer layouts multiply int8 activations, bf16 multiplies bf16 activations, f16 and f32 multiply float32.
enum class Layout : std::uint8_t {
  i4g32, i4g32m, i4g32nl, i4g32mx, i4g16, i4g16m, i5g32, i5g32m, i6g16, i8g32, bf16, f16, f32
};

// What a row of activations looks like to a kernel. int8: one scale per token and group of 32. int8x2: a second int8
// term holds what the first left over (about 15 bits), for twice the arithmetic. int16: two such terms under one scale per
// token and stretch of K (linear_amx.h), which weights in common integers multiply. An instruction set's integer layouts
// take either the first two or the third. int16_first: the same rows, times the first bytes alone of weights (of six bits
// and more), for half of the arithmetic: no more than a screen (screen.h).
enum class ActivationKind : std::uint8_t { int8, int8x2, int16, bf16, f32, int16_first };
inline constexpr const char* kActivationKinds[] = {"int8", "int8x2", "int16", "bf16", "f32", "int16_first"};

// The kind that rows lie as.
static inline ActivationKind stored_kind(ActivationKind kind) {
  return kind == ActivationKind::int16_first ? ActivationKind::int16 : kind;
}

// What a layout multiplies unless asked otherwise; `integers` is what an instruction set's integer layouts do. (Functions
// here are static: kernel files are compiled for several instruction sets, and the linker must not share their copies.)
static inline ActivationKind activation_of(Layout layout, ActivationKind integers) {
  if (layout == Layout::bf16) return ActivationKind::bf16;
  if (layout == Layout::f16 || layout == Layout::f32) return ActivationKind::f32;
  return integers;
}

// Whether a row of this kind can be made piece by piece.
static inline bool by_pieces(ActivationKind kind) { return kind != ActivationKind::int16; }

struct FormatLayout {
  std::string_view format;  // GGUF name
  Layout layout;
};

inline constexpr FormatLayout kFormatLayouts[] = {
    {"F32", Layout::f32},      {"F16", Layout::f16},    {"BF16", Layout::bf16},   {"Q4_0", Layout::i4g32},
    {"Q4_1", Layout::i4g32m},  {"Q5_0", Layout::i5g32}, {"Q5_1", Layout::i5g32m}, {"Q8_0", Layout::i8g32},
    {"Q2_K", Layout::i4g16m},  {"Q3_K", Layout::i4g16}, {"Q4_K", Layout::i4g32m}, {"Q5_K", Layout::i5g32m},
    {"Q6_K", Layout::i6g16},   {"IQ4_NL", Layout::i4g32nl}, {"MXFP4", Layout::i4g32mx},
};

// The layout that weights of a GGUF format are packed in; nothing for formats without a row.
static constexpr std::optional<Layout> layout_of(std::string_view format) {
  for (const FormatLayout& row : kFormatLayouts)
    if (row.format == format) return row.layout;
  return std::nullopt;
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
