// elementwise: what the program needs of the family.
#pragma once

namespace ridgeline {

enum class Activation { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, sigmoid, tanh, identity, clamped_swiglu, capped_silu_7, capped_silu_16, silu_of_capped_10 };

}  // namespace ridgeline
