// What is compiled for each level of instructions, and chosen among at run time (dispatch.cpp).

#pragma once

#include <cstdint>

// Sets of instructions beyond what every processor of the architecture has.
enum : unsigned { NEEDS_AVX2 = 1, NEEDS_AVX512 = 2, NEEDS_AVX512_VNNI = 4 };

// Vectors to encode: x (rows, dim), books (stages, size, dim), codes (rows, stages), all contiguous.
struct Search {
  const float* x;
  const float* books;
  int64_t* codes;
  int64_t rows, dim, stages, size;
  int beam;
};

// `count` windows on x against panels of weights (ceil(out / panel), taps * width, panel), with bias (out) or none, to
// y (count, out). A window is `taps` pieces of `width` floats, `spread` apart; windows are `step` apart. A sum begins anew
// after every `block` inputs.
struct Convolution {
  const float* x;
  const void* panels;  // in half precision where `half` says so
  const float* bias;
  float* y;
  int64_t count, out, taps, width, spread, step, block, panel;
  bool half;
};

struct Level {
  const char* name;
  unsigned needs;
  int lanes;           // floats in a vector
  int panel;           // outputs in a wide panel; a narrow one has `lanes`
  int64_t search_rows;  // that are searched together
  bool (*search)(const Search&, int64_t begin, int64_t end);  // of some rows; false where memory is short
  void (*convolve)(const Convolution&, int64_t begin, int64_t end);  // of some windows
  void (*functions)(void* exp, void* exp_of_many, void* tanh_of_many);
  void (*elu)(const float* x, float* y, int64_t count);
  void (*lstm)(const float* drive, const float* panels, float* h, float* c, float* y, float* gates, int64_t steps,
               int64_t width, int64_t block);
};
