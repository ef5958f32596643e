#include "program.h"

#include "operators_experts.h"
#include "operators_blocks.h"
#include "operators_latent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace ridgeline {
namespace {

// Bytes of cache that are ready before they are used: a prompt of 700 tokens of a small model for each row, twenty
// thousand tokens in all, a burst of 64 requests and the one behind it; two thousand of a large one's. First use costs
// 3 ms a MB where pages come from a hypervisor: a quarter of that burst's prompts, and answers stop for 15 ms. Who runs one
// row would pay for the burst in memory that it never uses.
std::size_t ready_ahead(std::int64_t max_rows) {
  return std::size_t{16 << 20} * static_cast<std::size_t>(std::min<std::int64_t>(max_rows, 32));
}

const Limits& checked(const Limits& limits) {
  for (const std::int64_t limit : {limits.num_blocks, limits.max_rows, limits.max_tokens, limits.max_sampled,
                                   limits.max_context, limits.vocab, limits.vocab_ids})
    if (limit < 1 || limit > INT32_MAX) throw std::invalid_argument("a limit is below 1 or above 2^31 - 1");
  if (limits.num_slots < 0 || limits.num_slots > INT32_MAX)
    throw std::invalid_argument("the number of slots is negative or above 2^31 - 1");
  if (limits.windows.empty() || limits.windows.size() > 1024)
    throw std::invalid_argument("a table's entries have 1 to 1024 blocks");
  for (const std::int64_t window : limits.windows)
    if (window < 0 || window > INT32_MAX) throw std::invalid_argument("a window is below 0 or above 2^31 - 1");
  return limits;
}

}  // namespace

Program::Program(Isa isa, int num_threads, const Limits& limits, std::size_t arena_bytes, bool counts_only)
    : kernels_(kernels_for(isa)),
      counts_only_(counts_only),
      num_threads_(num_threads),
      pool_(counts_only ? std::min(num_threads, 1) : num_threads, [this] { return kv_.prepare(); }),
      rows_(checked(limits)),
      column_bytes_(limits.windows.size()),
      arena_(allocated(arena_bytes)),
      cursors_(static_cast<std::size_t>(num_threads)) {
  if (counts_only) weights_.only_count();
}

int Program::add_cache(std::int64_t kv_heads, std::int64_t key_dim, std::int64_t value_dim, std::int64_t column,
                       CacheFormat format, bool latent, const float* centres, const float* powers,
                       std::int64_t every) {
  if (kv_heads < 1 || key_dim < 1 || value_dim < 1) throw std::invalid_argument("a cache has no heads");
  if (format == CacheFormat::int8 && std::max(key_dim, value_dim) > kMaxCodedChannels)
    throw std::invalid_argument("heads are too wide for an int8 cache");
  if (latent && (kv_heads != 1 || value_dim > key_dim || format != CacheFormat::bf16))
    throw std::invalid_argument("latents are a part of their keys, and bf16");
  if (centres && format != CacheFormat::int8) throw std::invalid_argument("only int8 keys are balanced");
  std::size_t& bytes = column_bytes_.at(static_cast<std::size_t>(column));
  const std::int64_t window = rows_.limits().windows[static_cast<std::size_t>(column)];
  KvPlace place{column, bytes, 0, kv_heads, key_dim, value_dim, window, format, latent};
  const std::size_t heads = static_cast<std::size_t>(kv_heads);
  place.value_offset = place.key_offset + heads * key_tile_bytes(format, key_dim);
  if (every > 1) {
    if (!latent || key_dim != value_dim || key_dim % 2 || window > 0 || (kBlockTokens % every && every % kBlockTokens))
      throw std::invalid_argument("entries are even keys that are values, of tokens that fill blocks");
    place.every = every;
    place.value_offset = place.key_offset + static_cast<std::size_t>(entries_in_block(every)) * entry_bytes(key_dim);
  }
  bytes = aligned(place.value_offset + (latent ? 0 : heads * value_tile_bytes(format, value_dim)));
  kv_block_bytes_ = std::max(kv_block_bytes_, bytes);
  if (centres) {
    const std::int64_t count = kv_heads * key_dim;
    std::vector<float> inverse(powers, powers + count);
    for (float& power : inverse) power = 1.0f / power;
    place.balance = {keep(centres, count), keep(powers, count), keep(inverse.data(), count)};
  }
  caches_.push_back(place);
  return static_cast<int>(caches_.size()) - 1;
}

