#include <stdexcept>

#include "kernels.h"

namespace ridgeline {

namespace portable {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
Kernels amx_kernels();
}
#endif

const Kernels& kernels_for(Isa isa) {
  if (isa > best_isa()) throw std::invalid_argument("this CPU does not have the instruction set");
#if defined(__x86_64__)
  if (isa == Isa::amx) {
    static const Kernels amx = avx512::amx_kernels();
    return amx;
  }
  if (isa == Isa::avx512) return avx512::kKernels;
  if (isa == Isa::avx2) return avx2::kKernels;
#endif
  return portable::kKernels;
}

}  // namespace ridgeline
