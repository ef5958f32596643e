// What other files add to the Python module.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"

namespace ridgeline {

class Program;

// A packed weight, as Python holds it.
struct Matrix {
  PackedMatrix packed;
};

// Throws std::invalid_argument for a name that no activation has.
Activation activation_named(const std::string& name);

void bind_attention(nanobind::module_& m);  // module_attention.cpp
void bind_experts(nanobind::class_<Program>& program);    // module_experts.cpp
void bind_latent(nanobind::class_<Program>& program);     // module_latent.cpp
void bind_linear(nanobind::module_& m);     // module_linear.cpp
void bind_recurrent(nanobind::class_<Program>& program);  // module_recurrent.cpp
void bind_roofs(nanobind::module_& m);      // module_roofs.cpp
void bind_sampling(nanobind::module_& m);   // module_sampling.cpp
// std::invalid_argument for a name that is no cache format's.
CacheFormat cache_format_of(const std::string& name);
// [(row, token id, logprob, [(id, logprob), ...], fault or None, mirostat_mu, scored or None)] of the last step; scored:
// (first position, width, token ids, logprobs), the last two the bytes of int32 and float32.
nanobind::list samples(const Program& program);

}  // namespace ridgeline
