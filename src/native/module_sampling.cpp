// The Python module, sampling: a row's parameters in, what a step sampled out; and draws alone, for tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "module.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Lines = nb::ndarray<const std::int32_t, nb::shape<-1, 6>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Seeds = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr double kMost = 3.40282347e38;

// From low, itself left out where is_open, to high.
struct FloatField {
  const char* name;
  float SamplingArgs::*field;
  double low, high;
  bool is_open = false;
};

constexpr FloatField kFloats[] = {
    {"repetition_penalty", &SamplingArgs::repetition_penalty, 0, kMost, true},
    {"frequency_penalty", &SamplingArgs::frequency_penalty, -kMost, kMost},
    {"presence_penalty", &SamplingArgs::presence_penalty, -kMost, kMost},
    {"dry_multiplier", &SamplingArgs::dry_multiplier, 0, kMost},
    {"dry_base", &SamplingArgs::dry_base, 1, kMost},
    {"temperature", &SamplingArgs::temperature, 0, kMost},
    {"dynatemp_range", &SamplingArgs::dynatemp_range, 0, kMost},
    {"dynatemp_exponent", &SamplingArgs::dynatemp_exponent, 0, kMost},
    {"top_n_sigma", &SamplingArgs::top_n_sigma, 0, kMost},
    {"typical_p", &SamplingArgs::typical_p, 0, 1, true},
    {"top_p", &SamplingArgs::top_p, 0, 1, true},
    {"min_p", &SamplingArgs::min_p, 0, 1},
    {"xtc_probability", &SamplingArgs::xtc_probability, 0, 1},
    {"xtc_threshold", &SamplingArgs::xtc_threshold, 0, 1},
    {"mirostat_tau", &SamplingArgs::mirostat_tau, 0, kMost},
    {"mirostat_eta", &SamplingArgs::mirostat_eta, 0, kMost},
    {"mirostat_mu", &SamplingArgs::mirostat_mu, -kMost, kMost},
};

struct IntField {
  const char* name;
  std::int32_t SamplingArgs::*field;
  std::int32_t low;
};

constexpr IntField kInts[] = {
    {"dry_allowed_length", &SamplingArgs::dry_allowed_length, 1},
    {"dry_last_n", &SamplingArgs::dry_last_n, -1},
    {"penalty_last_n", &SamplingArgs::penalty_last_n, -1},
    {"no_repeat_ngram", &SamplingArgs::no_repeat_ngram, 0},
    {"min_tokens", &SamplingArgs::min_tokens, 0},
    {"is_constrained", &SamplingArgs::is_constrained, 0},
    {"top_k", &SamplingArgs::top_k, 0},
    {"num_prompt", &SamplingArgs::num_prompt, 0},
    {"num_logprobs", &SamplingArgs::num_logprobs, -1},
    {"num_prompt_logprobs", &SamplingArgs::num_prompt_logprobs, -1},
};

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void set_number(SamplingArgs& args, const std::string& name, nb::handle value) {
  for (const FloatField& f : kFloats)
    if (name == f.name) {
      const double number = nb::cast<double>(value);
      if (!(f.is_open ? number > f.low : number >= f.low) || !(number <= f.high))
        refuse(name + " is " + std::to_string(number) + "; it may be " + (f.is_open ? "above " : "from ") +
               std::to_string(f.low) + " up to " + std::to_string(f.high));
      args.*f.field = static_cast<float>(number);
      return;
    }
  for (const IntField& f : kInts)
    if (name == f.name) {
      const std::int64_t number = nb::cast<std::int64_t>(value);
      if (number < f.low) refuse(name + " is " + std::to_string(number) + "; the least is " + std::to_string(f.low));
      args.*f.field = static_cast<std::int32_t>(std::min<std::int64_t>(number, INT32_MAX));
      return;
    }
  refuse(name + " is no number of a row's sampling");
}

std::vector<std::int32_t> ids_of(nb::handle sequence) {
  std::vector<std::int32_t> out;
  for (const nb::handle id : sequence) out.push_back(nb::cast<std::int32_t>(id));
  return out;
}