StatePlace Program::add_state(std::int64_t floats) {
  if (floats < 1 || floats > INT32_MAX || finished_) throw std::invalid_argument("a recurrent state is empty or too large");
  const StatePlace place{state_stride_, floats};
  state_stride_ += (floats + 15) / 16 * 16;
  rows_.carry_states();
  return place;
}

void Program::share_cross(std::shared_ptr<CrossMemory> memory) {
  if (!memory || cross_ || finished_) throw std::invalid_argument("a program sees one memory of encoders");
  if (rows_.limits().max_rows > memory->rows())
    throw std::invalid_argument("a memory of encoders has a place for every row");
  cross_ = std::move(memory);
}

const CrossMemory& Program::cross_memory() const {
  if (!cross_) throw std::invalid_argument("the program sees no encoder");
  return *cross_;
}

const StepImages& Program::take_images(std::int64_t width) {
  if (images_ || finished_) throw std::invalid_argument("a program has one place for images");
  images_ = std::make_unique<StepImages>(width, rows_.limits().max_tokens, counts_only_);
  return *images_;
}

StepImages& Program::images() {
  if (!images_) throw std::invalid_argument("the program takes no images");
  return *images_;
}

const KvPlace& Program::cache(int index) const { return caches_.at(static_cast<std::size_t>(index)); }

const RopeTable* Program::rope_table(const std::vector<double>& frequencies, double magnitude) {
  for (const auto& table : rope_tables_)
    if (table->frequencies == frequencies && table->magnitude == magnitude) return table.get();
  auto table = std::make_unique<RopeTable>();
  table->frequencies = frequencies;
  table->magnitude = magnitude;
  const std::size_t positions = static_cast<std::size_t>(rows_.limits().max_context);
  table->memory = allocated(positions * frequencies.size() * 2 * sizeof(float));
  rope_tables_.push_back(std::move(table));
  return rope_tables_.back().get();
}

PackedMatrix Program::pack(const std::string& format, const std::byte* raw, std::int64_t n, std::int64_t k,
                           std::size_t row_bytes, const std::function<void()>& release) {
  return weights_.pack(kernels_, pool_, format, raw, n, k, row_bytes, release);
}

const float* Program::keep(const float* values, std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
  std::byte* out = weights_.allocate(bytes);
  if (out) std::memcpy(out, values, bytes);
  return reinterpret_cast<const float*>(out);
}

void Program::add(std::unique_ptr<Operator> op) {
  if (finished_) throw std::invalid_argument("the program is finished");
  if (auto* head = dynamic_cast<Head*>(op.get())) head_ = head;
  operators_.push_back(std::move(op));
}

void Program::check_view(const View& view) const {
  const Limits& limits = rows_.limits();
  const std::int64_t rows = view.sampled ? limits.max_sampled : limits.max_tokens;
  const std::int64_t floats = static_cast<std::int64_t>(arena_.size() / sizeof(float));
  bool fits = view.width >= 1 && view.ld >= view.width && view.ld <= INT32_MAX && view.offset >= 0;
  if (fits && view.kind) {
    const std::size_t row_bytes = kernels_.activation_row_bytes(*view.kind, view.width);
    fits = view.offset % 16 == 0 && view.offset <= floats &&
           static_cast<std::size_t>(rows) * row_bytes <= static_cast<std::size_t>(floats - view.offset) * sizeof(float);
  } else if (fits) {
    fits = view.offset + (rows - 1) * view.ld + view.width <= floats;
  }
  if (!fits)
    throw std::invalid_argument("a value does not lie within the arena");
}

