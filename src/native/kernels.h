// The table of kernels of one instruction set: all that the program calls. One row a kernel; each family fills in its own
// rows in kernels.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "bandwidth.h"
#include "beside.h"
#include "elementwise.h"
#include "index.h"
#include "isa.h"
#include "linear.h"
#include "norm.h"
#include "recurrent.h"
#include "rope.h"
#include "sample.h"
#include "screen.h"
#include "streams.h"

namespace ridgeline {

struct Kernels {
  Isa isa;

  // ---- linear (linear.cpp, linear_pack.cpp)
  // Bytes of `n` x `k` weights in `layout`.
  std::size_t (*packed_bytes)(Layout layout, std::int64_t n, std::int64_t k);
  // Packs strips [strip_begin, strip_end) of a matrix from raw rows of `format` (a GGUF format name; `raw` has n rows of
  // whole blocks). False if the format has no row for this layout.
  bool (*pack_strips)(const char* format, const std::byte* raw, PackedMatrix out, std::byte* data,
                      std::int64_t strip_begin, std::int64_t strip_end);
  // Power-of-two prescale for a matrix of `format` (1 where unused).
  float (*pack_prescale)(const char* format, const std::byte* raw, std::int64_t n, std::int64_t k);
  // What integer layouts multiply unless asked otherwise.
  ActivationKind integer_activations;
  ActivationKind activation_of(Layout layout) const { return ridgeline::activation_of(layout, integer_activations); }
  // Bytes of one row of `k` activations.
  std::size_t (*activation_row_bytes)(ActivationKind kind, std::int64_t k);
  // x [m, k], row stride ldx floats -> m rows of activation_row_bytes each, out_stride bytes apart. Numbers from a
  // multiple of 64 on begin at the activation_row_bytes of those before, so that a row can be made piece by piece; but
  // not of int16, whose rows are made whole (by_pieces).
  void (*quantize_rows)(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m, std::int64_t k,
                        std::byte* out, std::size_t out_stride);
  // y[r, c] = bias[c] + sum_k x[r, k] w[c, k], for rows [0, m) and the channels of strips [strip_begin, strip_end); y has
  // row stride ldy; channels beyond n are not written. `activations` are rows of `kind`, 64-byte aligned; bias may be
  // null. scratch: linear_scratch_bytes, 64-byte aligned, one per thread. beside: what of several rows asks memory for
  // meanwhile, or null.
  void (*linear)(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                 std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                 std::byte* scratch, Beside* beside);
  std::size_t (*linear_scratch_bytes)();
  // Whether asking so pays only for what stays in cores' own caches, not for what falls into the last one.
  bool asks_for_own = false;
  // Up to so many rows of integers a screen's copy is better than the weights' first terms (operators_head.h), or so many as it
  // is told; but from `begin` to below `end` rows its kernel takes longer than the weights' own.
  std::int64_t copied_rows = 0;
  struct {
    std::int64_t begin, end;
  } whole_rows = {0, 0};
  // From so many rows of integers on a thread is as quick with all weights as with its share of them for all rows.
  std::int64_t least_own_rows;
  // Rows up to which weights of `layout` are read in several plain streams (bandwidth.cpp's quarters), as hardware
  // prefetches them, and not in one that asks ahead.
  std::int64_t (*streamed_rows)(Layout layout);
  // Multiplies in registers only, for benchmarks; returns the operations done (a multiply-add is two).
  std::int64_t (*spin_arithmetic)(ActivationKind kind, std::int64_t steps);
  // bandwidth.cpp: from front to back; four quarters side by side, as hardware prefetchers like it; a copy
  ReadBytes read_forward, read_quarters;
  void (*copy_forward)(std::byte* to, const std::byte* from, std::size_t bytes);
  // One raw row of `format` as float32, exactly (embedding lookup reads the file's own rows, mapped). False if unknown.
  bool (*decode_row)(const char* format, const std::byte* raw_row, std::int64_t k, float* out);

  // All below: x [rows, *] with a row stride of ldx floats, and so for every array; y may be x.

  // ---- norm (norm.cpp)
  void (*norm)(const NormArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows);
  // total = a + b, y = norm(total)
  void (*add_norm)(const NormArgs& args, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                   float* total, std::int64_t ldt, float* y, std::int64_t ldy, std::int64_t rows);

  // ---- rope (rope.cpp): one head of `rows` tokens at successive positions
  void (*rope)(const RopeArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
               std::int64_t first_position, std::int64_t rows);

  // ---- elementwise (elementwise.cpp)
  void (*add_rows)(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* y, std::int64_t ldy,
                   std::int64_t rows, std::int64_t cols);
  void (*scale_rows)(float factor, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                     std::int64_t cols);
  // y = sigmoid(g) * x, where g is one number a row
  void (*weigh_rows)(const float* x, std::int64_t ldx, const float* g, std::int64_t ldg, float* y, std::int64_t ldy,
                     std::int64_t rows, std::int64_t cols);
  // y = y + weight * x, of one row
  void (*add_scaled)(float weight, const float* x, float* y, std::int64_t cols);
  void (*softcap_rows)(float cap, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                       std::int64_t cols);
  // y = activation(gate) * up
  void (*gated_rows)(Activation activation, const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu,
                     float* y, std::int64_t ldy, std::int64_t rows, std::int64_t cols);
  // y = activation(x)
  void (*activate_rows)(Activation activation, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                        std::int64_t rows, std::int64_t cols);
  // y = x (positive x + 1/2) above 0, else negative (e^min(x, -1e-6) - 1 - x) + x / 2
  void (*xielu_rows)(float positive, float negative, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                     std::int64_t rows, std::int64_t cols);

