#include "operators_entries.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace ridgeline {
namespace {

// New tokens whose scores are made together, so that entries are laid out once for all of them.
constexpr std::int64_t kScoredTokens = 8;

const StepRow& row_of(const Step& step, std::int64_t token) {
  const auto after = std::upper_bound(step.rows.begin(), step.rows.end(), token,
                                      [](std::int64_t t, const StepRow& row) { return t < row.token_begin; });
  return *(after - 1);
}

// To nearest, ties to even; NaN stays one.
std::uint16_t bf16_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

std::byte* entry_at(const StepContext& context, const KvPlace& place, const std::int32_t* const* tables,
                    std::int64_t index) {
  const std::int64_t last = (index + 1) * place.every - 1, run = std::min(place.every, kBlockTokens);
  const std::int32_t block = tables[place.column][last / kBlockTokens];
  return context.cache.tile(block, place.entries()) +
         static_cast<std::size_t>(last % kBlockTokens / run) * entry_bytes(place.key_dim);
}

// Pairs of channels are words of a tile of keys; a token is one of 16 columns of them.
constexpr std::int64_t words_of(std::int64_t channels) { return channels / 2; }
std::uint32_t* column_of(std::byte* tiles, std::int64_t column, std::int64_t words) {
  return reinterpret_cast<std::uint32_t*>(tiles) + column / kBlockTokens * words * kBlockTokens +
         column % kBlockTokens;
}

void put_entry(const std::byte* entry, std::byte* tiles, std::int64_t column, std::int64_t words) {
  const auto* from = reinterpret_cast<const std::uint32_t*>(entry);
  std::uint32_t* to = column_of(tiles, column, words);
  for (std::int64_t c = 0; c < words; c++) to[c * kBlockTokens] = from[c];
}

// Columns from `column` on in their tile: nothing is read of them, but they are multiplied.
void clear_columns(std::byte* tiles, std::int64_t column, std::int64_t words) {
  if (column % kBlockTokens == 0) return;
  std::uint32_t* to = column_of(tiles, column, words);
  const auto bytes = static_cast<std::size_t>(kBlockTokens - column % kBlockTokens) * sizeof *to;
  for (std::int64_t c = 0; c < words; c++) std::memset(to + c * kBlockTokens, 0, bytes);
}

}  // namespace

// ---- entry_write

EntryWrite::EntryWrite(std::string name, View x, KvPlace place)
    : Operator(std::move(name), "entry_write"), x_(x), place_(place) {}

void EntryWrite::run(const StepContext& context, Worker& worker) {
  const std::vector<Segment>& segments = context.step.segments;
  worker.runs(static_cast<std::int64_t>(segments.size()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i++) {
      const Segment& segment = segments[static_cast<std::size_t>(i)];
      for (std::int64_t r = 0; r < segment.count; r++) {
        const std::int64_t position = segment.position + r;
        if ((position + 1) % place_.every) continue;
        const float* x = context.at(x_) + (segment.token_begin + r) * x_.ld;
        auto* out = reinterpret_cast<std::uint16_t*>(
            entry_at(context, place_, segment.block_tables, position / place_.every));
        for (std::int64_t c = 0; c < place_.key_dim; c++) out[c] = bf16_of(x[c]);
      }
    }
  });
}

// ---- select_entries

SelectEntries::SelectEntries(std::string name, Spec spec) : Operator(std::move(name), "select_entries"), spec_(spec) {}

// Scores of the tokens, numbers of entries, a chunk's tiles, and what the kernel needs.
std::size_t SelectEntries::scratch_bytes(const Kernels& kernels) const {
  const std::size_t entries = static_cast<std::size_t>(padded_to_16(spec_.max_entries));
  return entries * (kScoredTokens * sizeof(float) + sizeof(std::int32_t)) +
         kChunkTokens / kBlockTokens * key_tile_bytes(CacheFormat::bf16, spec_.place.key_dim) +
         kernels.index_scratch_bytes(spec_.heads, spec_.place.key_dim);
}

