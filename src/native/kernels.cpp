// The table of one instruction set; kernels.h says what each row does.
#include "kernels.h"

#include "family_kernels.h"
#include "linear_kernels.h"

namespace ridgeline::RIDGELINE_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {
    .isa = Isa::RIDGELINE_ISA,
    .packed_bytes = packed_bytes,
    .pack_strips = pack_strips,
    .pack_prescale = pack_prescale,
    .integer_activations = ActivationKind::int8,
    .activation_row_bytes = activation_row_bytes,
    .quantize_rows = quantize_rows,
    .linear = linear,
    .linear_scratch_bytes = linear_scratch_bytes,
    .least_own_rows = kLeastOwnRows,
    .streamed_rows = streamed_rows,
    .spin_arithmetic = spin_arithmetic,
    .read_forward = read_forward,
    .read_quarters = read_quarters,
    .copy_forward = copy_forward,
    .decode_row = decode_row,
    .norm = norm,
    .add_norm = add_norm,
    .rope = rope,
    .add_rows = add_rows,
    .scale_rows = scale_rows,
    .weigh_rows = weigh_rows,
    .add_scaled = add_scaled,
    .softcap_rows = softcap_rows,
    .gated_rows = gated_rows,
    .activate_rows = activate_rows,
    .xielu_rows = xielu_rows,
    .cache_writes = kCacheWrites,
    .cache_attention = kCacheAttention,
    .prefetch_slots = prefetch_slots,
    .merge_chunks = merge_chunks,
    .causal_conv = causal_conv,
    .compress = compress,
    .selective_scan = selective_scan,
    .ssd_scan = ssd_scan,
    .delta_scratch_bytes = delta_scratch_bytes,
    .delta_rule = delta_rule,
    .rg_lru = rg_lru,
    .token_shift = token_shift,
    .wkv7_scratch_bytes = wkv7_scratch_bytes,
    .wkv7 = wkv7,
    .index_scratch_bytes = index_scratch_bytes,
    .index_scores = index_scores,
    .index_maxima = index_maxima,
    .mix_rows = mix_rows,
    .match_rows = match_rows,
    .keep_rows = keep_rows,
    .screen_row = screen_row,
    .screen_channel = screen_channel,
    .screen_activations = screen_activations,
    .screen_reach = screen_reach,
    .decode_activations = decode_activations,
    .sample_scratch_bytes = sample_scratch_bytes,
    .sample = sample,
    .score = score,
};

}  // namespace ridgeline::RIDGELINE_ISA
