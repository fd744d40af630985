// Residual vector quantization on the CPU. reference.py says what the result is; this is how to get it quickly.
//
// A score is x.c - |c|^2 / 2 = (|x|^2 - |x - c|^2) / 2: the nearest code vector has the highest. Rows are lanes: a block
// of rows is transposed once, and a tile of C code vectors is read as it lies in memory, each element broadcast to all
// rows. Of a tile only the highest score counts; a row keeps its best tile and the score of the second best. The exact
// distance of the nearest code in the best tile gives an exact score: where no other tile can reach it, all is settled.
// For the few rows where one can, a second scan settles every tile that can. Nothing of size rows * codes is ever stored.
//
// A computed score is off by at most E, so that "can reach" is proven. u = 2^-24; |.| is the Euclidean norm.
//   float32: E = (D + 6) u (|x||c| + |c|^2 / 2) for D additions and the rounded |c|^2 / 2, with the largest |c| of the book.
//   16 bits: x and c are rounded to multiples of |x| / L and |c| / L; the sum of their products, below 2^31, is exact. What
//     was rounded off is at most h |x| and h |c| with h = 0.51 sqrt(D) / L, so that E has h (2 + h) |x||c| more.
//   Both: (D + 64) 2^-54 (|x|^2 + |c|^2) for the float64 rounding of the exact distances, D 2^-125 for what underflows.
//
// Compile with -ffp-contract=off: the exact distance must not be fused.

#pragma once

#include <cmath>
#include <exception>
#include <type_traits>

#include "level.h"
#include "simd.h"

namespace {
namespace search {

// R vectors of rows times C code vectors are as many sums as the registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int R = 4, C = 6;
#else
constexpr int R = 3, C = 4;
#endif
// Products of 16 bits, added up in pairs, are quicker than those of 32 where there is one instruction for both (VNNI), and
// where two vectors of them are quicker than one of float32.
#if defined(__AVX512VNNI__) || (defined(__SSE2__) && !defined(__AVX512F__))
constexpr bool HAS_SHORT = true;
#else
constexpr bool HAS_SHORT = false;
#endif
constexpr int BLOCK = 64 / (R * W) * R * W;  // rows that are scanned together, 48 to 64
constexpr int64_t PART = 1 << 17;            // elements of a book that are prepared together
constexpr int64_t ROWS = 1 << 19;            // elements of the rows that pass a stage together
constexpr int64_t FEW = 4;                   // up to so many rows are not worth transposing
constexpr int AT_ONCE = 4;                   // distances that are summed beside each other
constexpr int64_t SHORT_ROWS = 128;          // fewer rows, or narrower ones, gain nothing from 16 bits
constexpr int64_t SHORT_DIM = 32;
constexpr float L = 32000;                   // the norm of what is rounded to 16 bits
constexpr float INF = __builtin_inff();

typedef float Float8 __attribute__((vector_size(32)));
typedef int16_t Shorts __attribute__((vector_size(2 * W)));
typedef double Double8 __attribute__((vector_size(64)));
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float2 __attribute__((vector_size(8)));
typedef double Double4 __attribute__((vector_size(32)));
typedef double Double2 __attribute__((vector_size(16)));

inline Float8 load8(const float* from, int64_t count) {  // filled up with zeros
  if (count >= 8) return load<Float8>(from);
  Float8 value = {};
  std::memcpy(&value, from, 4 * count);
  return value;
}

inline uint32_t bits(VecInt mask) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epi32_mask((__m512i)mask, _mm512_setzero_si512());
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask);
#else
  return (mask[0] & 1) | (mask[1] & 2) | (mask[2] & 4) | (mask[3] & 8);
#endif
}

// ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
template <class Eight, class Four, class Two>
inline auto add_up(Eight s) {
  Four four[2];
  std::memcpy(four, &s, sizeof s);
  four[0] += four[1];
  Two two[2];
  std::memcpy(two, four, sizeof two);
  two[0] += two[1];
  return two[0][0] + two[0][1];
}
inline double sum8(Double8 s) { return add_up<Double8, Double4, Double2>(s); }
inline float sum8(Float8 s) { return add_up<Float8, Float4, Float2>(s); }

