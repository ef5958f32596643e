#include "operators_recurrent.h"

#include <algorithm>
#include <utility>

namespace ridgeline {
namespace {

constexpr std::int64_t kConvTiles = 8;  // an item of a convolution, of a selective scan
constexpr std::int64_t kScanTiles = 2;

// f(row, part) for every row of the step and each of its `parts`, once over all threads.
template <class F>
void each_part(const StepContext& context, Worker& worker, std::int64_t parts, F f) {
  const std::vector<StepRow>& rows = context.step.rows;
  worker.each(static_cast<std::int64_t>(rows.size()) * parts, [&](std::int64_t item) {
    f(rows[static_cast<std::size_t>(item / parts)], item % parts);
  });
}

const float* at(const StepContext& context, const View& view, std::int64_t token, std::int64_t column = 0) {
  return context.at(view) + token * view.ld + column;
}

}  // namespace

CausalConv::CausalConv(std::string name, View x, View y, StatePlace place, ConvArgs args)
    : Operator(std::move(name), "causal_conv"), x_(x), y_(y), place_(place), args_(args) {}

void CausalConv::run(const StepContext& context, Worker& worker) {
  const std::int64_t tiles = tiles_of(args_.channels), tile_floats = (args_.taps - 1) * kLanes;
  each_part(context, worker, (tiles + kConvTiles - 1) / kConvTiles, [&](const StepRow& row, std::int64_t part) {
    const std::int64_t begin = part * kConvTiles, end = std::min(begin + kConvTiles, tiles);
    float* state = state_of(context, row, place_.offset + begin * tile_floats, (end - begin) * tile_floats);
    ConvArgs args = args_;
    args.x = at(context, x_, row.token_begin);
    args.ldx = x_.ld;
    args.y = context.at(y_) + row.token_begin * y_.ld;
    args.ldy = y_.ld;
    context.kernels.causal_conv(args, begin, end, row.num_new, state);
  });
}

Compress::Compress(std::string name, View x, View scores, View y, StatePlace place, CompressArgs args)
    : Operator(std::move(name), "compress"), x_(x), scores_(scores), y_(y), place_(place), args_(args) {}

void Compress::run(const StepContext& context, Worker& worker) {
  const std::int64_t tiles = tiles_of(args_.channels), tile_floats = args_.numbers() * kLanes;
  each_part(context, worker, (tiles + kConvTiles - 1) / kConvTiles, [&](const StepRow& row, std::int64_t part) {
    const std::int64_t begin = part * kConvTiles, end = std::min(begin + kConvTiles, tiles);
    float* state = state_of(context, row, place_.offset + begin * tile_floats, (end - begin) * tile_floats);
    CompressArgs args = args_;
    args.x = at(context, x_, row.token_begin);
    args.ldx = x_.ld;
    args.scores = at(context, scores_, row.token_begin);
    args.lds = scores_.ld;
    args.y = context.at(y_) + row.token_begin * y_.ld;
    args.ldy = y_.ld;
    args.position = row.num_context;
    context.kernels.compress(args, begin, end, row.num_new, state);
  });
}

SelectiveScan::SelectiveScan(std::string name, Spec spec)
    : Operator(std::move(name), "selective_scan"), spec_(spec) {}

void SelectiveScan::run(const StepContext& context, Worker& worker) {
  const std::int64_t tiles = tiles_of(spec_.x.width), size = spec_.b.width, tile_floats = size * kLanes;
  each_part(context, worker, (tiles + kScanTiles - 1) / kScanTiles, [&](const StepRow& row, std::int64_t part) {
    const std::int64_t begin = part * kScanTiles, end = std::min(begin + kScanTiles, tiles);
    float* state = state_of(context, row, spec_.place.offset + begin * tile_floats, (end - begin) * tile_floats);
    const std::int64_t token = row.token_begin;
    const SelectiveArgs args{spec_.x.width,
                             size,
                             spec_.a,
                             spec_.d,
                             at(context, spec_.x, token),
                             at(context, spec_.dt, token),
                             at(context, spec_.b, token),
                             at(context, spec_.c, token),
                             spec_.x.ld,
                             spec_.dt.ld,
                             spec_.b.ld,
                             spec_.c.ld,
                             context.at(spec_.y) + token * spec_.y.ld,
                             spec_.y.ld};
    context.kernels.selective_scan(args, begin, end, row.num_new, state);
  });
}

SsdScan::SsdScan(std::string name, Spec spec) : Operator(std::move(name), "ssd_scan"), spec_(spec) {}

void SsdScan::run(const StepContext& context, Worker& worker) {
  const std::int64_t head_dim = spec_.x.width / spec_.heads, size = spec_.b.width / spec_.groups;
  const std::int64_t head_floats = tiles_of(head_dim) * size * kLanes, group = spec_.heads / spec_.groups;
  each_part(context, worker, spec_.heads, [&](const StepRow& row, std::int64_t head) {
    float* state = state_of(context, row, spec_.place.offset + head * head_floats, head_floats);
    const std::int64_t token = row.token_begin, column = head / group * size;
    const SsdArgs args{head_dim,
                       size,
                       spec_.a[head],
                       spec_.d[head],
                       spec_.dt_bias[head],
                       spec_.dt_low,
                       spec_.dt_high,
                       at(context, spec_.x, token, head * head_dim),
                       at(context, spec_.b, token, column),
                       at(context, spec_.c, token, column),
                       at(context, spec_.dt, token, head),
                       spec_.x.ld,
                       spec_.b.ld,
                       spec_.c.ld,
                       spec_.dt.ld,
                       context.at(spec_.y) + token * spec_.y.ld + head * head_dim,
                       spec_.y.ld};
    context.kernels.ssd_scan(args, row.num_new, state);
  });
}

DecayAttention::DecayAttention(std::string name, Spec spec)
    : Operator(std::move(name), "decay_attention"), spec_(spec) {}

void DecayAttention::run(const StepContext& context, Worker& worker) {
  const std::int64_t value_dim = spec_.v.width / spec_.heads, key_dim = spec_.k.width / spec_.heads;
  const std::int64_t head_floats = tiles_of(value_dim) * key_dim * kLanes;
  each_part(context, worker, spec_.heads, [&](const StepRow& row, std::int64_t head) {
    float* state = state_of(context, row, spec_.place.offset + head * head_floats, head_floats);
    const std::int64_t token = row.token_begin;
    SsdArgs args{};
    args.head_dim = value_dim;
    args.size = key_dim;
    args.a = spec_.a[head];
    args.x = at(context, spec_.v, token, head * value_dim);
    args.b = at(context, spec_.k, token, head * key_dim);
    args.c = at(context, spec_.q, token, head * key_dim);
    args.ldx = spec_.v.ld;
    args.ldb = spec_.k.ld;
    args.ldc = spec_.q.ld;
    args.y = context.at(spec_.y) + token * spec_.y.ld + head * value_dim;
    args.ldy = spec_.y.ld;
    context.kernels.ssd_scan(args, row.num_new, state);
  });
}

DeltaRule::DeltaRule(std::string name, Spec spec) : Operator(std::move(name), "delta_rule"), spec_(spec) {}

std::size_t DeltaRule::scratch_bytes(const Kernels& kernels) const {
  return kernels.delta_scratch_bytes(spec_.k.width / spec_.key_heads);
}

void DeltaRule::run(const StepContext& context, Worker& worker) {
  const std::int64_t key_dim = spec_.k.width / spec_.key_heads, value_dim = spec_.v.width / spec_.value_heads;
  const std::int64_t head_floats = tiles_of(value_dim) * key_dim * kLanes, group = spec_.value_heads / spec_.key_heads;
  const std::int64_t decays = spec_.by_channel ? key_dim : 1;
  each_part(context, worker, spec_.value_heads, [&](const StepRow& row, std::int64_t head) {
    float* state = state_of(context, row, spec_.place.offset + head * head_floats, head_floats);
    const std::int64_t token = row.token_begin, key_head = spec_.tiled ? head % spec_.key_heads : head / group;
    const std::int64_t column = key_head * key_dim;
    const DeltaArgs args{key_dim,
                         value_dim,
                         spec_.by_channel,
                         spec_.a[head],
                         spec_.floor,
                         spec_.dt_bias + head * decays,
                         at(context, spec_.q, token, column),
                         at(context, spec_.k, token, column),
                         at(context, spec_.v, token, head * value_dim),
                         at(context, spec_.g, token, head * decays),
                         at(context, spec_.beta, token, head),
                         spec_.q.ld,
                         spec_.k.ld,
                         spec_.v.ld,
                         spec_.g.ld,
                         spec_.beta.ld,
                         context.at(spec_.y) + token * spec_.y.ld + head * value_dim,
                         spec_.y.ld};
    context.kernels.delta_rule(args, row.num_new, state, worker.scratch);
  });
}

RgLru::RgLru(std::string name, Spec spec) : Operator(std::move(name), "rg_lru"), spec_(spec) {}

void RgLru::run(const StepContext& context, Worker& worker) {
  const std::int64_t tiles = tiles_of(spec_.x.width);
  each_part(context, worker, (tiles + kConvTiles - 1) / kConvTiles, [&](const StepRow& row, std::int64_t part) {
    const std::int64_t begin = part * kConvTiles, end = std::min(begin + kConvTiles, tiles);
    float* state = state_of(context, row, spec_.place.offset + begin * kLanes, (end - begin) * kLanes);
    const std::int64_t token = row.token_begin;
    const LruArgs args{spec_.x.width,
                       spec_.rate,
                       at(context, spec_.x, token),
                       at(context, spec_.r, token),
                       at(context, spec_.i, token),
                       spec_.x.ld,
                       spec_.r.ld,
                       spec_.i.ld,
                       context.at(spec_.y) + token * spec_.y.ld,
                       spec_.y.ld,
                       row.num_context == 0};
    context.kernels.rg_lru(args, begin, end, row.num_new, state);
  });
}

TokenShift::TokenShift(std::string name, View x, std::vector<View> outputs, StatePlace place, ShiftArgs args)
    : Operator(std::move(name), "token_shift"), x_(x), outputs_(std::move(outputs)), place_(place), args_(args) {}

void TokenShift::run(const StepContext& context, Worker& worker) {
  const std::int64_t tiles = tiles_of(x_.width);
  each_part(context, worker, (tiles + kConvTiles - 1) / kConvTiles, [&](const StepRow& row, std::int64_t part) {
    const std::int64_t begin = part * kConvTiles, end = std::min(begin + kConvTiles, tiles);
    float* state = state_of(context, row, place_.offset + begin * kLanes, (end - begin) * kLanes);
    ShiftArgs args = args_;
    args.x = at(context, x_, row.token_begin);
    args.ldx = x_.ld;
    for (std::size_t j = 0; j < outputs_.size(); j++) {
      args.y[j] = context.at(outputs_[j]) + row.token_begin * outputs_[j].ld;
      args.ldy[j] = outputs_[j].ld;
    }
    context.kernels.token_shift(args, begin, end, row.num_new, state);
  });
}

Wkv7::Wkv7(std::string name, Spec spec) : Operator(std::move(name), "wkv7"), spec_(spec) {}

std::size_t Wkv7::scratch_bytes(const Kernels& kernels) const {
  return kernels.wkv7_scratch_bytes(spec_.v.width / spec_.heads);
}

void Wkv7::run(const StepContext& context, Worker& worker) {
  const std::int64_t head_dim = spec_.v.width / spec_.heads, head_floats = tiles_of(head_dim) * head_dim * kLanes;
  each_part(context, worker, spec_.heads, [&](const StepRow& row, std::int64_t head) {
    float* state = state_of(context, row, spec_.place.offset + head * head_floats, head_floats);
    const std::int64_t token = row.token_begin, column = head * head_dim;
    const WkvArgs args{head_dim,
                       spec_.direction + column,
                       spec_.change + column,
                       spec_.bonus + column,
                       at(context, spec_.r, token, column),
                       at(context, spec_.w, token, column),
                       at(context, spec_.k, token, column),
                       at(context, spec_.v, token, column),
                       at(context, spec_.a, token, column),
                       spec_.r.ld,
                       spec_.w.ld,
                       spec_.k.ld,
                       spec_.v.ld,
                       spec_.a.ld,
                       context.at(spec_.y) + token * spec_.y.ld + column,
                       context.at(spec_.own) + token * spec_.own.ld + column,
                       spec_.y.ld,
                       spec_.own.ld};
    context.kernels.wkv7(args, row.num_new, state, worker.scratch);
  });
}

SplitGroups::SplitGroups(std::string name, View x, std::vector<View> outputs, std::int64_t groups)
    : Operator(std::move(name), "split_groups"), x_(x), outputs_(std::move(outputs)), groups_(groups) {}

void SplitGroups::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(x_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      const float* x = at(context, x_, r);
      for (std::int64_t group = 0; group < groups_; group++)
        for (const View& y : outputs_) {
          const std::int64_t size = y.width / groups_;
          std::memcpy(context.at(y) + r * y.ld + group * size, x, static_cast<std::size_t>(size) * sizeof(float));
          x += size;
        }
    }
  });
}

Join::Join(std::string name, View a, View b, View y) : Operator(std::move(name), "join"), a_(a), b_(b), y_(y) {}

void Join::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      float* y = context.at(y_) + r * y_.ld;
      std::memcpy(y, at(context, a_, r), static_cast<std::size_t>(a_.width) * sizeof(float));
      std::memcpy(y + a_.width, at(context, b_, r), static_cast<std::size_t>(b_.width) * sizeof(float));
    }
  });
}

}  // namespace ridgeline
