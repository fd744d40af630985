// Layers of codecs on the CPU, to the bits of the framework: linear maps, convolutions, ELU, LSTM. See layers.py.
//
// Every output of a product is a sum of fused multiply-adds in the order of the inputs, begun anew after every `block` of
// them, the parts added in order: the sums that oneDNN forms. Weights lie in panels of P outputs, input after input, so
// that a single row, as in a stream, reads memory in one go. Windows of a convolution are read where they lie. The
// functions (exp, tanh) are the framework's own, given by their addresses.
//
// Compile with -ffp-contract=off: what is not fused there must not be fused here.

#pragma once

#include "level.h"
#include "simd.h"

namespace {
namespace layers {

// R rows times V vectors are as many sums as the registers hold.
#if defined(__AVX512F__)
constexpr int V = 2, R = 8;
#elif defined(__aarch64__)
constexpr int V = 4, R = 5;
#else
constexpr int V = 2, R = 5;
#endif
constexpr int P = V * W;                     // outputs of a panel
constexpr int64_t ROWS = 48;                 // rows that meet a panel together

typedef Vec (*Function)(Vec);                                                            // SLEEF
typedef void (*Functions)(const int64_t*, const float*, float*, const int64_t*);         // of many numbers, MKL
Function exp_of;
Functions exp_of_all, tanh_of_all;
const int64_t ACCURATE = 0x140102;  // as the framework asks for: high accuracy, denormal numbers, no errors
constexpr int64_t MANY = 1024;

inline Vec load_weights(const float* from) { return load<Vec>(from); }
inline Vec load_weights(const Half* from) { return widen(from); }

struct Window {
  int64_t taps, width;   // so many pieces of so many floats,
  int64_t spread, step;  // from piece to piece, and from window to window
  int64_t block;
};

// C rows against N panels of v vectors each, P apart: sums (C, N * v).
template <int C, int N, int v, class T>
inline void product(const float* x, const T* weights, int64_t panel, const Window& w, Vec (&whole)[C][N * v]) {
  Vec sum[C][N * v] = {};
  bool begun = false;
  int64_t left = w.block;
  const auto settle = [&] {
    for (int c = 0; c < C; c++)
      for (int n = 0; n < N * v; n++) {
        whole[c][n] = begun ? whole[c][n] + sum[c][n] : sum[c][n];
        sum[c][n] = Vec{};
      }
    begun = true;
    left = w.block;
  };
  for (int64_t tap = 0; tap < w.taps; tap++) {
    const float* from = x + tap * w.spread;
    for (int64_t done = 0; done < w.width;) {
      const int64_t count = least(w.width - done, left);
      for (int64_t i = 0; i < count; i++, from++, weights += v * W) {
        Vec weight[N * v];
        for (int n = 0; n < N; n++)
          for (int k = 0; k < v; k++) weight[n * v + k] = load_weights(weights + n * panel + k * W);
        for (int c = 0; c < C; c++) {
          const Vec value = from[c * w.step] - Vec{};
          for (int n = 0; n < N * v; n++) sum[c][n] = multiply_add(value, weight[n], sum[c][n]);
        }
      }
      done += count;
      if ((left -= count) == 0) settle();
    }
  }
  if (left < w.block || !begun) settle();
}

template <int C, int N, int v, class T>
inline void tile(const float* x, const T* weights, int64_t panel, const float* bias, float* y, int64_t out,
                 int64_t wide, const Window& w) {
  Vec whole[C][N * v];
  product<C, N, v>(x, weights, panel, w, whole);
  for (int c = 0; c < C; c++) {
    if (wide == N * v * W) {
      for (int n = 0; n < N * v; n++)
        store(y + c * out + n * W, bias ? whole[c][n] + load<Vec>(bias + n * W) : whole[c][n]);
      continue;
    }
    float row[N * v * W];
    std::memcpy(row, whole[c], sizeof row);
    for (int64_t o = 0; o < wide; o++) y[c * out + o] = bias ? row[o] + bias[o] : row[o];
  }
}

// The windows [begin, end), R at a time, panel after panel.
template <int v, class T>
void rows(const Convolution& p, int64_t begin, int64_t end) {
  constexpr int wide = v * W;
  const Window w{p.taps, p.width, p.spread, p.step, p.block};
  const int64_t panel = p.taps * p.width * wide;
  const T* weights = (const T*)p.panels;
  for (int64_t o = 0; o < p.out; o += wide, weights += panel) {
    const float* bias = p.bias ? p.bias + o : nullptr;
    const int64_t there = least(p.out - o, wide);
    for (int64_t first = begin; first < end; first += R) {
      const float* x = p.x + first * p.step;
      float* y = p.y + first * p.out + o;
#define CASE(c)                                               \
  case c:                                                     \
    tile<c, 1, v>(x, weights, panel, bias, y, p.out, there, w); \
    break;
      switch (least(end - first, R)) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#if defined(__AVX512F__)
        CASE(6) CASE(7) CASE(8)
#endif
      }
#undef CASE
    }
  }
}

void convolve(const Convolution& p, int64_t begin, int64_t end) {
  const auto part = p.panel == P ? (p.half ? rows<V, Half> : rows<V, float>) : (p.half ? rows<1, Half> : rows<1, float>);
  for (; begin < end; begin += ROWS) part(p, begin, least(begin + ROWS, end));
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp_of(0.0f - x)); }