double squared_distance(const float* x, const float* c, int64_t dim) {  // the order of reference.py
  Double8 sum = {};
  for (int64_t j = 0; j < dim; j += 8) {
    const Double8 d = __builtin_convertvector(load8(x + j, dim - j), Double8) -
                      __builtin_convertvector(load8(c + j, dim - j), Double8);
    sum += d * d;
  }
  return sum8(sum);
}

double squared_norm(const float* x, int64_t dim) {
  Double8 even = {}, odd = {};
  int64_t j = 0;
  for (; j + 16 <= dim; j += 16) {
    const Double8 a = __builtin_convertvector(load<Float8>(x + j), Double8);
    const Double8 b = __builtin_convertvector(load<Float8>(x + j + 8), Double8);
    even += a * a, odd += b * b;
  }
  for (; j < dim; j += 8) {
    const Double8 a = __builtin_convertvector(load8(x + j, dim - j), Double8);
    even += a * a;
  }
  return sum8(even + odd);
}

// Rounds to multiples of `step`, the norm over L, where that is not too small to divide by. Writes whole vectors.
void round_to_short(const float* x, int64_t dim, float step, int16_t* to) {
  const float inverse = step > 0x1p-100f ? 1 / step : 0;
  const Vec magic = Vec{} + 0x1.8p23f;  // adding it rounds to whole numbers
  for (int64_t j = 0; j < dim; j += W) {
    Vec value = {};
    if (dim - j >= W) value = load<Vec>(x + j);
    else std::memcpy(&value, x + j, 4 * (dim - j));
    store(to + j, __builtin_convertvector((VecInt)(value * inverse + magic) - (VecInt)magic, Shorts));
  }
}

// W rows of a matrix with `stride` become W columns: to[w * width + lane] = from[lane * stride + w] for w, lane < W.
inline void transpose_square(const float* from, int64_t stride, float* to, int64_t width) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  __m512 a[W], b[W];
  for (int i = 0; i < W; ++i) a[i] = _mm512_loadu_ps(from + i * stride);
  for (int turn = 0; turn < 2; ++turn) {  // four perfect shuffles
    for (int i = 0; i < W; ++i) b[i] = _mm512_permutex2var_ps(a[i / 2], i % 2 ? high : low, a[i / 2 + W / 2]);
    for (int i = 0; i < W; ++i) a[i] = _mm512_permutex2var_ps(b[i / 2], i % 2 ? high : low, b[i / 2 + W / 2]);
  }
  for (int i = 0; i < W; ++i) _mm512_storeu_ps(to + i * width, a[i]);
#else
  for (int w = 0; w < W; ++w)
    for (int lane = 0; lane < W; ++lane) to[w * width + lane] = from[lane * stride + w];
#endif
}

// Adds the products of a word of each row and a word of a code: a float, or two numbers of 16 bits.
inline Vec add_products(Vec x, const float* c, Vec sum) { return multiply_add(x, *c - Vec{}, sum); }
inline VecInt add_products(VecInt x, const int32_t* c, VecInt sum) {
#if defined(__AVX512VNNI__)
  return (VecInt)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)(*c - VecInt{}));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return sum + (VecInt)_mm256_madd_epi16((__m256i)x, (__m256i)(*c - VecInt{}));
#elif defined(__SSE2__) && !defined(__AVX512F__)
  return sum + (VecInt)_mm_madd_epi16((__m128i)x, (__m128i)(*c - VecInt{}));
#else
  return sum;  // never called
#endif
}

// C code vectors that are scanned together; the last ones repeat where a book has no more.
struct Tile {
  const float* codes[C];
  float half_norms[C];
};

