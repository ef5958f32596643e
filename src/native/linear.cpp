// linear by the layout of its weights and the kind of its activations; linear_tile.h and linear_tiles.h have what integers do.
#include "linear_float.h"
#include "linear_tiles.h"

namespace ridgeline::RIDGELINE_ISA {

std::size_t linear_scratch_bytes() { return kScratchBytes; }

void linear(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
            std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
            std::int64_t ldy, std::byte* scratch, Beside* beside) {
  auto* panel = reinterpret_cast<std::uint8_t*>(scratch);
  if (kind == ActivationKind::int8x2 && linear_fine(w, activations, m, strip_begin, strip_end, bias, y, ldy, panel, beside))
    return;
  const bool is_integer = with_integer_layout(w.layout, [&]<Layout L>() {
    const auto* x = reinterpret_cast<const ActivationBlock*>(activations);
    linear_integer<L>(w, x, m, strip_begin, strip_end, bias, y, ldy, panel, beside);
  });
  if (!is_integer) linear_float(w, activations, m, strip_begin, strip_end, bias, y, ldy);
}

}  // namespace ridgeline::RIDGELINE_ISA
