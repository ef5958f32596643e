// A program's rows of logits: which are drawn from and which are scored, and what becomes of their rows.
#include "program.h"

#include <algorithm>

namespace ridgeline {
namespace {

// Between these temperatures what divides logits loses nothing of them that filter_bounds.cpp has no room for.
constexpr float kLeastTemperature = 1e-3f, kMostTemperature = 1e3f;

// So few forbidden tokens are looked for wherever a strip is read, and so few of which something is taken.
constexpr std::int64_t kMostForbidden = 16, kMostPenalized = 4096;

Penalties penalties_of(const SamplingArgs& args, const std::vector<std::int32_t>& tokens) {
  Penalties out{args.repetition_penalty, args.frequency_penalty, args.presence_penalty};
  const auto all = static_cast<std::int64_t>(tokens.size());
  const std::int64_t first = args.penalty_last_n < 0 ? 0 : std::max<std::int64_t>(0, all - args.penalty_last_n);
  out.tokens = tokens.data() + first;
  out.num_tokens = all - first;
  out.num_prompt = std::clamp<std::int64_t>(args.num_prompt - first, 0, out.num_tokens);
  return out;
}

// tokens: of the row.
Wanted wanted_of(const SamplingArgs& args, const std::vector<std::int32_t>& tokens) {
  using Kind = Wanted::Kind;
  const auto position = static_cast<std::int64_t>(tokens.size());  // of the token to come
  const Penalties penalties = penalties_of(args, tokens);
  const bool raises = !penalties.is_none() && (!penalties.only_lower() || penalties.num_tokens > kMostPenalized);
  const bool adjusts = raises || args.dry_multiplier != 0 || args.no_repeat_ngram != 0 || args.bias_ids.size != 0 ||
                       args.bad_ends.size != 0 || args.limits_allowed;
  const bool forbids = position - args.num_prompt < args.min_tokens && args.stop_ids.size > 0;
  const bool scores = args.num_logprobs >= 0 || args.num_prompt_logprobs >= 0;
  const bool looks_at_all = args.dynatemp_range > 0 || args.top_n_sigma > 0 || args.typical_p < 1 ||
                            args.xtc_probability > 0 || args.mirostat_tau > 0;
  Wanted out{Kind::all, args.temperature, args.seed, static_cast<std::uint64_t>(position), args.top_k, args.top_p, args.min_p};
  if (adjusts || scores || args.is_constrained || args.mask.size != 0) return out;
  if (forbids && args.stop_ids.size > kMostForbidden) return out;
  if (forbids) {
    out.forbidden = args.stop_ids.data;
    out.num_forbidden = args.stop_ids.size;
  }
  out.penalties = penalties;
  if (args.temperature == 0) {
    out.kind = Kind::largest;
    return out;
  }
  if (looks_at_all) return out;
  out.kind = Kind::drawn;
  const bool is_exact = args.temperature >= kLeastTemperature && args.temperature <= kMostTemperature;
  if (out.is_filtered() && !is_exact) out.kind = Kind::all;
  return out;
}

}  // namespace

// A row that scores its prompt has an item for each token that follows one of its logits; a row whose last token is
// computed has one that draws.
void Program::plan_samples() {
  const std::int64_t vocab = rows_.limits().vocab;
  const auto count = [vocab](std::int64_t wanted) { return std::clamp<std::int64_t>(wanted, 0, vocab); };
  std::size_t needed = 0;
  for (const StepRow& row : step_.rows) {
    if (row.num_logits == 0) continue;
    const SamplingArgs& args = rows_.open_row(row.row).sampling.args;
    needed += static_cast<std::size_t>(count(args.num_logprobs));
    if (args.num_prompt_logprobs >= 0)
      needed += static_cast<std::size_t>(row.num_logits * (1 + count(args.num_prompt_logprobs)));
  }
  if (candidates_.size() < needed) candidates_.resize(needed);
  Candidate* room = candidates_.data();
  for (const StepRow& row : step_.rows) {
    if (row.num_logits == 0) continue;
    const Row& table = rows_.open_row(row.row);
    const SamplingArgs& args = table.sampling.args;
    const std::int64_t end = row.num_context + row.num_new, total = static_cast<std::int64_t>(table.tokens.size());
    const std::int64_t index = static_cast<std::int64_t>(samples_.size());
    RowSample sample{row.row, {}};
    sample.result.mirostat_mu = args.mirostat_mu;
    sample.result.top = room;
    room += count(args.num_logprobs);
    if (table.lacks_embedding) {
      sample.result.fault = SampleFault::no_embedding;
      samples_.push_back(sample);
      continue;
    }
    if (args.num_prompt_logprobs >= 0) {
      sample.first_scored = end - row.num_logits + 1;
      sample.num_scored = row.num_logits - (end == total ? 1 : 0);
      sample.width = 1 + count(args.num_prompt_logprobs);
      sample.scored = room;
      for (std::int64_t i = 0; i < sample.num_scored; i++, room += sample.width)
        items_.push_back({index, row.sampled_begin + i,
                          table.tokens[static_cast<std::size_t>(sample.first_scored + i)], room, SampleFault::none});
    }
    if (end == total)
      items_.push_back({index, row.sampled_begin + row.num_logits - 1, -1, nullptr, SampleFault::none});
    samples_.push_back(sample);
  }
}

// What each row of the step's logits is wanted for, if no token depends on all of a row, and most rows are an answer's: what
// follows a prompt is less certain, and few logits are little work beside one. Else nothing.
void Program::plan_wanted() {
  wanted_.clear();
  std::int64_t prompts = 0;
  for (const StepRow& row : step_.rows) prompts += row.num_logits > 0 && row.num_new > 1;
  if (4 * prompts > step_.num_sampled) return;
  wanted_.resize(static_cast<std::size_t>(step_.num_sampled));
  for (const SampleItem& item : items_) {
    const Row& row = rows_.open_row(samples_[static_cast<std::size_t>(item.sample)].row);
    Wanted& wanted = wanted_[static_cast<std::size_t>(item.logits_row)];
    if (!item.scores) wanted = wanted_of(row.sampling.args, row.tokens);
    if (item.scores || wanted.kind == Wanted::Kind::all) return wanted_.clear();
  }
}

void Program::sample_rows(const StepContext& context, Worker& worker) {
  worker.each(static_cast<std::int64_t>(items_.size()), [&](std::int64_t i) {
    SampleItem& item = items_[static_cast<std::size_t>(i)];
    RowSample& sample = samples_[static_cast<std::size_t>(item.sample)];
    const float* logits = context.at(logits_) + item.logits_row * logits_.ld;
    if (item.scores) {
      item.fault = kernels_.score(logits, logits_.width, static_cast<std::int32_t>(item.token_id), sample.width - 1,
                                  worker.scratch, item.scores);
    } else {
      const Row& row = rows_.open_row(sample.row);
      SamplingArgs args = row.sampling.args;
      std::int64_t count = logits_.width;
      const bool is_sparse = head_ && head_->is_sparse(item.logits_row), is_drawn = is_sparse && args.temperature != 0;
      std::int32_t winner = -1;
      if (is_sparse || (head_ && head_->is_cut(item.logits_row))) {  // what is taken from logits has been taken
        args.stop_ids = {};
        args.repetition_penalty = 1;
        args.frequency_penalty = args.presence_penalty = 0;
      }
      if (is_sparse) {
        if (is_drawn) winner = head_->winner(context, item.logits_row);
        count = head_->gather(context, item.logits_row);
        args.temperature = 0;
      }
      kernels_.sample(args, logits, count, row.tokens.data(), static_cast<std::int64_t>(row.tokens.size()), worker.scratch,
                      sample.result);
      if (is_sparse && sample.result.token_id >= 0) {
        const std::int64_t first = head_->channel_of(context, item.logits_row, sample.result.token_id);
        sample.result.token_id = is_drawn ? winner : static_cast<std::int32_t>(first);
      }
    }
  });
}

// A fault anywhere in a row is the row's; a token goes to its row.
void Program::finish_samples() {
  for (const SampleItem& item : items_) {
    SampleResult& result = samples_[static_cast<std::size_t>(item.sample)].result;
    if (item.fault == SampleFault::none || result.fault != SampleFault::none) continue;
    result.fault = item.fault;
    result.token_id = -1;
  }
  for (const RowSample& sample : samples_) {
    rows_.open_row(sample.row).sampling.args.mask = {};  // it was for this draw
    if (sample.result.fault != SampleFault::none || sample.result.token_id < 0) continue;
    Row& row = rows_.open_row(sample.row);
    row.tokens.push_back(sample.result.token_id);
    if (sample.result.token_id >= rows_.limits().vocab_ids) row.lacks_embedding = true;
    row.sampling.args.mirostat_mu = sample.result.mirostat_mu;
  }
}

}  // namespace ridgeline
