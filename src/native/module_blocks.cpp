// The Python module: attention to selected blocks.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <memory>

#include "module.h"
#include "operators_blocks.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

void add_select_blocks(Program& program, const std::string& name, const View& q, const View& out, int cache,
                       std::int64_t heads, std::int64_t top, std::int64_t tokens, std::int64_t local) {
  for (const View& view : {q, out}) check_floats(program, view);
  const KvPlace& place = program.cache(cache);
  require(heads > 0 && top > 0 && tokens > 0 && tokens % kBlockTokens == 0 && local > 0 && local <= top,
          "blocks are of whole blocks of the cache, and a token's own is one of them");
  require(place.latent && place.format == CacheFormat::bf16 && !q.sampled && !out.sampled &&
              q.width == heads * place.key_dim && out.width == heads * top,
          "what selects blocks does not fit its cache");
  const std::int64_t context = program.rows().limits().max_context;
  require(context <= (1 << 24), "blocks are selected among at most 2^24 tokens");  // numbers are kept as floats
  program.add(
      std::make_unique<SelectBlocks>(name, SelectBlocks::Spec{q, out, place, heads, top, tokens, local, context}));
}

void add_block_attention(Program& program, const std::string& name, const View& q, const View& chosen, const View& out,
                         int cache, std::int64_t heads, float scale, std::int64_t top, std::int64_t tokens,
                         std::int64_t first) {
  for (const View& view : {q, chosen, out}) {
    check_floats(program, view);
    require(!view.sampled, "attention is over all tokens");
  }
  const KvPlace& place = program.cache(cache);
  require(heads > 0 && heads % place.kv_heads == 0 && !place.latent && place.window == 0 &&
              q.width == heads * place.key_dim && out.width == heads * place.value_dim,
          "an attention's heads are not its cache's");
  require(top > 0 && tokens > 0 && tokens % kBlockTokens == 0 && first >= 0 &&
              chosen.width >= (first + place.kv_heads) * top,
          "blocks are of whole blocks of the cache, and each KV head has its own");
  const Attention::Spec plain{q, out, place, heads, scale, 0.0f, true, -1};
  program.add(std::make_unique<BlockAttention>(name, BlockAttention::Spec{plain, chosen, top, tokens, first}));
}

}  // namespace

void bind_blocks(nb::class_<Program>& program) {
  program
      .def("add_select_blocks", &add_select_blocks, "name"_a, "q"_a, "out"_a, "cache"_a, "heads"_a, "top"_a, "tokens"_a,
           "local"_a)
      .def("add_block_attention", &add_block_attention, "name"_a, "q"_a, "chosen"_a, "out"_a, "cache"_a, "heads"_a,
           "scale"_a, "top"_a, "tokens"_a, "first"_a);
}

}  // namespace ridgeline