void Program::finish(const View& logits) {
  if (finished_) throw std::invalid_argument("the program is finished");
  const Limits& limits = rows_.limits();
  check_view(logits);
  if (!logits.sampled || logits.width != limits.vocab) throw std::invalid_argument("the output is not logits");
  logits_ = logits;

  // Blocks a whole number of 4 KB apart would share cache sets: the same tile of every block falls into the same ones.
  while (kv_block_bytes_ > 0 && kv_block_bytes_ / 64 % 64 != 33) kv_block_bytes_ += 64;
  if (kv_block_bytes_ > 0 && static_cast<std::size_t>(limits.num_blocks) > SIZE_MAX / 2 / kv_block_bytes_)
    throw std::bad_alloc();
  kv_places_ = places_of_blocks();
  if (!kv_places_.empty()) kv_grouped_ = static_cast<std::size_t>(limits.num_blocks) / kBlocksTogether * kBlocksTogether;
  kv_.allocate(static_cast<std::size_t>(limits.num_blocks) * kv_block_bytes_, ready_ahead(limits.max_rows), counts_only_);
  const std::size_t slots = static_cast<std::size_t>(limits.num_slots);
  if (slots > SIZE_MAX / 2 / std::max<std::size_t>(state_bytes(), 1)) throw std::bad_alloc();
  if (state_stride_ > 0 && slots > 0) states_ = allocated(slots * state_bytes());

  std::size_t scratch = kernels_.sample_scratch_bytes(limits.vocab, limits.max_context), activations = 0, shared = 0;
  const std::int64_t most_rows = std::max(limits.max_tokens, limits.max_sampled);
  for (const auto& op : operators_) {
    scratch = std::max(scratch, op->scratch_bytes(kernels_));
    activations = std::max(activations, op->shared_activation_bytes(kernels_));
    shared = std::max(shared, op->shared_bytes(kernels_, most_rows));
    const auto* attention = dynamic_cast<const Attention*>(op.get());
    if (const auto* latent = dynamic_cast<const LatentAttention*>(op.get())) attention = &latent->over_latents();
    if (const auto* blocks = dynamic_cast<const BlockAttention*>(op.get())) attention = &blocks->plain();
    if (attention)
      partials_floats_ = std::max(
          partials_floats_, 4 * attention->partials_floats((limits.max_context + kChunkTokens - 1) / kChunkTokens));
  }
  // Areas of different kinds are rounded up to 64 bytes each; there are four kinds.
  constexpr std::size_t kRounding = 4 * 64;
  const std::size_t rows = static_cast<std::size_t>(most_rows);
  activations_ = allocated(rows * activations + kRounding);
  shared_ = allocated(shared);
  partials_ = allocated(static_cast<std::size_t>(partials_floats_) * sizeof(float));
  for (int thread = 0; thread < num_threads_; thread++) scratch_.push_back(allocated(scratch));
  const Operator* next = nullptr;
  next_weights_.assign(operators_.size(), nullptr);
  for (std::size_t i = operators_.size(); i-- > 0;) {
    if (operators_[i]->asks_for_next()) next_weights_[i] = next;
    if (operators_[i]->has_weights()) next = operators_[i].get();
  }
  next = nullptr;
  next_reads_.assign(operators_.size(), nullptr);
  for (std::size_t i = operators_.size(); i-- > 0;) {
    const bool foretells = operators_[i]->foretells();
    if (foretells || i == 0) next_reads_[i] = next;
    if (foretells) next = operators_[i].get();
  }
  reads_.resize(static_cast<std::size_t>(num_threads_));
  marks_.assign(static_cast<std::size_t>(num_threads_), std::vector<Mark>(operators_.size() + 1));
  reset_times();
  samples_.reserve(static_cast<std::size_t>(limits.max_rows));
  finished_ = true;
}

const float* Program::logits() const { return reinterpret_cast<const float*>(arena_.data()) + logits_.offset; }

void Program::run(const PlanLine* lines, std::int64_t num_lines, const std::int32_t* new_blocks,
                  std::int64_t num_new_blocks, bool sampling, const std::function<void()>& before_sampling) {
  if (!finished_) throw std::invalid_argument("the program is not finished");
  if (counts_only_) throw std::invalid_argument("the program only counts its memory");
  book_times();
  // Whatever becomes of this step, the next one comes with images and places of its own.
  struct Forget {
    StepImages* images;
    StepPlaces& places;
    ~Forget() {
      if (images) images->clear();
      places.clear();
    }
  } const forget{images_.get(), places_};
  rows_.gather(lines, num_lines, new_blocks, num_new_blocks, sampling, step_);
  if (images_) images_->show(step_);
  places_.tell(step_);
  use_blocks(static_cast<std::size_t>(step_.last_block + 1));
  samples_.clear();
  items_.clear();
  if (sampling) plan_samples();
  if (head_) {
    wanted_.clear();
    if (sampling) plan_wanted();
    head_->begin(step_.num_sampled, wanted_, !operators_.empty() && operators_.back().get() == head_);
  }
  // A few steps ahead, so that most steps of a decode find their positions ready.
  const std::int64_t ahead = std::min(step_.end_position + 64, rows_.limits().max_context);
  for (const auto& table : rope_tables_)
    if (table->num_ready < step_.end_position) table->extend(ahead);
  // The caller comes between the operators and sampling where it has masks to give, which rows need.
  const bool asks = sampling && before_sampling;
  for (std::vector<Mark>& marks : marks_) std::fill(marks.begin(), marks.end(), Mark{});
  step_begin_ = ticks_now();
  const std::size_t count = operators_.size() + (sampling ? 1 : 0);
  run_operators(0, asks ? operators_.size() : count);
  if (asks) {
    before_sampling();
    run_operators(operators_.size(), count);
  }
  num_marked_ = count;
  finish_samples();
}

