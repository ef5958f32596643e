// AMX tiles behind small named functions. A thread configures its tiles (`TileConfig`), uses them, and releases them.
//
// A tile is up to 16 rows of up to 64 bytes. multiply<C, A, B>: C [m][n] 32-bit += A [m][k] B [k / 4][n][4] for bytes
// (exact sums of products), and A [m][k] B [k / 2][n][2] for bfloat16: even and odd k are summed apart by fused
// multiply-adds, in order of k, from zero, then added to each other and to C (Intel SDM, TDPBF16PS); subnormal numbers
// count as zero. An output depends on its row of A and its column of B only, whatever the number of rows.
//
// In assembly, because the compiler's intrinsics do not say which memory they read.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

#ifdef RIDGELINE_ISA

#ifdef RIDGELINE_EMULATED
#include "emulated/tiles.h"
#else

namespace ridgeline::RIDGELINE_ISA {

static inline void configure_tiles(const std::uint8_t (&bytes)[64]) { __asm__ volatile("ldtilecfg %0" : : "m"(bytes)); }
static inline void release_tiles() { __asm__ volatile("tilerelease"); }

template <int Tile>
static inline void load_tile(const void* p, std::int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
static inline void store_tile(void* p, std::int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
static inline void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int C, int A, int B>
static inline void multiply_bytes(void) {  // signed times signed
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
static inline void multiply_bytes_unsigned(void) {  // signed times unsigned
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
static inline void multiply_bfloats(void) {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

}  // namespace ridgeline::RIDGELINE_ISA

#endif

namespace ridgeline::RIDGELINE_ISA {

class TileConfig {
 public:
  TileConfig() { std::memset(bytes_, 0, sizeof bytes_); bytes_[0] = 1; }
  // A tile of no rows is none.
  void shape(int tile, std::int64_t rows, std::int64_t row_bytes) {
    if (rows == 0) return;
    bytes_[48 + tile] = static_cast<std::uint8_t>(rows);
    bytes_[16 + 2 * tile] = static_cast<std::uint8_t>(row_bytes);
  }
  // All tiles become zero.
  void load() const { configure_tiles(bytes_); }

 private:
  alignas(64) std::uint8_t bytes_[64];
};

}  // namespace ridgeline::RIDGELINE_ISA

#endif