void SelectEntries::run(const StepContext& context, Worker& worker) {
  const std::int64_t tokens = context.step.num_tokens, top_k = spec_.out.width, every = spec_.place.every;
  const std::int64_t ld = padded_to_16(spec_.max_entries);
  float* scores = reinterpret_cast<float*>(worker.scratch);
  auto* order = reinterpret_cast<std::int32_t*>(scores + kScoredTokens * ld);
  worker.each((tokens + kScoredTokens - 1) / kScoredTokens, [&](std::int64_t item) {
    for (std::int64_t begin = item * kScoredTokens, end; begin < std::min((item + 1) * kScoredTokens, tokens);
         begin = end) {
      const StepRow& row = row_of(context.step, begin);
      end = std::min({(item + 1) * kScoredTokens, row.token_begin + row.num_new});
      const auto complete = [&](std::int64_t token) { return (row.num_context + token - row.token_begin + 1) / every; };
      if (complete(end - 1) > top_k)
        score(context, row, begin, end, scores, reinterpret_cast<std::byte*>(order + ld));
      for (std::int64_t token = begin; token < end; token++)
        choose(scores + (token - begin) * ld, complete(token), order,
               context.at(spec_.out) + token * spec_.out.ld);
    }
  });
}

void SelectEntries::score(const StepContext& context, const StepRow& row, std::int64_t begin, std::int64_t end,
                          float* scores, std::byte* scratch) const {
  const std::int64_t words = words_of(spec_.place.key_dim), ld = padded_to_16(spec_.max_entries);
  const std::int64_t entries = (row.num_context + end - row.token_begin) / spec_.place.every;
  std::int32_t in_order[kChunkTokens / kBlockTokens];
  for (std::int32_t i = 0; i < kChunkTokens / kBlockTokens; i++) in_order[i] = i;
  const std::size_t tile = key_tile_bytes(CacheFormat::bf16, spec_.place.key_dim);
  std::byte* inside = scratch + kChunkTokens / kBlockTokens * tile;
  for (std::int64_t first = 0; first < entries; first += kChunkTokens) {
    const std::int64_t count = std::min(kChunkTokens, entries - first);
    for (std::int64_t i = 0; i < count; i++)
      put_entry(entry_at(context, spec_.place, row.block_tables, first + i), scratch, i, words);
    clear_columns(scratch, count, words);
    for (std::int64_t token = begin; token < end; token++) {
      const IndexArgs args{spec_.heads,
                           spec_.place.key_dim,
                           0,
                           context.at(spec_.q) + token * spec_.q.ld,
                           nullptr,
                           context.at(spec_.weights) + token * spec_.weights.ld,
                           {scratch, tile, 0},
                           {0, tile},
                           in_order};
      context.kernels.index_scores(args, (count + kBlockTokens - 1) / kBlockTokens,
                                   scores + (token - begin) * ld + first, inside);
    }
  }
}

