#include <stdexcept>
#include <string>

#include "isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ridgeline {
namespace {

#if defined(__x86_64__) && defined(__linux__)

// Whether the CPU has tiles of bytes and bfloat16, and Linux lets this process use them: their 8 KB of state are not
// given to whoever does not ask.
bool may_use_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID 7, EDX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;               // arch_prctl: ARCH_REQ_XCOMP_PERM
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kBf16) == 0 || (edx & kTile) == 0 || (edx & kInt8) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

bool may_use_amx() { return false; }

#endif

Isa find_best_isa() {
#if defined(__x86_64__)
  // The compiler's run-time library reads CPUID, and XGETBV for what the operating system saves.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vnni") &&
                      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
#ifdef RIDGELINE_EMULATED
  if (avx2) return Isa::amx;  // emulated/: slow, for tests
#endif
  if (avx512) return may_use_amx() ? Isa::amx : Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

}  // namespace

Isa best_isa() {
  static const Isa best = find_best_isa();
  return best;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "portable";
  }
}

Isa isa_named(std::string_view name) {
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (name != isa_name(isa)) continue;
    if (isa > best_isa()) throw std::invalid_argument("this CPU has no kernels for " + std::string(name));
    return isa;
  }
  throw std::invalid_argument("no instruction set is called " + std::string(name));
}

}  // namespace ridgeline
