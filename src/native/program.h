// A bound graph: its operators in order, its memory, and the state table; run() is one step of the model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "operators_attention.h"
#include "operators_cross.h"
#include "operators_entries.h"
#include "operators_head.h"
#include "operators_images.h"
#include "operators_recurrent.h"
#include "roofs.h"
#include "weight_store.h"

namespace ridgeline {

// Wall time goes to the operator in which it passed: an operator begins when the last thread has come to the end of the
// one before it, and ends when the last one has come to its own. All but `nanoseconds` are means over the threads.
struct OperatorTime {
  std::string name, type;
  std::uint64_t calls;
  double nanoseconds;
  double barrier_nanoseconds;  // waiting for others, at its end and within it
  double start_nanoseconds;    // until a thread was at it: its way out of the one before; of the first, its waking
};

// What a step gave one row of the plan that wanted logits. scored: of the tokens that the row had already, from position
// first_scored on, `width` candidates each, their own first.
struct RowSample {
  std::int64_t row;
  SampleResult result;
  std::int64_t first_scored = 0, num_scored = 0, width = 0;
  Candidate* scored = nullptr;
};

class Program {
 public:
  // Throws std::invalid_argument for limits below 1 or an instruction set that the CPU lacks, std::bad_alloc.
  // counts_only: nothing is allocated or kept, so that `memory` says what would be; it cannot run.
  Program(Isa isa, int num_threads, const Limits& limits, std::size_t arena_bytes, bool counts_only = false);

  // ---- building; finish() ends it
  // A layer's cache in a column of the block tables. centres and powers [kv_heads * key_dim], of int8
  // caches: see KeyBalance; or null.
  int add_cache(std::int64_t kv_heads, std::int64_t key_dim, std::int64_t value_dim, std::int64_t column,
                CacheFormat format, bool latent, const float* centres = nullptr, const float* powers = nullptr,
                std::int64_t every = 1);
  const KvPlace& cache(int index) const;
  // Of every row, that many floats that its recurrent operators carry from token to token.
  StatePlace add_state(std::int64_t floats);
  // What decoders see of encoders, in this program and in others; before operators that use it.
  void share_cross(std::shared_ptr<CrossMemory> memory);
  const CrossMemory& cross_memory() const;
  // Where rows of images of so many numbers are put that come with a step: there is one such place.
  const StepImages& take_images(std::int64_t width);
  const RopeTable* rope_table(const std::vector<double>& frequencies, double magnitude);
  // A matrix of n rows of `row_bytes` in `format`, packed by all threads a few megabytes at a time; `release` is called
  // after each, when `raw` read so far need not stay in memory. `raw` is not needed afterwards. Throws
  // std::invalid_argument for an unknown format.
  PackedMatrix pack(const std::string& format, const std::byte* raw, std::int64_t n, std::int64_t k,
                    std::size_t row_bytes, const std::function<void()>& release);
  // A screen (screen.h) of a matrix of n rows of `raw`, k of them a multiple of kScreenGroup; as `pack`.
  PackedMatrix pack_screen(const RawRows& raw, std::int64_t n, std::int64_t k, const std::function<void()>& release) {
    return weights_.pack_screen(kernels_, pool_, raw, n, k, release);
  }
  // Zeros that live as long as the program, in the memory of its weights; null where memory is only counted.
  float* room(std::int64_t floats) {
    return reinterpret_cast<float*>(weights_.allocate(static_cast<std::size_t>(floats) * sizeof(float)));
  }
  // Packed weights in a file (weight_store.h), set up before the first pack().
  WeightStore& weights() { return weights_; }
  ThreadPool& pool() { return pool_; }
  // A copy that lives as long as the program.
  const float* keep(const float* values, std::int64_t count);
  void add(std::unique_ptr<Operator> op);
  // Allocates what the operators need. `logits` must be [SAMPLED, vocab].
  void finish(const View& logits);
  // Throws std::invalid_argument for a view that leaves the arena in the largest step.
  void check_view(const View& view) const;

  // ---- running
  RowTable& rows() { return rows_; }
  const Kernels& kernels() const { return kernels_; }
  // Throws as RowTable::gather does. The sampled token is appended to its row.
  void run(const PlanLine* lines, std::int64_t num_lines, const std::int32_t* new_blocks, std::int64_t num_new_blocks,
           bool sampling, const std::function<void()>& before_sampling = {});
  // What is given to it comes with the next step. Throws std::invalid_argument if no operator takes images.
  StepImages& images();
  // What is told to it is of the next step.
  StepPlaces& places() { return places_; }
  // Copies slots of recurrent states, one after the other; throws as RowTable::copy_slot does.
  void copy_slots(const std::int32_t* pairs, std::int64_t num_pairs);
  // Copies whole cache blocks in the order given; throws std::out_of_range for ids beyond the cache.
  void copy_blocks(const std::int32_t* pairs, std::int64_t num_pairs);
  const std::vector<RowSample>& samples() const { return samples_; }
  std::int64_t num_sampled() const { return step_.num_sampled; }
  const float* logits() const;
  std::int64_t logits_stride() const { return logits_.ld; }
  std::int64_t logits_width() const { return logits_.width; }

