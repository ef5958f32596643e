// linear of fine rows: a file apart, since tiles take a minute to compile.
#include "linear_tiles.h"

namespace ridgeline::RIDGELINE_ISA {

bool linear_fine(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                 std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::uint8_t* scratch,
                 Beside* beside) {
  return with_integer_layout(w.layout, [&]<Layout L>() {
    const auto* x = reinterpret_cast<const FineBlock*>(activations);
    linear_integer<L>(w, x, m, strip_begin, strip_end, bias, y, ldy, scratch, beside);
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