template <typename T>
Span<T> span_of(const std::vector<T>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

RowSampling row_sampling(const nb::dict& numbers, std::uint64_t seed, nb::handle logit_bias, nb::handle dry_breakers,
                         nb::handle bad_words, nb::handle stop_ids, nb::handle allowed_ids) {
  auto lists = std::make_shared<SamplingLists>();
  RowSampling out;
  for (const auto& [name, value] : numbers) set_number(out.args, nb::cast<std::string>(name), value);
  out.args.seed = seed;
  for (const nb::handle pair : logit_bias) {
    lists->bias_ids.push_back(nb::cast<std::int32_t>(pair[0]));
    lists->bias_amounts.push_back(nb::cast<float>(pair[1]));
    if (!std::isfinite(lists->bias_amounts.back())) refuse("a logit_bias is not finite");
  }
  for (const nb::handle word : bad_words) {
    const std::vector<std::int32_t> ids = ids_of(word);
    if (ids.empty()) refuse("bad_words has one of no tokens");
    lists->bad_tokens.insert(lists->bad_tokens.end(), ids.begin(), ids.end());
    lists->bad_ends.push_back(static_cast<std::int32_t>(lists->bad_tokens.size()));
  }
  lists->breakers = ids_of(dry_breakers);
  std::sort(lists->breakers.begin(), lists->breakers.end());
  lists->stop_ids = ids_of(stop_ids);
  out.args.limits_allowed = !allowed_ids.is_none();
  if (out.args.limits_allowed) lists->allowed = ids_of(allowed_ids);
  out.args.bias_ids = span_of(lists->bias_ids);
  out.args.bias_amounts = span_of(lists->bias_amounts);
  out.args.breakers = span_of(lists->breakers);
  out.args.bad_tokens = span_of(lists->bad_tokens);
  out.args.bad_ends = span_of(lists->bad_ends);
  out.args.stop_ids = span_of(lists->stop_ids);
  out.args.allowed = span_of(lists->allowed);
  out.lists = std::move(lists);
  return out;
}

const char* text_of(SampleFault fault) {
  switch (fault) {
    case SampleFault::none: return "";
    case SampleFault::not_a_number: return "the logits have NaN";
    case SampleFault::infinite: return "the logits have +Inf";
    case SampleFault::all_masked: return "every logit is -Inf: no token is possible";
    case SampleFault::nothing_left:
      return "the request's bans and allowed tokens leave no token that the model could give";
    case SampleFault::no_mask: return "the row is constrained and was given no mask";
    case SampleFault::no_embedding: return "the token drawn is one that the model has no embedding for";
  }
  return "";
}

nb::object scored_of(const RowSample& sample) {
  if (sample.num_scored == 0) return nb::none();
  const std::size_t count = static_cast<std::size_t>(sample.num_scored * sample.width);
  std::vector<std::int32_t> ids(count);
  std::vector<float> logprobs(count);
  for (std::size_t i = 0; i < count; i++) {
    ids[i] = sample.scored[i].id;
    logprobs[i] = sample.scored[i].score;
  }
  return nb::make_tuple(sample.first_scored, sample.width, nb::bytes(ids.data(), count * sizeof(std::int32_t)),
                        nb::bytes(logprobs.data(), count * sizeof(float)));
}

// What rows with these logits, these tokens and each of the seeds draw; -1 for a fault.
nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>> draw(const std::string& isa, const RowSampling& sampling,
                                                       const Floats& logits, const Ids& tokens, const Seeds& seeds) {
  const Kernels& kernels = kernels_for(isa_named(isa));
  const std::int64_t vocab = static_cast<std::int64_t>(logits.size());
  const std::int64_t num_tokens = static_cast<std::int64_t>(tokens.size());
  RowTable table(Limits{1, 1, 1, 1, num_tokens + 1, vocab, vocab});
  if (vocab < 1 || seeds.size() < 1) refuse("there are no logits, or no seeds");
  table.open(0, tokens.data(), num_tokens, sampling);
  std::int32_t* out = new std::int32_t[seeds.size()];
  const nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<std::int32_t*>(p); });
  std::vector<std::byte> scratch(kernels.sample_scratch_bytes(vocab, num_tokens + 1) + 64);
  std::byte* aligned = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64);
  SamplingArgs args = sampling.args;
  args.num_logprobs = -1;
  for (std::size_t i = 0; i < seeds.size(); i++) {
    args.seed = seeds.data()[i];
    SampleResult result;
    kernels.sample(args, logits.data(), vocab, tokens.data(), num_tokens, aligned, result);
    out[i] = result.token_id;
  }
  return nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>(out, {seeds.size()}, owner);
}


