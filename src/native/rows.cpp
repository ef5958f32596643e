#include "rows.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attention.h"

namespace ridgeline {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string of_row(std::int64_t row) { return "row " + std::to_string(row); }

}  // namespace

RowTable::RowTable(const Limits& limits)
    : limits_(limits),
      rows_(static_cast<std::size_t>(limits.max_rows)),
      planned_(static_cast<std::size_t>(limits.max_rows)),
      slot_tokens_(static_cast<std::size_t>(limits.num_slots), -1),
      slot_planned_(static_cast<std::size_t>(limits.num_slots)) {}

void RowTable::check_row(std::int64_t row) const {
  if (row < 0 || row >= limits_.max_rows)
    throw std::out_of_range(of_row(row) + " is not one of the table's " + std::to_string(limits_.max_rows));
}

void RowTable::check_tokens(const std::int32_t* tokens, std::int64_t count) const {
  for (std::int64_t i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= limits_.vocab_ids)
      throw std::out_of_range("token id " + std::to_string(tokens[i]) + " is not in the vocabulary of " +
                              std::to_string(limits_.vocab_ids));
}

Row& RowTable::open_row(std::int64_t row) {
  check_row(row);
  Row& out = rows_[static_cast<std::size_t>(row)];
  if (!out.open) refuse(of_row(row) + " is not open");
  return out;
}

void RowTable::open(std::int64_t row, const std::int32_t* tokens, std::int64_t count, const RowSampling& sampling) {
  check_row(row);
  check_tokens(tokens, count);
  check_sampling(row, sampling);
  if (rows_[static_cast<std::size_t>(row)].open) refuse(of_row(row) + " is open already");
  if (count < 1) refuse(of_row(row) + " has no tokens; give it at least one");
  if (count > limits_.max_context)
    refuse(of_row(row) + " has " + std::to_string(count) + " tokens; the context holds " +
           std::to_string(limits_.max_context));
  Row& out = rows_[static_cast<std::size_t>(row)];
  out.tokens.assign(tokens, tokens + count);
  out.block_tables.resize(limits_.windows.size());
  for (std::vector<std::int32_t>& table : out.block_tables) table.clear();
  out.first_entries.assign(limits_.windows.size(), 0);
  out.sampling = sampling;
  out.num_computed = -1;
  out.lacks_embedding = false;
  out.open = true;
}

void RowTable::set_mask(std::int64_t row, const std::uint32_t* words, std::int64_t count) {
  Row& out = open_row(row);
  if (!out.sampling.args.is_constrained) refuse(of_row(row) + " is not constrained");
  if (count != (limits_.vocab + 31) / 32)
    refuse(of_row(row) + " has a mask of " + std::to_string(count) + " words; the vocabulary has " +
           std::to_string(limits_.vocab) + " tokens");
  out.mask.assign(words, words + count);
  out.sampling.args.mask = {out.mask.data(), count};
}

// The lists are checked here because here the vocabulary is known.
void RowTable::check_sampling(std::int64_t row, const RowSampling& sampling) const {
  const SamplingArgs& args = sampling.args;
  for (const Span<std::int32_t>& ids : {args.bias_ids, args.breakers, args.bad_tokens, args.stop_ids, args.allowed})
    for (std::int64_t i = 0; i < ids.size; i++)
      if (ids.data[i] < 0 || ids.data[i] >= limits_.vocab)
        throw std::out_of_range(of_row(row) + ": sampling names token id " + std::to_string(ids.data[i]) +
                                "; the vocabulary has " + std::to_string(limits_.vocab));
  if (args.allowed.size > limits_.vocab) refuse(of_row(row) + " allows a token twice");
}

void RowTable::append(std::int64_t row, const std::int32_t* tokens, std::int64_t count) {
  Row& out = open_row(row);
  check_tokens(tokens, count);
  if (static_cast<std::int64_t>(out.tokens.size()) + count > limits_.max_context)
    refuse(of_row(row) + " would outgrow the context of " + std::to_string(limits_.max_context) + " tokens");
  out.tokens.insert(out.tokens.end(), tokens, tokens + count);
}

void RowTable::truncate(std::int64_t row, std::int64_t num_tokens) {
  Row& out = open_row(row);
  if (num_tokens < 0 || num_tokens > static_cast<std::int64_t>(out.tokens.size()))
    refuse(of_row(row) + " has " + std::to_string(out.tokens.size()) + " tokens, fewer than " +
           std::to_string(num_tokens));
  out.tokens.resize(static_cast<std::size_t>(num_tokens));
  out.num_computed = std::min(out.num_computed, num_tokens);
}

void RowTable::close(std::int64_t row) { open_row(row).open = false; }