  // Of the head that screens, if there is one.
  bool is_learning() const { return head_ && head_->is_learning(); }
  bool has_learned() const { return head_ && head_->has_learned(); }
  Head* head() { return head_; }  // that screens, if there is one
  // Whether memory is ready for what will be used of the cache next.
  bool is_cache_ready() const { return kv_.is_ready(); }
  Head::Counts screened() const { return head_ ? head_->counts() : Head::Counts{}; }

  // Of each operator that has experts, in order: its name, the experts of each row's slots in the last step, [rows,
  // top_k], and top_k.
  struct Chosen {
    std::string name;
    std::span<const std::int32_t> experts;
    std::int64_t top_k;
  };
  std::vector<Chosen> chosen_experts() const;

  std::vector<OperatorTime> times();
  void reset_times();
  std::size_t weight_bytes() const { return weights_.used_bytes(); }
  // GB/s at which the packed weights alone can be read by its threads (roofs.h); needs no memory beside them.
  ReadRates read_bandwidth(int rounds) {
    return measure_read_bandwidth(kernels_, weights_.areas(), pool_, rounds);
  }
  // Its threads', of the integers that multiply the fastest.
  std::vector<double> pace(int rounds) {
    return measure_arithmetic(kernels_, ActivationKind::int8, pool_, rounds);
  }
  // Nanoseconds that its threads need to wait for each other.
  std::vector<double> barrier_time(int rounds) { return measure_barrier(pool_, rounds); }
  bool counts_only() const { return counts_only_; }
  // What was allocated, by kind, in bytes; all that grows with the model, the cache or the limits.
  std::vector<std::pair<std::string, std::size_t>> memory() const;
  std::size_t kv_bytes() const { return kv_.size(); }
  std::size_t kv_block_bytes() const { return kv_block_bytes_; }
  const Limits& limits() const { return rows_.limits(); }
  std::size_t kv_blocks_together() const { return kv_grouped_ > 0 ? kBlocksTogether : 1; }  // see CacheBlocks
  std::size_t arena_bytes() const { return arena_.size(); }
  // Beside the arena, for whichever operator runs.
  std::size_t shared_bytes() const { return shared_.size(); }
  // Of one slot.
  std::size_t state_bytes() const { return static_cast<std::size_t>(state_stride_) * sizeof(float); }
  std::byte* arena() { return arena_.data(); }

 private:
  void run_operators(std::size_t begin, std::size_t end);
  bool run_operator(int thread, std::size_t begin, const Entry& entry);
  void sample_rows(const StepContext& context, Worker& worker);
  void plan_samples();
  void plan_wanted();
  void finish_samples();

  Memory allocated(std::size_t num_bytes) const {
    return counts_only_ ? Memory::counted(num_bytes) : Memory(num_bytes);
  }
  void book_times();
  CacheBlocks cache_blocks() const { return {kv_.data(), kv_block_bytes_, kv_grouped_}; }
  std::vector<TilePlace> places_of_blocks() const;
  void use_blocks(std::size_t count);
  void copy_block(std::int32_t source, std::int32_t target);

  const Kernels& kernels_;
  const bool counts_only_;
  const int num_threads_;
  ReadyMemory kv_;  // before the threads that make it ready
  ThreadPool pool_;
  RowTable rows_;
  WeightStore weights_;
  std::vector<KvPlace> caches_;
  std::vector<std::unique_ptr<RopeTable>> rope_tables_;
  std::vector<std::unique_ptr<Operator>> operators_;
  Head* head_ = nullptr;  // of them, if it screens
  std::vector<std::size_t> column_bytes_;  // that the caches of each column take of a block
  std::size_t kv_block_bytes_ = 0, kv_grouped_ = 0;  // see CacheBlocks
  std::vector<TilePlace> kv_places_;
  std::int64_t state_stride_ = 0;  // floats
  std::shared_ptr<CrossMemory> cross_;
  std::unique_ptr<StepImages> images_;
  StepPlaces places_;
  View logits_;
  bool finished_ = false;

  Memory arena_, activations_, partials_, shared_, states_;
  std::vector<Memory> scratch_;   // of each thread
  std::vector<Cursor> cursors_;   // of each thread
  std::int64_t partials_floats_ = 0;

  // One row of logits to be sampled or, with a token, scored.
  struct SampleItem {
    std::int64_t sample, logits_row, token_id;
    Candidate* scores;
    SampleFault fault;
  };

  Step step_;
  std::vector<RowSample> samples_;
  std::vector<SampleItem> items_;
  std::vector<Wanted> wanted_;  // of each row of logits, if the head may screen them
  std::vector<Candidate> candidates_;  // of all samples

  // What a thread saw of an operator in the last step: when it came to it, when it was done, and what it waited within.
  struct Mark {
    std::uint64_t started = 0, arrived = 0, waited = 0;
  };
  // Of an operator in all steps since the last reset; threads' ticks are added up.
  struct Times {
    std::uint64_t calls = 0, ticks = 0, start_ticks = 0, waited_ticks = 0;
  };
  std::vector<std::vector<Mark>> marks_;  // of each thread: of each operator, then of sampling
  std::uint64_t step_begin_ = 0;
  std::size_t num_marked_ = 0;  // of the last step, not booked yet
  std::vector<const Operator*> next_weights_;  // of each operator: whose weights to ask for at its end, or null
  std::vector<const Operator*> next_reads_;    // and what of the cache is asked for from then on, or null
  std::vector<CacheReads> reads_;              // of each thread
  std::vector<Times> times_;
};

}  // namespace ridgeline