// [(row, token id, logprob, [(id, logprob), ...], fault or None, mirostat_mu, scored or None)] of the last step; scored:
// (first position, width, token ids, logprobs), the last two the bytes of int32 and float32.
nb::list samples_of(const std::vector<RowSample>& samples) {
  nb::list out;
  for (const RowSample& sample : samples) {
    const SampleResult& result = sample.result;
    nb::list top;
    for (std::int32_t i = 0; i < result.num_top; i++) top.append(nb::make_tuple(result.top[i].id, result.top[i].score));
    const bool is_good = result.fault == SampleFault::none;
    const nb::object fault = is_good ? nb::none() : nb::object(nb::str(text_of(result.fault)));
    out.append(nb::make_tuple(sample.row, result.token_id, result.logprob, nb::tuple(top), fault, result.mirostat_mu,
                              is_good ? scored_of(sample) : nb::none()));
  }
  return out;
}

// The same rows again and again, each a token further, until `steps` are done, or a row has drawn one of `ends` or a
// fault. Of each step, its samples as `samples` has them, and when it ended: seconds from the call.
nb::list run_on(Program& program, const Lines& lines, const Ids& new_blocks, std::int64_t steps, const Ids& ends) {
  struct Kept {
    std::vector<RowSample> samples;
    std::vector<Candidate> top;
    double ended;
  };
  const std::size_t count = lines.shape(0);
  const PlanLine* const given = reinterpret_cast<const PlanLine*>(lines.data());
  std::vector<PlanLine> plan(given, given + count);
  for (const PlanLine& line : plan)
    require(line.num_new == 1 && line.num_logits == 1, "only rows that write go on by themselves");
  require(steps >= 1, "no steps");
  const std::int32_t* const last = ends.data() + ends.size();
  std::vector<Kept> kept;
  {
    const nb::gil_scoped_release unlocked;
    const auto began = std::chrono::steady_clock::now();
    bool goes_on = true;
    for (std::int64_t step = 0; goes_on && step < steps; step++) {
      const std::int64_t num_blocks = step == 0 ? static_cast<std::int64_t>(new_blocks.size()) : 0;
      program.run(plan.data(), static_cast<std::int64_t>(count), new_blocks.data(), num_blocks, true);
      for (PlanLine& line : plan) {
        line.num_context++;
        line.num_new_blocks = 0;
      }
      Kept& one = kept.emplace_back();
      one.samples = program.samples();
      one.ended = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      std::size_t num_top = 0;
      for (const RowSample& sample : one.samples) num_top += static_cast<std::size_t>(sample.result.num_top);
      one.top.reserve(num_top);  // pointed into
      for (RowSample& sample : one.samples) {
        SampleResult& result = sample.result;
        // What a row scores lies where the next step writes.
        goes_on = goes_on && result.fault == SampleFault::none && sample.num_scored == 0 &&
                  std::find(ends.data(), last, result.token_id) == last;
        const Candidate* const from = result.top;
        result.top = one.top.data() + one.top.size();
        one.top.insert(one.top.end(), from, from + result.num_top);
      }
    }
  }
  nb::list out;
  for (const Kept& one : kept) out.append(nb::make_tuple(samples_of(one.samples), one.ended));
  return out;
}

}  // namespace

nb::list samples(const Program& program) { return samples_of(program.samples()); }

void bind_sampling(nb::module_& m, nb::class_<Program>& program) {
  program.def("samples", &samples)
      .def("run_on", &run_on, "lines"_a, "new_blocks"_a, "steps"_a, "ends"_a);
  nb::class_<RowSampling>(m, "Sampling")
      .def(
          "__init__",
          [](RowSampling* self, const nb::dict& numbers, std::uint64_t seed, nb::handle logit_bias,
             nb::handle dry_breakers, nb::handle bad_words, nb::handle stop_ids, nb::handle allowed_ids) {
            new (self) RowSampling(
                row_sampling(numbers, seed, logit_bias, dry_breakers, bad_words, stop_ids, allowed_ids));
          },
          "numbers"_a, "seed"_a, "logit_bias"_a, "dry_breakers"_a, "bad_words"_a, "stop_ids"_a,
          "allowed_ids"_a.none());
  m.def("draw", &draw, "isa"_a, "sampling"_a, "logits"_a, "tokens"_a, "seeds"_a);
}

}  // namespace ridgeline
