// The Python module: builds programs and runs them. Bounds that a wrong caller could break are checked here or below;
// std::invalid_argument, std::out_of_range and std::bad_alloc become ValueError, IndexError and MemoryError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "module.h"
#include "operators_linear.h"
#include "program.h"
#include "roofs.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pairs = nb::ndarray<const std::int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Lines = nb::ndarray<const std::int32_t, nb::shape<-1, 6>, nb::c_contig, nb::device::cpu>;

ActivationKind kind_named(const std::string& name) {
  static constexpr std::pair<const char*, ActivationKind> kKinds[] = {{"int8", ActivationKind::int8},
                                                                      {"int8x2", ActivationKind::int8x2},
                                                                      {"int16", ActivationKind::int16},
                                                                      {"bf16", ActivationKind::bf16},
                                                                      {"f32", ActivationKind::f32}};
  for (const auto& [key, value] : kKinds)
    if (name == key) return value;
  throw std::invalid_argument("no kind of activations is called " + name);
}

const std::byte* bytes_of(const Bytes& array) { return reinterpret_cast<const std::byte*>(array.data()); }

Matrix pack(Program& program, const std::string& format, const Bytes& raw, std::int64_t n, std::int64_t k,
            std::int64_t row_bytes, const std::function<void()>& release) {
  require(n > 0 && k > 0 && row_bytes > 0, "a matrix is empty");
  require(raw.size() == static_cast<std::size_t>(n) * static_cast<std::size_t>(row_bytes),
          "a matrix does not have the bytes of its shape");
  const nb::gil_scoped_release unlocked;  // `release` takes it back for as long as it runs
  return {program.pack(format, bytes_of(raw), n, k, static_cast<std::size_t>(row_bytes), release)};
}

// Packed matrices as Python keeps them: (format, n, k, prescale, offset).
using Records = std::vector<std::tuple<std::string, std::int64_t, std::int64_t, float, std::size_t>>;

void read_weights(Program& program, int file, std::size_t num_bytes, const Records& records) {
  std::vector<PackedRecord> packed;
  for (const auto& [format, n, k, prescale, offset] : records) packed.push_back({format, n, k, prescale, offset});
  program.weights().read_from(program.kernels(), file, num_bytes, std::move(packed));
}

Records finish_weights(Program& program) {
  Records records;
  for (const PackedRecord& record : program.weights().finish_file())
    records.emplace_back(record.format, record.n, record.k, record.prescale, record.offset);
  return records;
}

// Where x does not lie as activations yet, `fine_activations` says that integer layouts get them in two int8 terms.
std::vector<LinearPart> linear_parts(Program& program, const View& x, const std::vector<Matrix>& matrices,
                                     const std::vector<std::optional<Floats>>& biases, bool fine_activations) {
  program.check_view(x);
  require(!matrices.empty() && matrices.size() == biases.size(), "a linear's parts disagree");
  std::vector<LinearPart> parts;
  std::int64_t column = 0;
  for (std::size_t i = 0; i < matrices.size(); i++) {
    const PackedMatrix& matrix = matrices[i].packed;
    require(matrix.k == x.width, "a linear's input is not as wide as its matrix");
    const float* bias = nullptr;
    if (biases[i]) {
      require(biases[i]->size() == static_cast<std::size_t>(matrix.n), "a bias is not as long as its matrix is high");
      bias = program.keep(biases[i]->data(), matrix.n);
    }
    ActivationKind kind = program.kernels().activation_of(matrix.layout);
    if (kind == ActivationKind::int8 && fine_activations) kind = ActivationKind::int8x2;
    require(!x.kind || *x.kind == kind, "a linear's input lies as activations of another kind than its matrix takes");
    parts.push_back({matrix, kind, bias, column});
    column += matrix.n;
  }
  return parts;
}

void add_linear(Program& program, const std::string& name, const View& x, const View& y,
                const std::vector<Matrix>& matrices, const std::vector<std::optional<Floats>>& biases,
                bool fine_activations) {
  check_floats(program, y);
  std::vector<LinearPart> parts = linear_parts(program, x, matrices, biases, fine_activations);
  require(x.sampled == y.sampled && parts.back().column + parts.back().matrix.n == y.width,
          "a linear's parts are not as wide as its output");
  program.add(std::make_unique<Linear>(name, x, y, std::move(parts)));
}

