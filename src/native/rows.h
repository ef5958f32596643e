// The state table: what outlives a step of each row (tokens, block table, sampling), and a step gathered from it.
//
// Everything that comes from outside is checked here, before anything changes: std::out_of_range for ids beyond their
// table, std::invalid_argument for what does not fit together.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sample.h"

namespace ridgeline {

struct Limits {
  std::int64_t num_blocks;
  std::int64_t max_rows;
  std::int64_t max_tokens;   // new tokens of a step
  std::int64_t max_sampled;  // logits rows of a step
  std::int64_t max_context;  // tokens of a row
  std::int64_t vocab;        // logits
  std::int64_t vocab_ids;    // token ids that every embedding table has a row for
  std::int64_t num_slots = 0;  // of recurrent states
  // Of each block of a table's entries (docs/kv_groups.md): positions that its layers reach back; 0 for all.
  std::vector<std::int64_t> windows;
};

// Of a column's table, the first entry that a token after `num_context` others can see.
inline std::int64_t first_entry(std::int64_t window, std::int64_t num_context, std::int64_t block_tokens) {
  return window > 0 && num_context >= window ? (num_context - window + 1) / block_tokens : 0;
}

// What a column has in place of a block that its window does not reach back to.
inline constexpr std::int32_t kNoBlock = -1;

struct SamplingLists {
  std::vector<std::int32_t> bias_ids;
  std::vector<float> bias_amounts;
  std::vector<std::int32_t> breakers, bad_tokens, bad_ends, stop_ids, allowed;
};

// The arguments with what they point to.
struct RowSampling {
  SamplingArgs args;
  std::shared_ptr<const SamplingLists> lists;
};

struct Row {
  bool open = false;
  bool lacks_embedding = false;  // a token that was drawn is beyond the embedding tables: the next draw is a fault
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<std::int32_t>> block_tables;  // of each column
  std::vector<std::int64_t> first_entries;              // of each column: before it, kNoBlock
  std::int64_t num_computed = -1;  // tokens in the cache; -1 before the first plan, whose context may be another row's
  RowSampling sampling;
  std::vector<std::uint32_t> mask;  // what sampling.args.mask points to, where it points
};

// One line of a plan, as it comes from outside. New blocks are whole entries, one after another: a block a column.
struct PlanLine {
  std::int32_t row, num_new, num_context, num_logits, num_new_blocks, slot;
};

// A row's share of a step; its new tokens are [token_begin, token_begin + num_new) of the step's.
struct StepRow {
  std::int64_t row, token_begin, num_new, num_context, num_logits, sampled_begin;
  const std::int32_t* const* block_tables;  // of each column
  std::int64_t slot;  // of its recurrent states
};

// New tokens of one row that fall into one cache block: what one thread writes.
struct Segment {
  std::int64_t token_begin, count, position;
  const std::int32_t* const* block_tables;
  std::int64_t entry;
};

struct Step {
  std::vector<StepRow> rows;
  std::vector<const std::int32_t*> block_tables;  // of all rows
  std::vector<Segment> segments;
  std::vector<std::int32_t> token_ids;
  std::vector<std::int64_t> sampled;  // of each row of logits, its token
  std::vector<std::int32_t> last_seen;  // of each token, the last position that it sees; empty: its own
  std::vector<std::int32_t> first_seen;  // where rows have parts: of each token, where its part begins; else empty
  std::vector<std::int32_t> axis_positions;  // [tokens, num_axes], what rotations with axes turn by; or empty
  std::int64_t num_axes = 0;
  std::int64_t num_tokens = 0;
  std::int64_t num_sampled = 0;
  std::int64_t end_position = 0;  // one past the last position of any row
  std::int32_t last_block = -1;   // of those that are written to
};

class RowTable {
 public:
  explicit RowTable(const Limits& limits);

  const Limits& limits() const { return limits_; }
  Row& open_row(std::int64_t row);  // the open row of this id

  void open(std::int64_t row, const std::int32_t* tokens, std::int64_t count, const RowSampling& sampling);
  void append(std::int64_t row, const std::int32_t* tokens, std::int64_t count);
  void truncate(std::int64_t row, std::int64_t num_tokens);
  void close(std::int64_t row);
  // Of a constrained row, the tokens that may come next: a bit each, for one draw.
  void set_mask(std::int64_t row, const std::uint32_t* words, std::int64_t count);

  // Rows have recurrent states from now on.
  void carry_states() { is_recurrent_ = true; }
  // What is in slot `source` is in `target`, too.
  void copy_slot(std::int64_t source, std::int64_t target);
  // Appends the new blocks to the rows' tables and gathers the step. `sampling`: a row that wants logits must have all
  // of its tokens computed with this step, unless it scores its prompt. If it throws, no row has changed.
  void gather(const PlanLine* lines, std::int64_t num_lines, const std::int32_t* new_blocks,
              std::int64_t num_new_blocks, bool sampling, Step& step);

 private:
  void check_row(std::int64_t row) const;
  void check_tokens(const std::int32_t* tokens, std::int64_t count) const;
  void check_sampling(std::int64_t row, const RowSampling& sampling) const;
  void check_line(const PlanLine& line, bool sampling) const;
  void check_slots(const PlanLine* lines, std::int64_t num_lines);
  void check_blocks(const PlanLine& line, const std::int32_t* new_blocks) const;

  const Limits limits_;
  std::vector<Row> rows_;
  std::vector<char> planned_;
  bool is_recurrent_ = false;
  std::vector<std::int64_t> slot_tokens_;  // that the states in a slot have seen; -1: it holds none
  std::vector<char> slot_planned_;
};

}  // namespace ridgeline
