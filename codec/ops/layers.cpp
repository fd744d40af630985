// Layers of codecs on the CPU, to the bits of the framework: linear maps, convolutions, ELU, LSTM. See layers.py.
//
// Every output of a product is a sum of fused multiply-adds in the order of the inputs, begun anew after every `block` of
// them, the parts added in order: the sums that oneDNN forms. Weights lie in panels of P outputs, input after input, so
// that a single row, as in a stream, reads memory in one go. Windows of a convolution are read where they lie. The
// functions (exp, tanh) are the framework's own, given by their addresses.
//
// Compile with -ffp-contract=off: what is not fused there must not be fused here. C interface, standard library only.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

namespace {

// W floats in a vector; R rows times V vectors are as many sums as the registers hold.
#if defined(__AVX512F__)
constexpr int W = 16, V = 2, R = 8;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
constexpr int W = 8, V = 2, R = 5;
#elif defined(__aarch64__)
constexpr int W = 4, V = 4, R = 5;
#else
#error "made for AVX2 with FMA, AVX-512 and 64-bit Arm; elsewhere the framework is quicker"
#endif
constexpr int P = V * W;                     // outputs of a panel
constexpr int64_t ROWS = 48;                 // rows that meet a panel together
constexpr double MIN_SHARED_WORK = 1 << 24;  // multiply-adds below which one thread is quicker

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t VecInt __attribute__((vector_size(4 * W)));
typedef Vec (*Function)(Vec);                                                            // SLEEF
typedef void (*Functions)(const int64_t*, const float*, float*, const int64_t*);         // of many numbers, MKL
struct Half {
  uint16_t bits;
};

Function exp_of;
Functions exp_of_all, tanh_of_all;
const int64_t ACCURATE = 0x140102;  // as the framework asks for: high accuracy, denormal numbers, no errors
constexpr int64_t MANY = 1024;

inline Vec load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

#if defined(__AVX512F__)
inline Vec load(const Half* from) { return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)); }
inline Vec fused(Vec a, Vec b, Vec c) { return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__aarch64__)
inline Vec load(const Half* from) { return (Vec)vcvt_f32_f16(vld1_f16((const float16_t*)from)); }
inline Vec fused(Vec a, Vec b, Vec c) { return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
inline Vec load(const Half* from) { return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)); }
inline Vec fused(Vec a, Vec b, Vec c) { return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#endif

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
      const int64_t count = std::min(w.width - done, left);
      for (int64_t i = 0; i < count; i++, from++, weights += v * W) {
        Vec weight[N * v];
        for (int n = 0; n < N; n++)
          for (int k = 0; k < v; k++) weight[n * v + k] = load(weights + n * panel + k * W);
        for (int c = 0; c < C; c++) {
          const Vec value = from[c * w.step] - Vec{};
          for (int n = 0; n < N * v; n++) sum[c][n] = fused(value, weight[n], sum[c][n]);
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
        store(y + c * out + n * W, bias ? whole[c][n] + load(bias + n * W) : whole[c][n]);
      continue;
    }
    float row[N * v * W];
    std::memcpy(row, whole[c], sizeof row);
    for (int64_t o = 0; o < wide; o++) y[c * out + o] = bias ? row[o] + bias[o] : row[o];
  }
}

template <int v, class T>
void rows(const float* x, const T* panels, const float* bias, float* y, int64_t count, int64_t out, const Window& w) {
  constexpr int wide = v * W;
  const int64_t panel = w.taps * w.width * wide;
  for (int64_t o = 0; o < out; o += wide, panels += panel) {
    const float* shift = bias ? bias + o : nullptr;
    const int64_t there = std::min<int64_t>(out - o, wide);
    for (int64_t first = 0; first < count; first += R) {
      const float* from = x + first * w.step;
      float* to = y + first * out + o;
#define CASE(c)                                                           \
  case c:                                                                 \
    tile<c, 1, v>(from, panels, panel, shift, to, out, there, w); \
    break;
      switch (std::min<int64_t>(count - first, R)) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#if defined(__AVX512F__)
        CASE(6) CASE(7) CASE(8)
#endif
      }
#undef CASE
    }
  }
}