void add_gated_linear(Program& program, const std::string& name, const View& x, const View& y,
                      const std::vector<Matrix>& matrices, const std::vector<std::optional<Floats>>& biases,
                      const std::string& activation) {
  program.check_view(y);
  std::vector<LinearPart> parts = linear_parts(program, x, matrices, biases, false);
  require(!y.kind || by_pieces(*y.kind), "a gated linear makes its rows by pieces");
  require(x.sampled == y.sampled && parts.size() <= 2 &&
              parts.front().matrix.n == (parts.size() == 1 ? 2 * y.width : y.width) &&
              parts.back().column + parts.back().matrix.n == 2 * y.width,
          "gate and up are not as wide as their product");
  program.add(std::make_unique<GatedLinear>(name, x, y, std::move(parts), activation_named(activation)));
}

// The table's bytes must outlive the program: the binding keeps the array alive.
void add_embed(Program& program, const std::string& name, const View& y, const std::string& format, const Bytes& table,
               std::int64_t row_bytes, float scale) {
  check_floats(program, y);
  require(row_bytes > 0 && table.size() / static_cast<std::size_t>(row_bytes) >=
                               static_cast<std::size_t>(program.rows().limits().vocab_ids),
          "an embedding table has fewer rows than there are token ids");
  std::vector<float> row(static_cast<std::size_t>(y.width));
  require(program.kernels().decode_row(format.c_str(), bytes_of(table), y.width, row.data()),
          "no decoder for the embedding table's format");
  program.add(std::make_unique<Embed>(name, y, format, bytes_of(table), static_cast<std::size_t>(row_bytes), scale));
}

// A table of at least `rows` rows that its decoder knows; its bytes must outlive the program.
LookupTable lookup_table(Program& program, const View& y, const std::string& format, const Bytes& table,
                         std::int64_t row_bytes, std::int64_t rows) {
  check_floats(program, y);
  require(!y.sampled && row_bytes > 0 && rows > 0 &&
              table.size() / static_cast<std::size_t>(row_bytes) >= static_cast<std::size_t>(rows),
          "a table has fewer rows than are looked up");
  std::vector<float> row(static_cast<std::size_t>(y.width));
  require(program.kernels().decode_row(format.c_str(), bytes_of(table), y.width, row.data()),
          "no decoder for a table's format");
  return {format, bytes_of(table), static_cast<std::size_t>(row_bytes),
          static_cast<std::int64_t>(table.size()) / row_bytes};
}

void add_position_embed(Program& program, const std::string& name, const View& y, const std::string& format,
                        const Bytes& table, std::int64_t row_bytes, std::int64_t first) {
  const std::int64_t rows = program.rows().limits().max_context;
  require(first >= 0, "a table's first row is not one of it");
  program.add(
      std::make_unique<PositionEmbed>(name, y, lookup_table(program, y, format, table, row_bytes, rows + first), first));
}

void add_type_embed(Program& program, const std::string& name, const View& y, const std::string& format,
                    const Bytes& table, std::int64_t row_bytes, std::int32_t separator) {
  program.add(std::make_unique<TypeEmbed>(name, y, lookup_table(program, y, format, table, row_bytes, 1), separator));
}

void add_pool(Program& program, const std::string& name, const View& x, const View& y, const std::string& kind) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(kind == "mean" || kind == "first", "a pool is of the mean or of the first token");
  require(!x.sampled && y.sampled && x.width == y.width, "tokens are pooled into rows of logits");
  program.add(std::make_unique<Pool>(name, x, y, kind == "mean"));
}