// Scores of V * W rows, (words, V * W), against a tile; sink(vector of rows, highest score, all C scores). Sums of 16 bits
// are to be multiplied by `scales` (V * W).
template <int V, bool SHORT, class Sink>
inline void scan(const float* rows, const float* scales, const Tile& tile, int64_t words, Sink&& sink) {
  using Sum = std::conditional_t<SHORT, VecInt, Vec>;
  using Word = std::conditional_t<SHORT, int32_t, float>;
  Sum sum[V][C];
  for (int r = 0; r < V; ++r)
    for (int i = 0; i < C; ++i) sum[r][i] = SHORT ? Sum{} : Sum{} - (Word)tile.half_norms[i];
  for (int64_t w = 0; w < words; ++w) {
    Sum x[V];
    for (int r = 0; r < V; ++r) x[r] = load<Sum>(rows + (w * V + r) * W);
    for (int i = 0; i < C; ++i)
      for (int r = 0; r < V; ++r) sum[r][i] = add_products(x[r], (const Word*)tile.codes[i] + w, sum[r][i]);
  }
  for (int r = 0; r < V; ++r) {
    Vec score[C], top = Vec{} - INF;  // a score that is no number is not larger than any
    for (int i = 0; i < C; ++i) {
      score[i] = __builtin_convertvector(sum[r][i], Vec);
      if (SHORT) score[i] = multiply_add(score[i], load<Vec>(scales + r * W), Vec{} - tile.half_norms[i]);
      top = score[i] > top ? score[i] : top;
    }
    sink(r, top, score);
  }
}

struct Path {
  double error;
  int64_t index;  // parent * size + code
  bool operator<(const Path& other) const {
    return error < other.error || (error == other.error && index < other.index);
  }
};

// What one thread works with. Its memory depends on `dim` and `stages`, not on `rows` or `size`. A row has `live` paths
// (one without a beam), which are lanes beside each other; `paths` lists the best of the present stage.
class Worker {
 public:
  explicit Worker(const Search& problem) : p(problem), dim(problem.dim), chunk(most(1, PART / problem.dim / C) * C) {}

  void run(int64_t begin, int64_t end) {
    const int64_t step = most(BLOCK, least(ROWS / dim, 4096)) / p.beam;
    for (; begin < end; begin += step) encode(p.x + begin * dim, p.codes + begin * p.stages, least(step, end - begin));
  }

 private:
  const Search& p;
  const int64_t dim, chunk;
  const float* book = nullptr;
  int64_t rows = 0, live = 1, keep = 1;
  Buffer<float> residual, next_residual, staged, transposed, half_norms, scales, best, second, floor;
  Buffer<int32_t> where, history, next_history;
  Buffer<int16_t> code_shorts;
  Buffer<double> squared, slack;  // |x|^2 and error bound of each lane
  Buffer<Path> paths;
  Buffer<int64_t> length;
  Buffer<int> pending;
  const float* prepared = nullptr;
  double code_norm = 0;  // the largest of the finite ones
  float code_step = 0;   // of the part that is prepared