void RowTable::check_line(const PlanLine& line, bool sampling) const {
  check_row(line.row);
  const Row& row = rows_[static_cast<std::size_t>(line.row)];
  const std::string name = of_row(line.row);
  if (!row.open) refuse(name + " is not open");
  if (line.num_new < 1 || line.num_context < 0 || line.num_logits < 0 || line.num_new_blocks < 0)
    refuse(name + " has a count below what a plan may hold");
  if (line.num_logits > line.num_new) refuse(name + " wants more logits than it has new tokens");
  const std::int64_t end = std::int64_t{line.num_context} + line.num_new;
  const std::int64_t num_tokens = static_cast<std::int64_t>(row.tokens.size());
  if (end > num_tokens)
    refuse(name + " has " + std::to_string(num_tokens) + " tokens; the plan computes up to " + std::to_string(end));
  if (sampling && line.num_logits > 0 && end != num_tokens && row.sampling.args.num_prompt_logprobs < 0)
    refuse(name + " would be sampled before its last token is computed");
  if (end > limits_.max_context)
    refuse(name + " would reach " + std::to_string(end) + " tokens; the context holds " +
           std::to_string(limits_.max_context));
  if (row.num_computed >= 0 && line.num_context > row.num_computed)
    refuse(name + " has " + std::to_string(row.num_computed) + " tokens computed, fewer than the plan's context of " +
           std::to_string(line.num_context));
  const std::int64_t columns = static_cast<std::int64_t>(limits_.windows.size());
  if (line.num_new_blocks % columns != 0)
    refuse(name + " is given " + std::to_string(line.num_new_blocks) + " blocks; an entry has " +
           std::to_string(columns));
  const std::int64_t entries =
      static_cast<std::int64_t>(row.block_tables.front().size()) + line.num_new_blocks / columns;
  if (entries * kBlockTokens < end)
    refuse(name + " has " + std::to_string(entries) + " blocks of " + std::to_string(kBlockTokens) +
           " tokens, too few for " + std::to_string(end));
}

// The blocks exist, and there is one wherever the plan's tokens can look.
void RowTable::check_blocks(const PlanLine& line, const std::int32_t* new_blocks) const {
  const Row& row = rows_[static_cast<std::size_t>(line.row)];
  const std::size_t columns = limits_.windows.size();
  const std::int64_t told = static_cast<std::int64_t>(row.block_tables.front().size());
  for (std::size_t column = 0; column < columns; column++) {
    const std::int64_t first = first_entry(limits_.windows[column], line.num_context, kBlockTokens);
    if (first < row.first_entries[column])
      refuse(of_row(line.row) + " has no block at entry " + std::to_string(first) + ", which its tokens see");
  }
  for (std::int64_t i = 0; i < line.num_new_blocks; i++) {
    const std::int64_t entry = told + i / static_cast<std::int64_t>(columns);
    const std::int64_t window = limits_.windows[static_cast<std::size_t>(i) % columns];
    if (new_blocks[i] == kNoBlock && entry < first_entry(window, line.num_context, kBlockTokens)) continue;
    if (new_blocks[i] < 0 || new_blocks[i] >= limits_.num_blocks)
      throw std::out_of_range("block " + std::to_string(new_blocks[i]) + " is not one of the cache's " +
                              std::to_string(limits_.num_blocks));
  }
}

void RowTable::copy_slot(std::int64_t source, std::int64_t target) {
  if (source < 0 || source >= limits_.num_slots || target < 0 || target >= limits_.num_slots)
    throw std::out_of_range("slot " + std::to_string(source) + " or " + std::to_string(target) + " is not one of " +
                            std::to_string(limits_.num_slots));
  const std::int64_t tokens = slot_tokens_[static_cast<std::size_t>(source)];
  if (tokens < 0) refuse("slot " + std::to_string(source) + " is copied and holds no state");
  slot_tokens_[static_cast<std::size_t>(target)] = tokens;
}

void RowTable::check_slots(const PlanLine* lines, std::int64_t num_lines) {
  if (!is_recurrent_) return;
  std::fill(slot_planned_.begin(), slot_planned_.end(), 0);
  for (std::int64_t i = 0; i < num_lines; i++) {
    const std::int64_t slot = lines[i].slot, context = lines[i].num_context;
    if (slot < 0 || slot >= limits_.num_slots)
      throw std::out_of_range(of_row(lines[i].row) + ": slot " + std::to_string(slot) + " is not one of " +
                              std::to_string(limits_.num_slots));
    if (slot_planned_[static_cast<std::size_t>(slot)]++)
      refuse(of_row(lines[i].row) + ": slot " + std::to_string(slot) + " is another row's, too");
    const std::int64_t seen = slot_tokens_[static_cast<std::size_t>(slot)];
    if (context != 0 && context != seen)
      refuse(of_row(lines[i].row) + " has a context of " + std::to_string(context) + " tokens; the recurrent states in slot " +
             std::to_string(slot) + " have seen " + std::to_string(std::max<std::int64_t>(seen, 0)));
  }
}