void SelectEntries::choose(float* scores, std::int64_t complete, std::int32_t* order, float* out) const {
  const std::int64_t top_k = spec_.out.width;
  if (complete <= top_k) {
    for (std::int64_t i = 0; i < top_k; i++) out[i] = i < complete ? static_cast<float>(i) : -1.0f;
    return;
  }
  for (std::int64_t i = 0; i < complete; i++) {
    order[i] = static_cast<std::int32_t>(i);
    if (!(scores[i] == scores[i])) scores[i] = -std::numeric_limits<float>::infinity();  // a NaN has no order
  }
  std::nth_element(order, order + top_k - 1, order + complete, [&](std::int32_t a, std::int32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
  std::sort(order, order + top_k);
  for (std::int64_t i = 0; i < top_k; i++) out[i] = static_cast<float>(order[i]);
}

// ---- entry_attention

// What a thread's tiles hold: of which token; and how many columns of its window and of its row's first entries.
struct EntryAttention::Gathered {
  const StepRow* row = nullptr;
  std::int64_t token = -1, window = 0, entries = 0;
};

EntryAttention::EntryAttention(std::string name, Spec spec)
    : Operator(std::move(name), "entry_attention"),
      spec_(std::move(spec)),
      plain_("", Attention::Spec{spec_.q, spec_.out, spec_.window, spec_.heads, spec_.scale, 0.0f, true, -1,
                                 spec_.sinks}) {
  const std::int64_t most = spec_.chosen ? spec_.chosen->width : spec_.max_entries;
  for (std::int64_t i = 0; spec_.entries && i < (spec_.window.window + most) / kBlockTokens + 2; i++)
    in_order_.push_back(static_cast<std::int32_t>(i));
}

std::size_t EntryAttention::tiles_bytes() const {
  return aligned(in_order_.size() * key_tile_bytes(CacheFormat::bf16, spec_.window.key_dim));
}

std::size_t EntryAttention::scratch_bytes(const Kernels& kernels) const {
  return tiles_bytes() + plain_.scratch_bytes(kernels);
}

// Every token is an item of its own, since each sees other keys; all its heads, unless there are too few tokens for all
// threads. What a token gives depends on its position and its row's caches alone.
void EntryAttention::run(const StepContext& context, Worker& worker) {
  if (!spec_.entries) return plain_.run(context, worker);
  const CacheAttention& attention = plain_.attention_of(context.kernels);
  const std::int64_t groups = plain_.num_groups(), tokens = context.step.num_tokens;
  const std::int64_t parts = tokens < 2 * worker.num_threads ? groups : 1;
  std::byte* scratch = worker.scratch + tiles_bytes();
  Gathered held;
  worker.each(tokens * parts, [&](std::int64_t item) {
    const std::int64_t token = item / parts, query = token - row_of(context.step, token).token_begin;
    const StepRow& row = row_of(context.step, token);
    if (held.token != token) gather(context, row, token, worker.scratch, held);
    for (std::int64_t group = item % parts; group < groups; group += parts) {
      AttentionArgs args = plain_.args(context, row, group);
      args.q += query * args.ldq;
      args.out += query * args.ldo;
      args.keys = {0, key_tile_bytes(CacheFormat::bf16, spec_.window.key_dim)};
      args.cache = {worker.scratch, args.keys.num_bytes, 0};
      args.block_table = in_order_.data();
      args.window = 0;
      args.num_context = held.window + held.entries - 1;
      args.num_new = 1;
      attention.attend(args, 0, 1, nullptr, scratch);
    }
  });
}

void EntryAttention::gather(const StepContext& context, const StepRow& row, std::int64_t token, std::byte* tiles,
                            Gathered& held) const {
  const std::int64_t words = words_of(spec_.window.key_dim);
  const std::int64_t position = row.num_context + token - row.token_begin;
  const std::int64_t complete = (position + 1) / spec_.entries->every;
  const std::int64_t window = gather_window(context, row, position, tiles);
  // A row's first entries stay where they are from token to token, if all are seen and the window is as wide.
  std::int64_t have = !spec_.chosen && held.row == &row && held.window == window ? held.entries : 0;
  have = std::min(have, complete);
  std::int64_t count = have;
  if (spec_.chosen) {
    const float* chosen = context.at(*spec_.chosen) + token * spec_.chosen->ld;
    for (; count < spec_.chosen->width && chosen[count] >= 0; count++)
      put_entry(entry_at(context, *spec_.entries, row.block_tables, static_cast<std::int64_t>(chosen[count])), tiles,
                window + count, words);
  } else {
    for (; count < complete; count++)
      put_entry(entry_at(context, *spec_.entries, row.block_tables, count), tiles, window + count, words);
  }
  clear_columns(tiles, window + count, words);
  held = {&row, token, window, count};
}

// Columns that the window takes: a position always the same one.
std::int64_t EntryAttention::gather_window(const StepContext& context, const StepRow& row, std::int64_t position,
                                           std::byte* tiles) const {
  const std::int64_t words = words_of(spec_.window.key_dim), reach = spec_.window.window;
  const std::size_t bytes = key_tile_bytes(CacheFormat::bf16, spec_.window.key_dim);
  const std::int64_t first = std::max<std::int64_t>(0, position - reach + 1), ring = reach / kBlockTokens;
  const auto tile_of = [&](std::int64_t block) {
    return context.cache.tile(row.block_tables[spec_.window.column][block], spec_.window.keys());
  };
  const std::int64_t begin = first / kBlockTokens, end = position / kBlockTokens;
  if (first == 0) {
    for (std::int64_t block = 0; block <= end; block++)
      std::memcpy(tiles + static_cast<std::size_t>(block) * bytes, tile_of(block), bytes);
  } else if (reach % kBlockTokens == 0) {
    // A ring of whole tiles. The first block's last columns and the last block's first ones share one.
    for (std::int64_t block = begin; block < end; block++)
      std::memcpy(tiles + static_cast<std::size_t>(block % ring) * bytes, tile_of(block), bytes);
    const std::int64_t columns = position % kBlockTokens + 1;
    const auto* from = reinterpret_cast<const std::uint32_t*>(tile_of(end));
    auto* to = reinterpret_cast<std::uint32_t*>(tiles + static_cast<std::size_t>(end % ring) * bytes);
    for (std::int64_t c = 0; c < words; c++)
      std::memcpy(to + c * kBlockTokens, from + c * kBlockTokens, static_cast<std::size_t>(columns) * sizeof *to);
  } else {
    for (std::int64_t p = first; p <= position; p++) {
      const auto* from = reinterpret_cast<const std::uint32_t*>(tile_of(p / kBlockTokens)) + p % kBlockTokens;
      std::uint32_t* to = column_of(tiles, p - first, words);
      for (std::int64_t c = 0; c < words; c++) to[c * kBlockTokens] = from[c * kBlockTokens];
    }
  }
  return position - first + 1;
}

}  // namespace ridgeline
