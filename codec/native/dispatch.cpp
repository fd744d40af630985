// The C interface: which levels of instructions this processor knows, and work dealt out to threads. See __init__.py.

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "level.h"

#define LEVEL(name) extern "C" const Level codec_level_##name;
CODEC_LEVELS
#undef LEVEL

namespace {

const Level* const LEVELS[] = {
#define LEVEL(name) &codec_level_##name,
    CODEC_LEVELS
#undef LEVEL
};

constexpr double MIN_SHARED_WORK = 1 << 24;  // multiply-adds below which one thread is quicker
constexpr int64_t SHARED_WINDOWS = 48;       // fewer are not worth a thread

// What the processor knows and the system saves when it changes from thread to thread.
unsigned known() {
  unsigned found = 0;
#if defined(__x86_64__)
  unsigned a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return found;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool fused = (c & bit_FMA) && (c & bit_F16C) && (low & 6) == 6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if (!fused || !(b & bit_AVX2)) return found;
  found |= NEEDS_AVX2;
  if ((b & wide) != wide || (low & 0xe6) != 0xe6) return found;
  found |= NEEDS_AVX512;
  if (c & bit_AVX512VNNI) found |= NEEDS_AVX512_VNNI;
#endif
  return found;
}

// Calls part(i) for i < parts, each in a thread of its own; where there are no more threads, in this one.
template <class Part>
void share(int64_t parts, const Part& part) {
  std::vector<std::thread> others;
  int64_t started = 1;
  try {
    for (; started < parts; ++started) others.emplace_back(part, started);
  } catch (const std::exception&) {
  }
  part(0);
  for (; started < parts; ++started) part(started);
  for (std::thread& other : others) other.join();
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Digest of the sources and flags that this was made with (build.py).
const char* codec_build() { return CODEC_BUILD; }

// The index-th of the levels that this processor can run, best first; null where there are no more.
const Level* codec_level(int index) {
  const unsigned there = known();
  for (const Level* level : LEVELS)
    if (!(level->needs & ~there) && index-- == 0) return level;
  return nullptr;
}

const char* codec_name(const Level* level) { return level->name; }
int codec_lanes(const Level* level) { return level->lanes; }
int codec_panel(const Level* level) { return level->panel; }

// x (rows, dim), books (stages, size, dim), codes (rows, stages), all contiguous. Returns 0, or 1 when memory is short.
int codec_rvq_encode(const Level* level, const float* x, const float* books, int64_t* codes, int64_t rows, int64_t dim,
                     int64_t stages, int64_t size, int beam, int threads) {
  const Search problem{x, books, codes, rows, dim, stages, size, beam};
  const double work = (double)rows * dim * stages * size * beam;
  const int64_t block = level->search_rows, blocks = (rows + block - 1) / block;
  const int64_t parts = work < MIN_SHARED_WORK ? 1 : std::min<int64_t>(threads, blocks);
  std::atomic<bool> good{true};
  share(parts, [&](int64_t i) {
    if (!level->search(problem, blocks * i / parts * block, std::min(rows, blocks * (i + 1) / parts * block)))
      good = false;
  });
  return !good;
}

// See Convolution.
void codec_convolve(const Level* level, const float* x, const void* panels, int half, int64_t panel, const float* bias,
                    float* y, int64_t count, int64_t out, int64_t taps, int64_t width, int64_t spread, int64_t step,
                    int64_t block, int threads) {
  const Convolution problem{x, panels, bias, y, count, out, taps, width, spread, step, block, panel, half != 0};
  const double work = (double)count * taps * width * out;
  const int64_t shares = (count + SHARED_WINDOWS - 1) / SHARED_WINDOWS;
  const int64_t parts = work < MIN_SHARED_WORK ? 1 : std::min<int64_t>(threads, shares);
  share(parts, [&](int64_t i) { level->convolve(problem, count * i / parts, count * (i + 1) / parts); });
}

// Where the framework's exp of one vector, and exp and tanh of many numbers, are; before `codec_elu` and `codec_lstm`.
void codec_functions(const Level* level, void* exp, void* exp_of_many, void* tanh_of_many) {
  level->functions(exp, exp_of_many, tanh_of_many);
}

void codec_elu(const Level* level, const float* x, float* y, int64_t count) { level->elu(x, y, count); }

void codec_lstm(const Level* level, const float* drive, const float* panels, float* h, float* c, float* y, float* gates,
                int64_t steps, int64_t width, int64_t block) {
  level->lstm(drive, panels, h, c, y, gates, steps, width, block);
}
}
#pragma GCC visibility pop