void RowTable::gather(const PlanLine* lines, std::int64_t num_lines, const std::int32_t* new_blocks,
                      std::int64_t num_new_blocks, bool sampling, Step& step) {
  std::fill(planned_.begin(), planned_.end(), 0);
  std::int64_t num_tokens = 0, num_sampled = 0, num_blocks = 0;
  for (std::int64_t i = 0; i < num_lines; i++) {
    check_line(lines[i], sampling);
    if (planned_[static_cast<std::size_t>(lines[i].row)]++) refuse(of_row(lines[i].row) + " is planned twice");
    num_tokens += lines[i].num_new;
    num_sampled += lines[i].num_logits;
    num_blocks += lines[i].num_new_blocks;
  }
  if (num_lines == 0) refuse("the plan has no rows");
  if (num_tokens > limits_.max_tokens)
    refuse("the plan has " + std::to_string(num_tokens) + " new tokens; a step takes " +
           std::to_string(limits_.max_tokens));
  if (num_sampled > limits_.max_sampled)
    refuse("the plan wants " + std::to_string(num_sampled) + " rows of logits; a step gives " +
           std::to_string(limits_.max_sampled));
  if (num_blocks != num_new_blocks) refuse("the plan's counts of new blocks do not add up");
  const std::int32_t* of_line = new_blocks;
  for (std::int64_t i = 0; i < num_lines; of_line += lines[i++].num_new_blocks) check_blocks(lines[i], of_line);

  check_slots(lines, num_lines);
  const std::size_t columns = limits_.windows.size();
  step.rows.clear();
  step.block_tables.clear();
  step.block_tables.reserve(static_cast<std::size_t>(num_lines) * columns);  // rows point into it
  step.segments.clear();
  step.token_ids.clear();
  step.sampled.clear();
  step.last_seen.clear();
  step.first_seen.clear();
  step.axis_positions.clear();
  step.num_axes = 0;
  step.num_tokens = num_tokens;
  step.num_sampled = num_sampled;
  step.end_position = 0;
  step.last_block = -1;
  for (std::int64_t i = 0; i < num_lines; i++) {
    const PlanLine& line = lines[i];
    Row& row = rows_[static_cast<std::size_t>(line.row)];
    const std::int32_t* const* block_tables = step.block_tables.data() + step.block_tables.size();
    for (std::size_t column = 0; column < columns; column++) {
      std::vector<std::int32_t>& table = row.block_tables[column];
      for (std::int64_t j = static_cast<std::int64_t>(column); j < line.num_new_blocks;
           j += static_cast<std::int64_t>(columns)) {
        table.push_back(new_blocks[j]);
        if (new_blocks[j] == kNoBlock) row.first_entries[column] = static_cast<std::int64_t>(table.size());
      }
      step.block_tables.push_back(table.data());
    }
    new_blocks += line.num_new_blocks;
    const std::int64_t begin = static_cast<std::int64_t>(step.token_ids.size());
    const std::int64_t end = std::int64_t{line.num_context} + line.num_new;
    step.rows.push_back({line.row, begin, line.num_new, line.num_context, line.num_logits,
                         static_cast<std::int64_t>(step.sampled.size()), block_tables, line.slot});
    step.token_ids.insert(step.token_ids.end(), row.tokens.begin() + line.num_context, row.tokens.begin() + end);
    if (row.lacks_embedding)
      for (std::int64_t j = begin; j < static_cast<std::int64_t>(step.token_ids.size()); j++)
        if (step.token_ids[static_cast<std::size_t>(j)] >= limits_.vocab_ids) step.token_ids[static_cast<std::size_t>(j)] = 0;
    for (std::int64_t j = line.num_new - line.num_logits; j < line.num_new; j++) step.sampled.push_back(begin + j);
    for (std::int64_t position = line.num_context; position < end;) {
      const std::int64_t count = std::min(end - position, kBlockTokens - position % kBlockTokens);
      const std::int64_t entry = position / kBlockTokens;
      step.segments.push_back({begin + position - line.num_context, count, position, block_tables, entry});
      for (std::size_t column = 0; column < columns; column++)
        step.last_block = std::max(step.last_block, block_tables[column][entry]);
      position += count;
    }
    if (is_recurrent_) slot_tokens_[static_cast<std::size_t>(line.slot)] = end;
    row.num_computed = end;
    step.end_position = std::max(step.end_position, end);
  }
}

}  // namespace ridgeline
