// The 16 channels of a strip as values of one instruction set: every kernel of the family is written
// once, in terms of these.
#pragma once

#if defined(RIDGELINE_ISA_avx512)
#include "linear_lanes_avx512.h"
#elif defined(RIDGELINE_ISA_avx2)
#include "linear_lanes_avx2.h"
#else
#include "linear_lanes_portable.h"
#endif