  // ---- attention (attention_cache.cpp, attention.cpp)
  // Of each CacheFormat.
  const CacheWrites* cache_writes;
  const CacheAttention* cache_attention;
  // Asks for memory that will be written.
  void (*prefetch_slots)(const std::byte* begin, std::size_t num_bytes);
  // All chunks [chunk_begin, chunk_end) of partials [chunks, vectors, partial_floats] into args.out.
  void (*merge_chunks)(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                       std::int64_t chunk_begin, std::int64_t chunk_end, const float* partials, std::byte* scratch);

  // ---- recurrent (causal_conv.cpp, compress.cpp, state_space.cpp, delta_rule.cpp): `count` tokens of one row, whose state is carried
  // on; of the tiles [tile_begin, tile_end), or of one head.
  void (*causal_conv)(const ConvArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                      float* state);
  void (*compress)(const CompressArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                   float* state);
  void (*selective_scan)(const SelectiveArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                         float* state);
  void (*ssd_scan)(const SsdArgs& args, std::int64_t count, float* state);
  std::size_t (*delta_scratch_bytes)(std::int64_t key_dim);
  void (*delta_rule)(const DeltaArgs& args, std::int64_t count, float* state, std::byte* scratch);

  // rg_lru.cpp, wkv7.cpp
  void (*rg_lru)(const LruArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count, float* state);
  void (*token_shift)(const ShiftArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                      float* state);
  std::size_t (*wkv7_scratch_bytes)(std::int64_t head_dim);
  void (*wkv7)(const WkvArgs& args, std::int64_t count, float* state, std::byte* scratch);

  // ---- index (index.cpp): scores [blocks * 16] of the tokens of a row's first blocks
  std::size_t (*index_scratch_bytes)(std::int64_t heads, std::int64_t channels);
  void (*index_scores)(const IndexArgs& args, std::int64_t blocks, float* scores, std::byte* scratch);
  // maxima [heads, ld]: the most that q.k is in each run of `tokens` tokens, of the first `visible` ones
  void (*index_maxima)(const IndexArgs& args, std::int64_t visible, std::int64_t tokens, float* maxima, std::int64_t ld,
                       std::byte* scratch);

  // ---- streams (streams.cpp)
  void (*mix_rows)(const MixArgs& args, std::int64_t rows, std::int64_t cols);
  // y = x sqrt(mean(like^2) / max(mean(x^2), floor))
  void (*match_rows)(float floor, const float* x, std::int64_t ldx, const float* like, std::int64_t ldl, float* y,
                     std::int64_t ldy, std::int64_t rows, std::int64_t cols);
  // y = max(0, x - (mean + z std))
  void (*keep_rows)(float z, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                    std::int64_t cols);

  // ---- screen (screen.cpp); k is a multiple of kScreenGroup
  // One channel's weights in kScreenFormat: out[screen_row_bytes]. Numbers that are not finite are NaN there.
  void (*screen_row)(const float* w, std::int64_t k, std::byte* out);
  // Of a channel and what its screen multiplies; what is usual is positive.
  ChannelNorms (*screen_channel)(const float* w, const float* screen, const ScreenUsual& usual, std::int64_t k);
  // Of a row as the weights and as the screen multiply it.
  RowNorms (*screen_activations)(const float* exact, const float* screened, const ScreenUsual& usual, std::int64_t k);
  // The most that logits of each strip's channels can be: y [channels] by the screen, to which what is known along
  // directions is added; apart [channels], along [kDirections, channel_stride]; strips and out of a strip each.
  void (*screen_reach)(float* y, std::int64_t channels, std::int64_t channel_stride, const float* apart,
                       const float* along, const StripNorms* strips, const RowNorms& row, float* out);
  // The same of y by the weights and activations' first terms; NaN where one is no number.
  void (*terms_reach)(const float* y, std::int64_t channels, const StripNorms* strips, const RowNorms& row, float* out);
  // Of a strip's logits y [n] the largest score with noise and the lowest channel that has it; {draw.best, -1}, if none has more.
  Candidate (*screen_best)(const float* y, std::int64_t strip, std::int64_t n, const ScreenDraw& draw);
  // Of strips from first_strip on, as screen_reach (or, without `apart`, terms_reach) left them, the most that a channel's
  // score with noise can be, or the lowest float where that is less than what one channel has at least: keys; and that least,
  // draw.best or more.
  float (*screen_drawn)(const float* y, std::int64_t channels, const float* apart, const StripNorms* strips,
                        const RowNorms& row, const ScreenDraw& draw, std::int64_t first_strip, const float* reach, float* keys);
  // What a row of activations stands for: out[k]; and where products of int16's second terms are left out, what these
  // are of it, rest[k], elsewhere zero; rest may be null.
  void (*decode_activations)(ActivationKind kind, const std::byte* row, std::int64_t k, float* out, float* rest);
  // What is multiplied of a packed channel: out[k]; first: of its first bytes or digits alone. False where that is what was
  // packed, but for the rounding of scales.
  bool (*unpack_channel)(const PackedMatrix& w, std::int64_t channel, bool first, float* out);

  // ---- sample (sample.cpp)
  std::size_t (*sample_scratch_bytes)(std::int64_t vocab, std::int64_t max_context);
  // The token that follows `tokens` [num_tokens] given logits [vocab].
  void (*sample)(const SamplingArgs& args, const float* logits, std::int64_t vocab, const std::int32_t* tokens,
                 std::int64_t num_tokens, std::byte* scratch, SampleResult& result);
  // The log-probabilities of a token and of the num_top likeliest: out[1 + num_top], the token's first.
  SampleFault (*score)(const float* logits, std::int64_t vocab, std::int32_t token_id, std::int64_t num_top,
                       std::byte* scratch, Candidate* out);
};

const Kernels& kernels_for(Isa isa);

}  // namespace ridgeline
