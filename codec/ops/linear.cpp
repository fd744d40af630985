// A linear map of a few rows, which costs as much as reading its weights: codec/ops/rows.py.
//
// Every output is a sum of fused multiply-adds in the order of the inputs, begun anew after every `block` of them, the
// parts added in order: the sums that oneDNN forms, whose matrix product takes over where rows are many. Weights lie in
// panels of P outputs, input after input, so that memory is read in one go.
//
// Compile with -ffp-contract=fast: the products must be fused. C interface, standard library only.

#include <cstdint>
#include <cstring>
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

constexpr int W = 16, P = 32, V = P / W;  // floats of a vector (of several registers on small machines), of a panel
constexpr int TOGETHER = 4;               // rows that share a reading of the weights

typedef float Vec __attribute__((vector_size(4 * W)));
struct Half {
  uint16_t bits;
};

inline Vec load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline Vec load(const Half* from) {
  Vec value = {};
#if defined(__AVX512F__)
  value = (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__F16C__)
  for (int i = 0; i < W; i += 8) {
    __m256 part = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i)));
    std::memcpy((float*)&value + i, &part, sizeof part);
  }
#elif defined(__aarch64__)
  for (int i = 0; i < W; i += 4) {
    float32x4_t part = vcvt_f32_f16(vld1_f16((const float16_t*)(from + i)));
    std::memcpy((float*)&value + i, &part, sizeof part);
  }
#endif
  return value;
}

template <int R, class T>
void panel(const float* x, const T* weights, const float* bias, float* y, int64_t in, int64_t out, int64_t wide,
           int64_t block) {
  Vec whole[R][V] = {};
  for (int64_t first = 0; first < in; first += block) {
    Vec sum[R][V] = {};
    const int64_t last = first + block < in ? first + block : in;
    for (int64_t i = first; i < last; i++, weights += P)
      for (int v = 0; v < V; v++) {
        const Vec w = load(weights + v * W);
        for (int r = 0; r < R; r++) sum[r][v] += x[r * in + i] * w;
      }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) whole[r][v] = first ? whole[r][v] + sum[r][v] : sum[r][v];
  }
  for (int r = 0; r < R; r++) {
    float result[P];
    std::memcpy(result, whole[r], sizeof result);
    for (int64_t o = 0; o < wide; o++) y[r * out + o] = bias ? result[o] + bias[o] : result[o];
  }
}

template <class T>
void linear(const float* x, const T* panels, const float* bias, float* y, int64_t rows, int64_t in, int64_t out,
            int64_t block) {
  for (int64_t first = 0; first < rows; first += TOGETHER) {
    const float* from = x + first * in;
    float* to = y + first * out;
    for (int64_t o = 0; o < out; o += P) {
      const T* weights = panels + o * in;
      const float* shift = bias ? bias + o : nullptr;
      const int64_t wide = out - o < P ? out - o : P;
      switch (rows - first) {
        case 1: panel<1>(from, weights, shift, to + o, in, out, wide, block); break;
        case 2: panel<2>(from, weights, shift, to + o, in, out, wide, block); break;
        case 3: panel<3>(from, weights, shift, to + o, in, out, wide, block); break;
        default: panel<4>(from, weights, shift, to + o, in, out, wide, block);
      }
    }
  }
}

}  // namespace

// x (rows, in), panels (ceil(out / P), in, P), bias (out) or none -> y (rows, out).
extern "C" void codec_linear(const float* x, const float* panels, const float* bias, float* y, int64_t rows, int64_t in,
                             int64_t out, int64_t block) {
  linear(x, panels, bias, y, rows, in, out, block);
}

// The same with the panels in half precision.
extern "C" void codec_linear_half(const float* x, const void* panels, const float* bias, float* y, int64_t rows,
                                  int64_t in, int64_t out, int64_t block) {
  linear(x, static_cast<const Half*>(panels), bias, y, rows, in, out, block);
}

extern "C" int codec_linear_has_half() {
#if defined(__AVX512F__) || defined(__F16C__) || defined(__aarch64__)
  return 1;
#else
  return 0;
#endif
}
