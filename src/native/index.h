// index: what the program needs of the scores that select the tokens attention looks at.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace ridgeline {

// One token's heads over one key a token, bfloat16 tiles of a cache (attention.h). The keys' first `turned` channels meet
// `q_turned` [heads * turned], the others `q` [heads * rest].
struct IndexArgs {
  std::int64_t heads, turned, rest;
  const float *q_turned, *q, *weights;
  CacheBlocks cache;
  TilePlace keys;
  const std::int32_t* block_table;
};

}  // namespace ridgeline