NormSpec norm_spec(Program& program, const std::string& kind, float eps, float offset, std::int64_t groups,
                   const Floats& weight, const std::optional<Floats>& bias, bool by_group) {
  require(kind == "rms" || kind == "layer", "a norm is rms or layer");
  require(groups > 0 && weight.size() > 0, "a norm is empty");
  std::vector<float> shifted(weight.data(), weight.data() + weight.size());
  for (float& w : shifted) w += offset;
  const std::int64_t count = static_cast<std::int64_t>(weight.size());
  require(!bias || bias->size() == weight.size(), "a norm's bias is not as long as its weight");
  require(!by_group || count % groups == 0, "a norm's weights do not part into its groups");
  const std::int64_t width = by_group ? count / groups : count;
  return {kind, eps, groups, width, program.keep(shifted.data(), count),
          bias ? program.keep(bias->data(), count) : nullptr, by_group};
}

void check_norm(const NormSpec& norm, const View& x) {
  require(norm.groups * norm.width == x.width, "a norm is not as wide as its input");
}

void add_norm(Program& program, const std::string& name, const View& x, const View& y, const NormSpec& norm) {
  check_floats(program, x);
  program.check_view(y);
  check_norm(norm, x);
  check_norm(norm, y);
  require(x.sampled == y.sampled, "a norm's input and output differ in rows");
  program.add(std::make_unique<Norm>(name, x, y, norm.args()));
}

void add_add_norm(Program& program, const std::string& name, const View& a, const View& b, const View& total,
                  const View& y, const NormSpec& norm) {
  for (const View& view : {a, b, total}) check_floats(program, view);
  program.check_view(y);
  for (const View& view : {a, b, total, y}) {
    check_norm(norm, view);
    require(view.sampled == a.sampled, "an addition's values differ in rows");
  }
  program.add(std::make_unique<AddNorm>(name, a, b, total, y, norm.args()));
}

void add_elementwise(Program& program, const std::string& name, const std::string& type, const View& a, const View& b,
                     const View& y, float number, const std::string& activation) {
  static constexpr std::pair<const char*, Elementwise::Kind> kKinds[] = {{"add", Elementwise::Kind::add},
                                                                         {"scale", Elementwise::Kind::scale},
                                                                         {"softcap", Elementwise::Kind::softcap},
                                                                         {"gated_activation", Elementwise::Kind::gate},
                                                                         {"activate", Elementwise::Kind::activate}};
  for (const View& view : {a, b, y}) {
    check_floats(program, view);
    require(view.width == y.width && view.sampled == y.sampled, "an elementwise operator's values differ in shape");
  }
  const Activation function = activation.empty() ? Activation::silu : activation_named(activation);
  for (const auto& [key, value] : kKinds)
    if (type == key)
      return program.add(std::make_unique<Elementwise>(name, type, value, a, b, y, number, function));
  throw std::invalid_argument("no elementwise operator " + type);
}

void add_select_rows(Program& program, const std::string& name, const View& x, const View& y) {
  check_floats(program, x);
  program.check_view(y);
  require(!x.sampled && y.sampled && x.width == y.width, "rows are selected from tokens");
  program.add(std::make_unique<SelectRows>(name, x, y));
}

// masks: called when the logits are there; row -> the words of its mask.
void run(Program& program, const Lines& lines, const Ids& new_blocks, bool sampling, nb::handle masks) {
  static_assert(sizeof(PlanLine) == 6 * sizeof(std::int32_t));
  std::function<void()> before_sampling;
  if (!masks.is_none())
    before_sampling = [&] {
      const nb::gil_scoped_acquire locked;
      const nb::object given = masks();
      for (const auto& [row, words] : nb::cast<nb::dict>(given)) {
        const Words mask = nb::cast<Words>(words);
        program.rows().set_mask(nb::cast<std::int64_t>(row), mask.data(), static_cast<std::int64_t>(mask.size()));
      }
    };
  const nb::gil_scoped_release unlocked;
  program.run(reinterpret_cast<const PlanLine*>(lines.data()), static_cast<std::int64_t>(lines.shape(0)),
              new_blocks.data(), static_cast<std::int64_t>(new_blocks.size()), sampling, before_sampling);
}

