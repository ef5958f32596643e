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

// Ascending: a CPU that has one has those before it. `amx` is the kernels of avx512 with some rows replaced.
enum class Isa { portable, avx2, avx512, amx };

// The best set that this CPU and operating system can run (CPUID and XGETBV). The first call asks the system for AMX.
Isa best_isa();
std::string_view isa_name(Isa isa);
// Throws std::invalid_argument for a name of no set, or of one that this CPU does not have.
Isa isa_named(std::string_view name);

}  // namespace ridgeline
