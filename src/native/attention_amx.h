// attention on AMX tiles, above the AVX-512 kernels.
#pragma once

#include "attention.h"
#include "isa.h"

namespace ridgeline::RIDGELINE_ISA {

// A row a cache format, as kCacheAttention.
const CacheAttention* amx_cache_attention();

}  // namespace ridgeline::RIDGELINE_ISA