  void encode(const float* x, int64_t* codes, int64_t count) {
    rows = count, live = 1;
    residual.resize(rows * dim), history.resize(rows * p.stages);
    std::memcpy(residual.data(), x, 4 * rows * dim);
    for (int64_t k = 0; k < p.stages; ++k) {
      book = p.books + k * p.size * dim;
      keep = least(p.beam, live * p.size);
      paths.resize(rows * keep);
      length.assign(rows, 0);
      if (p.beam == 1 && rows <= FEW)
        for (int64_t row = 0; row < rows; ++row) direct(row);
      else if (HAS_SHORT && dim >= SHORT_DIM && rows * live >= SHORT_ROWS)
        search<true>();
      else
        search<false>();
      advance(k);
    }
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t k = 0; k < p.stages; ++k) codes[row * p.stages + k] = history[row * live * p.stages + k];
  }

  int64_t row_of(int64_t lane) const { return live == 1 ? lane : lane / live; }  // divisions take their time

  // Exact distances of the codes [first, last) to a lane, into the list of its row.
  void settle(int64_t lane, int64_t first, int64_t last) {
    const int64_t row = row_of(lane), offset = (lane - row * live) * p.size;
    Path* const list = &paths[row * keep];
    for (int64_t v = first; v < last; ++v) {
      const double distance = squared_distance(&residual[lane * dim], book + v * dim, dim);
      const Path path{distance == distance ? distance : INF, offset + v};
      if (length[row] == keep && !(path < list[keep - 1])) continue;
      int64_t at = length[row] < keep ? length[row]++ : keep - 1;
      for (; at > 0 && path < list[at - 1]; --at) list[at] = list[at - 1];
      list[at] = path;
    }
  }

  // Settles those of up to 64 codes that can be the nearest to a row; without a beam. Distances in float32 tell, whose
  // rounding errors are relative, being sums of squares; `smallest` is the smallest one so far.
  void settle_nearest(int64_t row, int64_t first, int64_t last, float& smallest) {
    const float* const x = &residual[row * dim];
    float distances[64 + AT_ONCE];
    for (int64_t v = first; v < last; v += AT_ONCE) {
      const float* c[AT_ONCE];
      Float8 sum[AT_ONCE] = {};
      for (int i = 0; i < AT_ONCE; ++i) c[i] = book + least(v + i, last - 1) * dim;
      for (int64_t j = 0; j < dim; j += 8) {
        const Float8 value = load8(x + j, dim - j);
        for (int i = 0; i < AT_ONCE; ++i) {
          const Float8 d = value - load8(c[i] + j, dim - j);
          sum[i] += d * d;
        }
      }
      for (int i = 0; i < AT_ONCE; ++i) {
        const float distance = sum8(sum[i]);
        distances[v - first + i] = distance;
        smallest = distance < smallest ? distance : smallest;
      }
    }
    const double limit = smallest * (1 + 2.1 * (dim + 6) * 0x1p-24) + dim * 0x1p-125;
    uint64_t near = 0;
    for (int64_t i = 0; i < last - first; ++i) near |= (uint64_t)!(distances[i] > limit) << i;
    for (; near; near &= near - 1) settle(row, first + __builtin_ctzll(near), first + __builtin_ctzll(near) + 1);
  }

  void settle_tile(int64_t row, int64_t tile) {
    float smallest = INF;
    settle_nearest(row, tile, least(tile + C, p.size), smallest);
  }

  // The few rows of a streaming frame.
  void direct(int64_t row) {
    float smallest = INF;
    for (int64_t v = 0; v < p.size; v += 64) settle_nearest(row, v, least(v + 64, p.size), smallest);
  }

  // The score that a code needs to enter the list of its row.
  double needed(int64_t lane) const {
    const int64_t row = row_of(lane);
    const double score = (squared[lane] - paths[row * keep + keep - 1].error) / 2 - slack[lane];
    return length[row] == keep && score == score ? score : -INF;
  }

  template <bool SHORT>
  void search() {
    pending.resize(rows * live);
    squared.resize(pending.size()), slack.assign(pending.size(), 0.0);
    for (int lane = 0; lane < pending.size(); ++lane) {
      pending[lane] = lane;
      squared[lane] = squared_norm(&residual[lane * dim], dim);
    }
    prepared = nullptr;
    code_norm = 0;
    if (p.beam == 1) seed<SHORT>();
    collect<SHORT>();
  }

  // First scan: the best tile of each row is settled; rows where another one may hold a nearer code stay pending.
  template <bool SHORT>
  void seed() {
    const int64_t padded = pending.size() + W;
    best.assign(padded, -INF), second.assign(padded, -INF), where.assign(padded, 0);
    scan_all<SHORT>([&](int64_t at, int64_t tile, Vec top, const Vec(&)[C]) {
      const Vec old = load<Vec>(&best[at]), old_second = load<Vec>(&second[at]);
      const VecInt better = top > old, tiles = VecInt{} + (int32_t)tile;
      store(&where[at], better ? tiles : load<VecInt>(&where[at]));
      store(&best[at], better ? top : old);
      const Vec rest = better ? old : top;
      store(&second[at], rest > old_second ? rest : old_second);
    });
    int64_t left = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const char* const ahead = (const char*)(book + where[row + 2] * dim);  // of padded rows too
      for (int64_t byte = 0; byte < C * dim * 4; byte += 64) __builtin_prefetch(ahead + byte);
      settle_tile(row, where[row]);
      slack[row] = bound<SHORT>(squared[row]);
      if (!(needed(row) > second[row])) pending[left++] = row;
    }
    pending.resize(left);
  }

  // Second scan: every tile that can hold one of the best paths is settled.
  template <bool SHORT>
  void collect() {
    if (pending.size() == 0) return;
    floor.assign(pending.size() + W, INF);
    const auto raise = [&](int64_t at) {
      const double score = needed(pending[at]);
      floor[at] = (float)(score - std::fabs(score) * 0x1p-22);
    };
    const float* part = nullptr;
    scan_all<SHORT>([&](int64_t at, int64_t tile, Vec top, const Vec(&scores)[C]) {
      if (part != prepared) {  // the bound depends on the codes that are scanned
        part = prepared;
        for (int64_t i = 0; i < pending.size(); ++i) {
          slack[pending[i]] = bound<SHORT>(squared[pending[i]]);
          raise(i);
        }
      }
      for (uint32_t set = bits(top >= load<Vec>(&floor[at])); set; set &= set - 1) {
        const int in_vector = __builtin_ctz(set);
        const int64_t i = at + in_vector, lane = pending[i];
        for (int c = 0; c < C && tile + c < p.size; ++c)
          if (!(scores[c][in_vector] < floor[i])) settle(lane, tile + c, tile + c + 1);
        if (live == 1) raise(i);
        else for (int64_t l = lane / live * live; l < (lane / live + 1) * live; ++l) raise(l);
      }
    });
  }

  // Calls sink(position in `pending`, first code of the tile, highest scores, all scores) for every vector of lanes and
  // every tile.
  template <bool SHORT, class Sink>
  void scan_all(Sink&& sink) {
    const int64_t count = pending.size(), words = SHORT ? (dim + 1) / 2 : dim;
    for (int64_t first = 0; first < p.size; first += chunk) {
      const int64_t size = least(chunk, p.size - first);
      prepare<SHORT>(book + first * dim, size, words);
      const float* codes = SHORT ? (const float*)code_shorts.data() : prepared;
      for (int64_t at = 0; at < count; at += BLOCK) {
        const int vectors = (least(BLOCK, count - at) + W - 1) / W;
        const float* const rows = transpose<SHORT>(at, vectors, words);
        for (int64_t v = 0; v < size; v += C) {
          Tile tile;
          for (int i = 0; i < C; ++i) {
            const int64_t code = least(v + i, size - 1);
            tile.codes[i] = codes + code * words, tile.half_norms[i] = half_norms[code];
          }
          for (int group = 0; group < vectors; group += R) {
            const float* const part = rows + group * W * words;
            const auto put = [&](int r, Vec top, const Vec(&scores)[C]) {
              sink(at + (group + r) * W, first + v, top, scores);
            };
            const int rest = vectors - group;
            if (rest >= R) scan<R, SHORT>(part, &scales[group * W], tile, words, put);
            else if (rest == 1) scan<1, SHORT>(part, &scales[group * W], tile, words, put);
            else if (rest == 2) scan<2, SHORT>(part, &scales[group * W], tile, words, put);
            else scan<3, SHORT>(part, &scales[group * W], tile, words, put);
          }
        }
      }
    }
  }

  template <bool SHORT>
  void prepare(const float* codes, int64_t count, int64_t words) {
    if (prepared == codes) return;
    prepared = codes;
    half_norms.resize(count);
    double largest = 0;
    for (int64_t v = 0; v < count; ++v) {
      const double square = squared_norm(codes + v * dim, dim);
      const bool finite = std::isfinite(square);
      half_norms[v] = finite ? (float)(square / 2) : INF;  // an infinite one has no score
      if (finite && square > largest) largest = square;
    }
    largest = std::sqrt(largest);
    if (largest > code_norm) code_norm = largest;
    if (!SHORT) return;
    code_step = (float)(largest / L);
    code_shorts.resize(2 * count * words + W);
    for (int64_t v = 0; v < count; ++v) round_to_short(codes + v * dim, dim, code_step, &code_shorts[2 * v * words]);
  }

  // The lanes pending[at ...) as (vectors / R, words, R * W); the last group is narrower where vectors end.
  template <bool SHORT>
  const float* transpose(int64_t at, int vectors, int64_t words) {
    const int64_t stride = (words + W) / W * W;  // room for what is written in whole vectors
    staged.resize(BLOCK * stride), transposed.resize(BLOCK * stride), scales.resize(BLOCK);
    for (int lane = 0; lane < vectors * W; ++lane) {
      float* const to = &staged[lane * stride];
      if (at + lane >= pending.size()) {
        std::memset(to, 0, 4 * words);
        continue;
      }
      const int source = pending[at + lane];
      if (SHORT) {
        const float step = (float)(std::sqrt(squared[source]) / L);
        round_to_short(&residual[source * dim], dim, step, (int16_t*)to);
        scales[lane] = step * code_step;
      } else {
        std::memcpy(to, &residual[source * dim], 4 * dim);
      }
    }
    for (int vector = 0; vector < vectors; ++vector) {  // what is written past a group, the next one overwrites
      const int group = vector / R * R, width = least(R, vectors - group) * W;
      float* const to = &transposed[group * W * words + (vector - group) * W];
      for (int64_t w = 0; w < words; w += W)
        transpose_square(&staged[vector * W * stride + w], stride, to + w * width, width);
    }
    return transposed.data();
  }

  // The best paths become the rows' paths, with their residuals.
  void advance(int64_t stage) {
    if (p.beam == 1) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t code = paths[row].index;
        for (int64_t j = 0; j < dim; ++j) residual[row * dim + j] -= book[code * dim + j];
        history[row * p.stages + stage] = (int32_t)code;
      }
      return;
    }
    const int64_t lanes = rows * keep;
    next_residual.resize(lanes * dim), next_history.resize(lanes * p.stages);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t parent = lane / keep * live + paths[lane].index / p.size, code = paths[lane].index % p.size;
      const float *from = &residual[parent * dim], *c = book + code * dim;
      for (int64_t j = 0; j < dim; ++j) next_residual[lane * dim + j] = from[j] - c[j];
      std::memcpy(&next_history[lane * p.stages], &history[parent * p.stages], 4 * stage);
      next_history[lane * p.stages + stage] = (int32_t)code;
    }
    residual.swap(next_residual), history.swap(next_history);
    live = keep;
  }

  // The bound on the error of a score; infinite where an intermediate result may leave the range of float32.
  template <bool SHORT>
  double bound(double row_squared) const {
    const double product = std::sqrt(row_squared) * code_norm, code_squared = code_norm * code_norm;
    double total = (dim + 6) * 0x1.02p-24 * (product + code_squared / 2) +
                   (dim + 64) * 0x1p-54 * (row_squared + code_squared) + dim * 0x1p-125;
    if (SHORT) {
      const double rounded = 0.51 * std::sqrt((double)dim) / L;
      const bool tiny = (row_squared > 0 && row_squared < 0x1p-160) || code_squared < 0x1p-160;
      total += tiny ? product : rounded * (2 + rounded) * product + 0x1p-118;
    }
    return total < 1e30 ? total : INF;
  }
};

bool run(const Search& problem, int64_t begin, int64_t end) {
  try {
    Worker(problem).run(begin, end);
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

}  // namespace search
}  // namespace
