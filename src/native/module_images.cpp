// The Python module: images in a step.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <vector>

#include "module.h"
#include "operators_images.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void add_place_images(Program& program, const std::string& name, const View& x, const View& y) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(!x.sampled && !y.sampled && x.width == y.width, "rows of images are as wide as those of their tokens");
  program.add(std::make_unique<PlaceImages>(name, x, y, program.take_images(x.width)));
}

void add_grid_pool(Program& program, const std::string& name, const View& x, const View& y, std::int64_t side,
                   std::int64_t kernel) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(!x.sampled && y.sampled && x.width == y.width && kernel > 0 && side % kernel == 0,
          "squares of tokens are pooled into rows of logits");
  program.add(std::make_unique<GridPool>(name, x, y, side, kernel));
}

void add_join_tokens(Program& program, const std::string& name, const View& x, const View& y, std::int64_t count) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(!x.sampled && y.sampled && count > 0 && y.width == count * x.width, "tokens are joined into rows of logits");
  program.add(std::make_unique<JoinTokens>(name, x, y, count));
}

using Numbers = nb::ndarray<const std::int32_t, nb::c_contig, nb::device::cpu>;

void give_places(Program& program, const Numbers& positions, const std::optional<Numbers>& part_ends) {
  require(positions.ndim() == 2 && positions.shape(1) > 0 && (!part_ends || part_ends->ndim() == 1),
          "positions are [tokens, axes], ends of parts [tokens]");
  std::vector<std::int32_t> ends;
  if (part_ends) ends.assign(part_ends->data(), part_ends->data() + part_ends->size());
  program.places().give({positions.data(), positions.data() + positions.size()},
                        static_cast<std::int64_t>(positions.shape(1)), std::move(ends));
}

void give_image(Program& program, std::int64_t token_begin, std::int64_t position, const Rows& rows) {
  program.images().give(token_begin, position, rows.data(), static_cast<std::int64_t>(rows.shape(0)),
                        static_cast<std::int64_t>(rows.shape(1)));
}

}  // namespace

void bind_images(nb::class_<Program>& program) {
  program.def("add_place_images", &add_place_images, "name"_a, "x"_a, "y"_a)
      .def("add_grid_pool", &add_grid_pool, "name"_a, "x"_a, "y"_a, "side"_a, "kernel"_a)
      .def("add_join_tokens", &add_join_tokens, "name"_a, "x"_a, "y"_a, "count"_a)
      .def("give_places", &give_places, "positions"_a, "part_ends"_a = nb::none())
      .def("give_image", &give_image, "token_begin"_a, "position"_a, "rows"_a);
}

}  // namespace ridgeline