void set_functions(void* exp, void* exp_of_many, void* tanh_of_many) {
  exp_of = (Function)exp;
  exp_of_all = (Functions)exp_of_many;
  tanh_of_all = (Functions)tanh_of_many;
}

// y = x where it is positive, else exp(x) - 1; `count` floats.
void elu(const float* x, float* y, int64_t count) {
  float low[MANY];
  for (int64_t first = 0; first < count; first += MANY) {
    const int64_t there = least(count - first, MANY);
    const float* from = x + first;
    for (int64_t i = 0; i < there; i++) low[i] = from[i] > 0 ? 0 : from[i];
    exp_of_all(&there, low, low, &ACCURATE);
    for (int64_t i = 0; i < there; i++) {
      const float value = from[i], other = low[i] - 1;
      y[first + i] = value > other ? value : (value == value ? other : value);
    }
  }
}

// One layer over `steps`: drive (steps, 4 * width) and panels of the recurrent weights (4 * width, width), gates in the
// order input, forget, output, cell; h and c (width) are read and written; y (steps, width). `gates` has 4 * width floats.
void lstm(const float* drive, const float* panels, float* h, float* c, float* y, float* gates, int64_t steps,
          int64_t width, int64_t block) {
  const Window w{1, width, 0, 0, block};
  const float* before = h;
  for (int64_t t = 0; t < steps; t++, drive += 4 * width, y += width) {
    for (int64_t o = 0; o < 4 * width; o += 2 * P)
      tile<1, 2, V>(before, panels + o * width, P * width, drive + o, gates + o, 0, 2 * P, w);
    for (int64_t i = 0; i < 3 * width; i += W) store(gates + i, sigmoid(load<Vec>(gates + i)));
    tanh_of_all(&width, gates + 3 * width, gates + 3 * width, &ACCURATE);
    for (int64_t i = 0; i < width; i += W)
      store(c + i, multiply_add(load<Vec>(gates + i), load<Vec>(gates + 3 * width + i), load<Vec>(c + i) * load<Vec>(gates + width + i)));
    tanh_of_all(&width, c, y, &ACCURATE);
    for (int64_t i = 0; i < width; i += W) store(y + i, load<Vec>(y + i) * load<Vec>(gates + 2 * width + i));
    before = y;
  }
  if (steps) std::memcpy(h, before, 4 * width);
}

}  // namespace layers
}  // namespace