// A copy of the last step's logits, [num_sampled, vocab].
nb::ndarray<nb::numpy, float, nb::ndim<2>> logits(const Program& program) {
  const std::size_t rows = static_cast<std::size_t>(program.num_sampled());
  const std::size_t vocab = static_cast<std::size_t>(program.logits_width());
  float* copy = new float[std::max<std::size_t>(rows * vocab, 1)];
  const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  for (std::size_t r = 0; r < rows; r++)
    std::memcpy(copy + r * vocab, program.logits() + static_cast<std::int64_t>(r) * program.logits_stride(),
                vocab * sizeof(float));
  return nb::ndarray<nb::numpy, float, nb::ndim<2>>(copy, {rows, vocab}, owner);
}

// What the next step finds in a value that no operator makes: [rows, width], no more rows than the largest step has.
void write_rows(Program& program, const View& view, const Rows& rows) {
  check_floats(program, view);
  const Limits& limits = program.rows().limits();
  require(static_cast<std::int64_t>(rows.shape(1)) == view.width &&
              static_cast<std::int64_t>(rows.shape(0)) <= (view.sampled ? limits.max_sampled : limits.max_tokens),
          "what is written is no rows of the value");
  float* out = reinterpret_cast<float*>(program.arena()) + view.offset;
  for (std::size_t r = 0; r < rows.shape(0); r++)
    std::memcpy(out + static_cast<std::int64_t>(r) * view.ld, rows.data() + r * rows.shape(1),
                rows.shape(1) * sizeof(float));
}

// A copy of the first rows of an output of the last step.
nb::ndarray<nb::numpy, float, nb::ndim<2>> read_rows(Program& program, const View& view, std::int64_t rows) {
  check_floats(program, view);
  const Limits& limits = program.rows().limits();
  require(rows >= 0 && rows <= (view.sampled ? limits.max_sampled : limits.max_tokens), "no step has so many rows");
  const std::size_t count = static_cast<std::size_t>(rows), width = static_cast<std::size_t>(view.width);
  float* copy = new float[std::max<std::size_t>(count * width, 1)];
  const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  const float* values = reinterpret_cast<const float*>(program.arena()) + view.offset;
  for (std::size_t r = 0; r < count; r++)
    std::memcpy(copy + r * width, values + static_cast<std::int64_t>(r) * view.ld, width * sizeof(float));
  return nb::ndarray<nb::numpy, float, nb::ndim<2>>(copy, {count, width}, owner);
}

}  // namespace

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A view that leaves the arena is a caller's fault; so are activations where an operator takes or gives floats.
void check_floats(const Program& program, const View& view) {
  program.check_view(view);
  require(!view.kind, "an operator takes or gives floats where the plan has activations");
}

Activation activation_named(const std::string& name) {
  static constexpr std::pair<const char*, Activation> kActivations[] = {{"silu", Activation::silu},
                                                                        {"gelu", Activation::gelu},
                                                                        {"gelu_tanh", Activation::gelu_tanh},
                                                                        {"quick_gelu", Activation::quick_gelu},
                                                                        {"relu", Activation::relu},
                                                                        {"relu2", Activation::relu2},
                                                                        {"sigmoid", Activation::sigmoid},
                                                                        {"clamped_swiglu", Activation::clamped_swiglu},
                                                                        {"capped_silu_7", Activation::capped_silu_7},
                                                                        {"capped_silu_16", Activation::capped_silu_16},
                                                                        {"silu_of_capped_10", Activation::silu_of_capped_10},
                                                                        {"identity", Activation::identity},
                                                                        {"tanh", Activation::tanh}};
  for (const auto& [key, value] : kActivations)
    if (name == key) return value;
  throw std::invalid_argument("no activation is called " + name);
}

}  // namespace ridgeline

