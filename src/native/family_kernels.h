// The functions of one instruction set outside the linear family; kernels.h says what each does.
#pragma once

#include "attention.h"
#include "bandwidth.h"
#include "elementwise.h"
#include "index.h"
#include "isa.h"
#include "norm.h"
#include "recurrent.h"
#include "rope.h"
#include "sample.h"
#include "screen.h"
#include "streams.h"

#ifndef RIDGELINE_ISA
#error "kernel headers are for files that are compiled per instruction set"
#endif

namespace ridgeline::RIDGELINE_ISA {

// bandwidth.cpp
std::uint64_t read_forward(const std::byte* data, std::size_t bytes, std::size_t passes);
std::uint64_t read_quarters(const std::byte* data, std::size_t bytes, std::size_t passes);
void copy_forward(std::byte* to, const std::byte* from, std::size_t bytes);

// norm.cpp
void norm(const NormArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows);
void add_norm(const NormArgs& args, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* total,
              std::int64_t ldt, float* y, std::int64_t ldy, std::int64_t rows);

// rope.cpp
void rope(const RopeArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
          std::int64_t first_position, std::int64_t rows);

// elementwise.cpp
void add_rows(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* y, std::int64_t ldy,
              std::int64_t rows, std::int64_t cols);
void scale_rows(float factor, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                std::int64_t cols);
void weigh_rows(const float* x, std::int64_t ldx, const float* g, std::int64_t ldg, float* y, std::int64_t ldy,
                std::int64_t rows, std::int64_t cols);
void add_scaled(float weight, const float* x, float* y, std::int64_t cols);
void softcap_rows(float cap, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                  std::int64_t cols);
void gated_rows(Activation activation, const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y,
                std::int64_t ldy, std::int64_t rows, std::int64_t cols);
void activate_rows(Activation activation, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                   std::int64_t rows, std::int64_t cols);
void xielu_rows(float positive, float negative, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                std::int64_t rows, std::int64_t cols);

// attention_cache.cpp
extern const CacheWrites kCacheWrites[kNumCacheFormats];
void prefetch_slots(const std::byte* begin, std::size_t num_bytes);

// attention.cpp
extern const CacheAttention kCacheAttention[kNumCacheFormats];
void merge_chunks(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end,
                  std::int64_t chunk_begin, std::int64_t chunk_end, const float* partials, std::byte* scratch);

// causal_conv.cpp
void causal_conv(const ConvArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                 float* state);

// compress.cpp
void compress(const CompressArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
              float* state);

// state_space.cpp
void selective_scan(const SelectiveArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                    float* state);
void ssd_scan(const SsdArgs& args, std::int64_t count, float* state);

// delta_rule.cpp
std::size_t delta_scratch_bytes(std::int64_t key_dim);
void delta_rule(const DeltaArgs& args, std::int64_t count, float* state, std::byte* scratch);

// rg_lru.cpp
void rg_lru(const LruArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count, float* state);
void token_shift(const ShiftArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                 float* state);

// wkv7.cpp
std::size_t wkv7_scratch_bytes(std::int64_t head_dim);
void wkv7(const WkvArgs& args, std::int64_t count, float* state, std::byte* scratch);

// index.cpp
std::size_t index_scratch_bytes(std::int64_t heads, std::int64_t channels);
void index_scores(const IndexArgs& args, std::int64_t blocks, float* scores, std::byte* scratch);
void index_maxima(const IndexArgs& args, std::int64_t visible, std::int64_t tokens, float* maxima, std::int64_t ld,
                  std::byte* scratch);

// streams.cpp
void mix_rows(const MixArgs& args, std::int64_t rows, std::int64_t cols);
void match_rows(float floor, const float* x, std::int64_t ldx, const float* like, std::int64_t ldl, float* y,
                std::int64_t ldy, std::int64_t rows, std::int64_t cols);
void keep_rows(float z, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
               std::int64_t cols);

// screen.cpp
void screen_row(const float* w, std::int64_t k, std::byte* out);
ChannelNorms screen_channel(const float* w, const float* screen, const ScreenUsual& usual, std::int64_t k);
RowNorms screen_activations(const float* exact, const float* screened, const ScreenUsual& usual, std::int64_t k);
void screen_reach(float* y, std::int64_t channels, std::int64_t channel_stride, const float* apart, const float* along,
                  const StripNorms* strips, const RowNorms& row, float* out);
void terms_reach(const float* y, std::int64_t channels, const StripNorms* strips, const RowNorms& row, float* out);
void decode_activations(ActivationKind kind, const std::byte* row, std::int64_t k, float* out, float* rest);

// screen_draw.cpp
Candidate screen_best(const float* y, std::int64_t strip, std::int64_t n, const ScreenDraw& draw);
float screen_drawn(const float* y, std::int64_t channels, const float* apart, const StripNorms* strips, const RowNorms& row,
                   const ScreenDraw& draw, std::int64_t first_strip, const float* reach, float* keys);

// sample.cpp
std::size_t sample_scratch_bytes(std::int64_t vocab, std::int64_t max_context);
void sample(const SamplingArgs& args, const float* logits, std::int64_t vocab, const std::int32_t* tokens,
            std::int64_t num_tokens, std::byte* scratch, SampleResult& result);
SampleFault score(const float* logits, std::int64_t vocab, std::int32_t token_id, std::int64_t num_top,
                  std::byte* scratch, Candidate* out);

}  // namespace ridgeline::RIDGELINE_ISA
