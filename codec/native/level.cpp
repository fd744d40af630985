// One level of instructions: compiled once for each, with the flags and the name that build.py gives.

#include "level.h"

#include "layers.h"
#include "search.h"

namespace {

constexpr unsigned NEEDS = 0
#if defined(__AVX2__)
    | NEEDS_AVX2
#endif
#if defined(__AVX512F__)
    | NEEDS_AVX512
#endif
#if defined(__AVX512VNNI__)
    | NEEDS_AVX512_VNNI
#endif
    ;

}  // namespace

#define DEFINE(name)                                                                                       \
  extern "C" const Level codec_level_##name = {#name,         NEEDS,            W,                     \
                                               layers::P,     search::BLOCK,    search::run,           \
                                               layers::convolve, layers::set_functions, layers::elu, layers::lstm}
#define EXPAND(name) DEFINE(name)
EXPAND(CODEC_LEVEL);