// What can lie side by side with the same of other blocks, whatever column each is of: all tiles of the only column, or
// pieces of one size where all columns' tiles have it. Nothing: no block lies beside others.
std::vector<TilePlace> Program::places_of_blocks() const {
  std::vector<TilePlace> out;
  for (const KvPlace& place : caches_) {
    if (place.every > 1) {
      out.push_back(place.entries());
      continue;
    }
    for (std::int64_t head = 0; head < place.kv_heads; head++) out.push_back(place.keys(head));
    for (std::int64_t head = 0; head < place.kv_heads && !place.latent; head++) out.push_back(place.values(head));
  }
  if (column_bytes_.size() == 1) return out;
  const std::size_t bytes = out.empty() ? 0 : out.front().num_bytes;
  if (std::any_of(out.begin(), out.end(), [&](const TilePlace& tile) {
        return tile.num_bytes != bytes || tile.offset % bytes;
      }))
    return {};
  out.clear();
  for (std::size_t offset = 0; bytes > 0 && offset + bytes <= kv_block_bytes_; offset += bytes) out.push_back({offset, bytes});
  return out;
}

// Memory of blocks [0, count) is in use, and of those beside them.
void Program::use_blocks(std::size_t count) {
  const std::size_t whole = (count + kBlocksTogether - 1) / kBlocksTogether * kBlocksTogether;
  kv_.used((count < kv_grouped_ ? whole : count) * kv_block_bytes_);
}

void Program::copy_block(std::int32_t source, std::int32_t target) {
  const CacheBlocks cache = cache_blocks();
  const auto copy = [&](const TilePlace& tile) {
    std::memcpy(cache.tile(target, tile), cache.tile(source, tile), tile.num_bytes);
  };
  if (kv_grouped_ == 0) return copy({0, kv_block_bytes_});
  for (const TilePlace& tile : kv_places_) copy(tile);
}

void Program::copy_blocks(const std::int32_t* pairs, std::int64_t num_pairs) {
  const std::int64_t num_blocks = rows_.limits().num_blocks;
  for (std::int64_t i = 0; i < 2 * num_pairs; i++)
    if (pairs[i] < 0 || pairs[i] >= num_blocks)
      throw std::out_of_range("block " + std::to_string(pairs[i]) + " is not one of the cache's " +
                              std::to_string(num_blocks));
  for (std::int64_t i = 0; i < num_pairs; i++) {
    const std::int32_t source = pairs[2 * i], target = pairs[2 * i + 1];
    if (source != target) copy_block(source, target);
  }
}

// Each thread copies its part of every slot, in the order of the pairs.
void Program::copy_slots(const std::int32_t* pairs, std::int64_t num_pairs) {
  for (std::int64_t i = 0; i < num_pairs; i++) rows_.copy_slot(pairs[2 * i], pairs[2 * i + 1]);
  float* states = reinterpret_cast<float*>(states_.data());
  pool_.run([&](int thread) {
    const std::int64_t begin = state_stride_ * thread / pool_.size(), end = state_stride_ * (thread + 1) / pool_.size();
    for (std::int64_t i = 0; i < num_pairs; i++)
      if (pairs[2 * i] != pairs[2 * i + 1])
        std::memcpy(states + pairs[2 * i + 1] * state_stride_ + begin, states + pairs[2 * i] * state_stride_ + begin,
                    static_cast<std::size_t>(end - begin) * sizeof(float));
  });
}

// Operators [begin, end) in order; sampling is the one after the last.
void Program::run_operators(std::size_t begin, std::size_t end) {
  if (begin == end) return;
  for (Cursor& cursor : cursors_) cursor.reset();
  pool_.run_operators(static_cast<std::int64_t>(end - begin),
                      [&](int thread, const Entry& entry) { return run_operator(thread, begin, entry); });
}

