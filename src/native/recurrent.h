// recurrent: what the program needs of the kernels whose rows carry a state from token to token.
//
// A state lies in tiles of 16 lanes, each tile contiguous, lanes without a channel unused. Every kernel goes token by
// token, and its bits do not depend on how a row's tokens are parted over calls.
#pragma once

#include <cstdint>

namespace ridgeline {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t tiles_of(std::int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// x [tokens, channels] -> y. weight [tiles][taps][16], bias [tiles][16] or null; state [tiles][taps - 1][16], oldest first.
struct ConvArgs {
  std::int64_t channels, taps;
  bool silu;
  const float *weight, *bias;
  const float* x;
  std::int64_t ldx;
  float* y;
  std::int64_t ldy;
};
constexpr std::int64_t kMaxTaps = 32;

// Mamba. a [tiles][size][16] and d [tiles][16]; x, dt, y [tokens, channels]; b, c [tokens, size]; state [tiles][size][16].
struct SelectiveArgs {
  std::int64_t channels, size;
  const float *a, *d;
  const float *x, *dt, *b, *c;
  std::int64_t ldx, ldt, ldb, ldc;
  float* y;
  std::int64_t ldy;
};

// One head of Mamba 2. x, y [tokens, head_dim], dt [tokens], or null where every dt is 1; b, c [tokens, size]; state [tiles
// of head_dim][size][16].
struct SsdArgs {
  std::int64_t head_dim, size;
  float a, d, dt_bias, dt_low, dt_high;
  const float *x, *b, *c, *dt;
  std::int64_t ldx, ldb, ldc, ldt;
  float* y;
  std::int64_t ldy;
};

// One value head of the delta rule. q, k [tokens, key_dim], v, y [tokens, value_dim], beta [tokens], g [tokens] or, with
// a decay by channel, [tokens, key_dim], as dt_bias [1] or [key_dim]; floor: of a decay's logarithm, 0 for none; state [tiles of value_dim][key_dim][16].
struct DeltaArgs {
  std::int64_t key_dim, value_dim;
  bool by_channel;
  float a, floor;
  const float* dt_bias;
  const float *q, *k, *v, *g, *beta;
  std::int64_t ldq, ldk, ldv, ldg, ldbeta;
  float* y;
  std::int64_t ldy;
};

// The real-gated linear recurrent unit. rate [tiles][16]: -8 softplus(a); x, r, i, y [tokens, channels]; state
// [tiles][16]. starts: the first token is the row's first.
struct LruArgs {
  std::int64_t channels;
  const float* rate;
  const float *x, *r, *i;
  std::int64_t ldx, ldr, ldi;
  float* y;
  std::int64_t ldy;
  bool starts;
};

// Entries of `every` tokens. x, scores [tokens, channels], or twice as many if it overlaps; bias [every, as many]; y
// [tokens, channels]; position: of the first token in its row; state [tiles][numbers][16]: of the tokens since the last
// entry, and if it overlaps of their first half and of that of those before.
struct CompressArgs {
  std::int64_t channels, every;
  bool overlaps;
  const float* bias;
  const float *x, *scores;
  std::int64_t ldx, lds;
  float* y;
  std::int64_t ldy, position;

  std::int64_t numbers() const { return overlaps ? 9 : 3; }
};

// x [tokens, channels] -> each of `count` outputs, y = x + weight (x' - x); weights [tiles][16]; state [tiles][16].
constexpr int kMaxShifts = 8;
struct ShiftArgs {
  std::int64_t channels;
  int count;
  const float* weight[kMaxShifts];
  const float* x;
  std::int64_t ldx;
  float* y[kMaxShifts];
  std::int64_t ldy[kMaxShifts];
};

// One head of RWKV-7. r, w, k, v, a, y, own [tokens, head_dim]; direction, change, bonus [head_dim]; state [tiles of
// head_dim][head_dim][16].
struct WkvArgs {
  std::int64_t head_dim;
  const float *direction, *change, *bonus;
  const float *r, *w, *k, *v, *a;
  std::int64_t ldr, ldw, ldk, ldv, lda;
  float *y, *own;
  std::int64_t ldy, ldo;
};

}  // namespace ridgeline
