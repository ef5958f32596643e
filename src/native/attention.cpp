// attention: the table of cache formats. Layouts and determinism: attention.h; the way through a context:
// attention_walk.h.
#include "attention_bf16.h"
#include "attention_f16.h"
#include "attention_int8.h"
#include "attention_walk.h"

namespace ridgeline::RIDGELINE_ISA {

const CacheAttention kCacheAttention[kNumCacheFormats] = {row<Bf16Cache>(), row<F16Cache>(), row<Int8Cache>()};

void merge_chunks(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                  std::int64_t chunk_begin, std::int64_t chunk_end, const float* partials, std::byte* memory) {
  float* states = reinterpret_cast<float*>(memory);
  const std::int64_t stride = partial_floats(args.value_dim), outputs = padded_to_16(args.value_dim);
  const std::int64_t vectors = (query_end - query_begin) * args.group;
  for (std::int64_t begin = 0; begin < vectors; begin += kTileVectors) {
    const std::int64_t count = vectors - begin < kTileVectors ? vectors - begin : kTileVectors;
    const float* part = partials + begin * stride;
    std::memcpy(states, part, static_cast<std::size_t>(count * stride) * sizeof(float));
    for (std::int64_t chunk = chunk_begin + 1; chunk < chunk_end; chunk++)
      merge(states, part += vectors * stride, count, outputs);
    for (std::int64_t i = begin; i < begin + count; i++)
      finish(args, states + (i - begin) * stride, query_begin + i / args.group, i % args.group);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