bool Program::run_operator(int thread, std::size_t begin, const Entry& entry) {
  const StepContext context{kernels_,
                            step_,
                            reinterpret_cast<float*>(arena_.data()),
                            cache_blocks(),
                            activations_.data(),
                            reinterpret_cast<float*>(partials_.data()),
                            partials_floats_,
                            reinterpret_cast<float*>(states_.data()),
                            state_stride_,
                            shared_.data()};
  CacheReads& reads = reads_[static_cast<std::size_t>(thread)];
  Worker worker{thread, pool_.size(), pool_, scratch_[static_cast<std::size_t>(thread)].data(), cursors_, entry, &reads};
  // A barrier's release may reach a thread late, and others finish the next operator meanwhile: who was at what and when
  // is told by marks, which book_times makes sense of later. No thread reads what another writes.
  const std::size_t index = begin + static_cast<std::size_t>(entry.index);
  Mark& mark = marks_[static_cast<std::size_t>(thread)][index];
  if (mark.started == 0) mark.started = ticks_now();  // or it is back, to what it had left
  if (index == operators_.size()) {
    sample_rows(context, worker);
  } else {
    if (index == 0 || operators_[index]->foretells()) reads.end();
    operators_[index]->run(context, worker);
    if (!worker.leaves && next_weights_[index]) next_weights_[index]->ask_ahead(context, thread, pool_.size());
    if (!worker.leaves && next_reads_[index]) next_reads_[index]->foretell(context, thread, pool_.size(), reads);
  }
  mark.waited += worker.waited;
  mark.arrived = ticks_now();
  return !worker.leaves;
}

// The last step's marks become times. Clocks of cores are taken to agree; where they do not by a little, times are cut
// at 0. A thread that was not at an operator did not start before its end.
void Program::book_times() {
  const auto since = [](std::uint64_t later, std::uint64_t earlier) { return later > earlier ? later - earlier : 0; };
  std::uint64_t begin = step_begin_;
  for (std::size_t i = 0; i < num_marked_; i++) {
    std::uint64_t end = begin;
    for (const std::vector<Mark>& marks : marks_) end = std::max(end, marks[i].arrived);
    Times& times = times_[i];
    times.calls++;
    times.ticks += end - begin;
    for (const std::vector<Mark>& marks : marks_) {
      const bool was_there = marks[i].arrived > 0;
      times.start_ticks += was_there ? std::min(since(marks[i].started, begin), end - begin) : end - begin;
      if (was_there) times.waited_ticks += since(end, marks[i].arrived) + marks[i].waited;
    }
    begin = end;
  }
  num_marked_ = 0;
}

std::vector<Program::Chosen> Program::chosen_experts() const {
  std::vector<Chosen> out;
  for (const auto& op : operators_)
    if (const auto* experts = dynamic_cast<const Experts*>(op.get()))
      out.push_back({op->name, experts->chosen(), experts->top_k()});
  return out;
}

std::vector<OperatorTime> Program::times() {
  book_times();
  const double scale = nanoseconds_per_tick(), each = scale / static_cast<double>(num_threads_);
  std::vector<OperatorTime> out;
  for (std::size_t i = 0; i < times_.size(); i++) {
    const bool sampling = i == operators_.size();
    const Times& times = times_[i];
    out.push_back({sampling ? "sample" : operators_[i]->name, sampling ? "sample" : operators_[i]->type, times.calls,
                   static_cast<double>(times.ticks) * scale, static_cast<double>(times.waited_ticks) * each,
                   static_cast<double>(times.start_ticks) * each});
  }
  return out;
}

void Program::reset_times() {
  num_marked_ = 0;
  times_.assign(operators_.size() + 1, {});
}

std::vector<std::pair<std::string, std::size_t>> Program::memory() const {
  std::size_t scratch = 0, rope = 0;
  for (const Memory& each : scratch_) scratch += each.size();
  for (const auto& table : rope_tables_) rope += table->memory.size();
  return {{"weights", weight_bytes()},      {"kv", kv_bytes()},
          {"states", states_.size()},       {"arena", arena_.size()},
          {"shared", shared_.size() + (images_ ? images_->num_bytes() : 0)},
          {"activations", activations_.size()},
          {"partials", partials_.size()},   {"scratch", scratch},
          {"rope", rope}};
}

}  // namespace ridgeline