NB_MODULE(_native, m) {
  using namespace ridgeline;

  m.def("best_isa", [] { return std::string(isa_name(best_isa())); });
  // Formats that have a packed layout and a row decoder.
  m.def("packed_formats", [] {
    nb::set out;
    for (const FormatLayout& row : kFormatLayouts) out.add(nb::str(row.format.data(), row.format.size()));
    return nb::frozenset(out);
  });
  m.def("maps_in_huge_pages", &maps_in_huge_pages, "file"_a);
  // What weights of a format multiply on an instruction set: "int8", "int16", "bf16" or "f32"; a format without a packed
  // layout is held as F32.
  m.def(
      "activation_kind",
      [](const std::string& format, const std::string& isa) {
        const Layout layout = layout_of(format).value_or(Layout::f32);
        return std::string(kActivationKinds[static_cast<int>(kernels_for(isa_named(isa)).activation_of(layout))]);
      },
      "format"_a, "isa"_a);
  // Rows up to which weights of a format are read in several plain streams on an instruction set; 0: never.
  m.def(
      "streamed_rows",
      [](const std::string& format, const std::string& isa) {
        return kernels_for(isa_named(isa)).streamed_rows(layout_of(format).value_or(Layout::f32));
      },
      "format"_a, "isa"_a);
  m.def(
      "activation_row_bytes",
      [](const std::string& kind, std::int64_t width) {
        require(width > 0, "a row of activations is empty");
        return kernels_for(Isa::portable).activation_row_bytes(kind_named(kind), width);
      },
      "kind"_a, "width"_a);
  bind_linear(m);
  bind_roofs(m);

  nb::class_<View>(m, "View").def(
      "__init__",
      [](View* self, std::int64_t offset, std::int64_t ld, std::int64_t width, bool sampled, const std::string& kind) {
        new (self) View{offset, ld, width, sampled, std::nullopt};
        if (!kind.empty()) self->kind = kind_named(kind);
      },
      "offset"_a, "ld"_a, "width"_a, "sampled"_a, "kind"_a = "");
  nb::class_<Matrix>(m, "Matrix");
  nb::class_<NormSpec>(m, "Norm");

  nb::class_<Program> program(m, "Program");
  bind_attention(m, program);
  bind_cross(m, program);
  bind_sampling(m, program);
  bind_experts(program);
  bind_head(program);
  bind_images(program);
  bind_latent(program);
  bind_blocks(program);
  bind_entries(program);
  bind_recurrent(program);
  bind_streams(program);
  program
      .def(
          "__init__",
          [](Program* self, const std::string& isa, int threads, std::int64_t num_blocks, std::int64_t max_rows,
             std::int64_t max_tokens, std::int64_t max_sampled, std::int64_t max_context, std::int64_t vocab,
             std::int64_t vocab_ids, std::size_t arena_bytes, std::int64_t num_slots,
             const std::vector<std::int64_t>& windows, bool counts_only) {
            const Limits limits{num_blocks,  max_rows, max_tokens, max_sampled, max_context,
                                vocab,       vocab_ids, num_slots,  windows};
            new (self) Program(isa_named(isa), threads, limits, arena_bytes, counts_only);
          },
          "isa"_a, "threads"_a, "num_blocks"_a, "max_rows"_a, "max_tokens"_a, "max_sampled"_a, "max_context"_a,
          "vocab"_a, "vocab_ids"_a, "arena_bytes"_a, "num_slots"_a = 0, "windows"_a = std::vector<std::int64_t>{0},
          "counts_only"_a = false)
      .def("pack", &pack, "format"_a, "raw"_a, "n"_a, "k"_a, "row_bytes"_a, "release"_a)
      .def(
          "write_weights",
          [](Program& program, int file, std::size_t capacity) { program.weights().write_to(file, capacity); },
          "file"_a, "capacity"_a)
      .def("read_weights", &read_weights, "file"_a, "num_bytes"_a, "records"_a)
      .def("finish_weights", &finish_weights)
      .def(
          "settle_weights",
          [](Program& program, double least_huge_share) {
            return program.weights().settle(program.pool(), least_huge_share);
          },
          "least_huge_share"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("weights_checksum", [](Program& program) { return program.weights().checksum(program.pool()); },
           nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("weights_file_bytes", [](Program& program) { return program.weights().file_bytes(); })
      .def("norm", &norm_spec, "kind"_a, "eps"_a, "offset"_a, "groups"_a, "weight"_a, "bias"_a.none(),
           "by_group"_a = false)
      .def("add_linear", &add_linear, "name"_a, "x"_a, "y"_a, "matrices"_a, "biases"_a, "fine_activations"_a = false)
      .def("add_gated_linear", &add_gated_linear, "name"_a, "x"_a, "y"_a, "matrices"_a, "biases"_a, "activation"_a)
      .def("add_embed", &add_embed, "name"_a, "y"_a, "format"_a, "table"_a, "row_bytes"_a, "scale"_a,
           nb::keep_alive<1, 5>())
      .def("add_position_embed", &add_position_embed, "name"_a, "y"_a, "format"_a, "table"_a, "row_bytes"_a, "first"_a,
           nb::keep_alive<1, 5>())
      .def("add_type_embed", &add_type_embed, "name"_a, "y"_a, "format"_a, "table"_a, "row_bytes"_a, "separator"_a,
           nb::keep_alive<1, 5>())
      .def("add_pool", &add_pool, "name"_a, "x"_a, "y"_a, "kind"_a)
      .def("add_norm", &add_norm, "name"_a, "x"_a, "y"_a, "norm"_a)
      .def("add_add_norm", &add_add_norm, "name"_a, "a"_a, "b"_a, "total"_a, "y"_a, "norm"_a)
      .def("add_elementwise", &add_elementwise, "name"_a, "type"_a, "a"_a, "b"_a, "y"_a, "number"_a = 0.0f,
           "activation"_a = "")
      .def("add_select_rows", &add_select_rows, "name"_a, "x"_a, "y"_a)
      .def("finish", &Program::finish, "logits"_a)
      .def(
          "open_row",
          [](Program& program, std::int64_t row, const Ids& tokens, const RowSampling& sampling) {
            program.rows().open(row, tokens.data(), static_cast<std::int64_t>(tokens.size()), sampling);
          },
          "row"_a, "tokens"_a, "sampling"_a)
      .def(
          "append_tokens",
          [](Program& program, std::int64_t row, const Ids& tokens) {
            program.rows().append(row, tokens.data(), static_cast<std::int64_t>(tokens.size()));
          },
          "row"_a, "tokens"_a)
      .def("truncate", [](Program& program, std::int64_t row, std::int64_t n) { program.rows().truncate(row, n); },
           "row"_a, "num_tokens"_a)
      .def("close_row", [](Program& program, std::int64_t row) { program.rows().close(row); }, "row"_a)
      .def(
          "copy_blocks",
          [](Program& program, const Pairs& pairs) {
            program.copy_blocks(pairs.data(), static_cast<std::int64_t>(pairs.shape(0)));
          },
          "pairs"_a)
      .def("run", &run, "lines"_a, "new_blocks"_a, "sampling"_a, "masks"_a = nb::none())
      .def("is_cache_ready", &Program::is_cache_ready)
      .def("logits", &logits)
      .def("write_rows", &write_rows, "view"_a, "rows"_a)
      .def("read_rows", &read_rows, "view"_a, "rows"_a)
      .def("times",
           [](Program& program) {
             nb::list out;
             for (const OperatorTime& time : program.times())
               out.append(nb::make_tuple(time.name, time.type, time.calls, time.nanoseconds,
                                         time.barrier_nanoseconds, time.start_nanoseconds));
             return out;
           })
      .def("reset_times", &Program::reset_times)
      .def("read_bandwidth", &Program::read_bandwidth, "rounds"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("pace", &Program::pace, "rounds"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("barrier_time", &Program::barrier_time, "rounds"_a, nb::call_guard<nb::gil_scoped_release>())
      // By kind, what was allocated or, of a program that only counts, would be.
      .def("memory",
           [](const Program& program) {
             nb::dict out;
             for (const auto& [kind, num_bytes] : program.memory()) out[nb::str(kind.c_str())] = num_bytes;
             return out;
           })
      .def_prop_ro("counts_only", &Program::counts_only)
      .def_prop_ro("kv_blocks_together", &Program::kv_blocks_together)
      .def_prop_ro("kv_block_bytes", &Program::kv_block_bytes)
      .def_prop_ro("state_bytes", &Program::state_bytes)
      // The arena itself, for tests that put sentinels around values.
      .def(
          "arena",
          [](Program& program) {
            return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(program.arena(), {program.arena_bytes()},
                                                                     nb::find(program));
          });
}
