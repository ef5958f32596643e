// The table of AMX: that of AVX-512 with the rows replaced that tiles serve better.
#include "attention_amx.h"
#include "kernels.h"
#include "linear_amx.h"

namespace ridgeline::RIDGELINE_ISA {

extern const Kernels kKernels;

Kernels amx_kernels() {
  Kernels out = kKernels;
  out.isa = Isa::amx;
  out.cache_attention = amx_cache_attention();
  out.packed_bytes = packed_bytes_amx;
  out.pack_strips = pack_strips_amx;
  out.pack_prescale = pack_prescale_amx;
  out.integer_activations = ActivationKind::int16;
  out.quantize_rows = quantize_rows_amx;
  out.unpack_channel = unpack_channel_amx;
  out.decode_activations = decode_activations_amx;
  out.linear = linear_amx;
  out.linear_scratch_bytes = linear_amx_scratch_bytes;
  out.copied_rows = 16;
  out.whole_rows = {3, 5};
  out.asks_for_own = true;
  out.least_own_rows = 128;
  out.spin_arithmetic = spin_arithmetic_amx;
  return out;
}

}  // namespace ridgeline::RIDGELINE_ISA
