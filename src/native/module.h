// What other files add to the Python module.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "norm.h"

namespace ridgeline {

class Program;
struct View;

// A packed weight, as Python holds it.
struct Matrix {
  PackedMatrix packed;
};

// A norm, its weights kept by the program.
struct NormSpec {
  std::string kind;
  float eps;
  std::int64_t groups, width;
  const float* weight;
  const float* bias;
  bool by_group;

  NormArgs args() const { return {kind == "layer", eps, groups, width, weight, bias, by_group}; }
};

// Throws std::invalid_argument for a name that no activation has.
Activation activation_named(const std::string& name);

// std::invalid_argument with the message unless the condition holds.
void require(bool condition, const char* message);

// A view that leaves the arena is a caller's fault; so are activations where an operator takes or gives floats.
void check_floats(const Program& program, const View& view);

void bind_attention(nanobind::module_& m, nanobind::class_<Program>& program);  // module_attention.cpp
void bind_cross(nanobind::module_& m, nanobind::class_<Program>& program);  // module_cross.cpp
void bind_entries(nanobind::class_<Program>& program);    // module_entries.cpp
void bind_experts(nanobind::class_<Program>& program);    // module_experts.cpp
void bind_head(nanobind::class_<Program>& program);       // module_head.cpp
void bind_images(nanobind::class_<Program>& program);     // module_images.cpp
void bind_latent(nanobind::class_<Program>& program);     // module_latent.cpp
void bind_blocks(nanobind::class_<Program>& program);     // module_blocks.cpp
void bind_linear(nanobind::module_& m);     // module_linear.cpp
void bind_recurrent(nanobind::class_<Program>& program);  // module_recurrent.cpp
void bind_roofs(nanobind::module_& m);      // module_roofs.cpp
void bind_streams(nanobind::class_<Program>& program);    // module_streams.cpp
void bind_sampling(nanobind::module_& m, nanobind::class_<Program>& program);  // module_sampling.cpp
// std::invalid_argument for a name that is no cache format's.
CacheFormat cache_format_of(const std::string& name);

}  // namespace ridgeline