template <int v, class T>
void convolve(const float* x, const T* panels, const float* bias, float* y, int64_t count, int64_t out,
              const Window& w, int threads) {
  const auto run = [&](int64_t from, int64_t to) {
    for (int64_t first = from; first < to; first += ROWS)
      rows<v>(x + first * w.step, panels, bias, y + first * out, std::min(ROWS, to - first), out, w);
  };
  const double work = double(count) * w.taps * w.width * out;
  const int64_t parts = work < MIN_SHARED_WORK ? 1 : std::min<int64_t>(threads, (count + ROWS - 1) / ROWS);
  std::vector<std::thread> others;
  for (int64_t part = 1; part < parts; part++)
    others.emplace_back(run, count * part / parts, count * (part + 1) / parts);
  run(0, count / std::max<int64_t>(parts, 1));
  for (std::thread& other : others) other.join();
}

template <class T>
void convolve(const float* x, const T* panels, const float* bias, float* y, int64_t count, int64_t out,
              const Window& w, int threads, int64_t panel) {
  if (panel == P)
    convolve<V>(x, panels, bias, y, count, out, w, threads);
  else
    convolve<1>(x, panels, bias, y, count, out, w, threads);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp_of(0.0f - x)); }

}  // namespace

extern "C" {

int codec_lanes() { return W; }
int codec_panel() { return P; }

void codec_functions(void* exp, void* exp_all, void* tanh_all) {
  exp_of = (Function)exp;
  exp_of_all = (Functions)exp_all;
  tanh_of_all = (Functions)tanh_all;
}

// `count` windows on x against panels (ceil(out / panel), taps * width, panel), panel P or W, with bias (out) or none,
// to y (count, out). The panels are in half precision where `half` says so.
void codec_convolve(const float* x, const void* panels, int half, int64_t panel, const float* bias, float* y,
                    int64_t count, int64_t out, int64_t taps, int64_t width, int64_t spread, int64_t step,
                    int64_t block, int threads) {
  const Window w{taps, width, spread, step, block};
  if (half)
    convolve(x, (const Half*)panels, bias, y, count, out, w, threads, panel);
  else
    convolve(x, (const float*)panels, bias, y, count, out, w, threads, panel);
}

// y = x where it is positive, else exp(x) - 1; `count` floats.
void codec_elu(const float* x, float* y, int64_t count) {
  float low[MANY];
  for (int64_t first = 0; first < count; first += MANY) {
    const int64_t there = std::min(count - first, MANY);
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
void codec_lstm(const float* drive, const float* panels, float* h, float* c, float* y, float* gates, int64_t steps,
                int64_t width, int64_t block) {
  const Window w{1, width, 0, 0, block};
  const float* before = h;
  for (int64_t t = 0; t < steps; t++, drive += 4 * width, y += width) {
    for (int64_t o = 0; o < 4 * width; o += 2 * P)
      tile<1, 2, V>(before, panels + o * width, P * width, drive + o, gates + o, 0, 2 * P, w);
    for (int64_t i = 0; i < 3 * width; i += W) store(gates + i, sigmoid(load(gates + i)));
    tanh_of_all(&width, gates + 3 * width, gates + 3 * width, &ACCURATE);
    for (int64_t i = 0; i < width; i += W)
      store(c + i, fused(load(gates + i), load(gates + 3 * width + i), load(c + i) * load(gates + width + i)));
    tanh_of_all(&width, c, y, &ACCURATE);
    for (int64_t i = 0; i < width; i += W) store(y + i, load(y + i) * load(gates + 2 * width + i));
    before = y;
  }
  if (steps) std::memcpy(h, before, 4 * width);
}
}
