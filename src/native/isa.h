// The instruction set that a kernel file is being compiled for.
//
// Kernel files are compiled once per set with RIDGELINE_ISA=avx512|avx2|portable and put everything into
// `namespace ridgeline::RIDGELINE_ISA`, so that no inline function of one set can be linked into another.
#pragma once

#include <string_view>

#ifdef RIDGELINE_ISA
#define RIDGELINE_STRING_(x) #x
#define RIDGELINE_STRING(x) RIDGELINE_STRING_(x)
#endif

namespace ridgeline {

enum class Isa { portable, avx2, avx512 };

// The best set that this CPU and operating system can run (CPUID and XGETBV).
Isa best_isa();
std::string_view isa_name(Isa isa);

}  // namespace ridgeline
