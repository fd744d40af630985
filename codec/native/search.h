// Residual vector quantization on the CPU. reference.py says what the result is; this is how to get it quickly.
//
// A score is x.c - |c|^2 / 2 = (|x|^2 - |x - c|^2) / 2: the nearest code vector has the highest. Rows are lanes: a block
// of rows is transposed once, and a tile of C code vectors is read as it lies in memory, each element broadcast to all
// rows. Of a tile only the highest score counts; a row keeps its two best tiles and the score of the third best. The exact
// distance of the nearest code in the best tile gives an exact score: where no other tile can reach it, all is settled,
// and where the second can, its codes are settled too. For the few rows where the third can as well, a second scan settles
// every tile that can. Nothing of size rows * codes is ever stored.
//
// Scores are bounds from above, so that "can reach" is proven. u = 2^-24; |.| is the Euclidean norm.
//   float32: computed <= exact + E and exact <= computed + E with E = (D + 6) u (|x||c| + |c|^2 / 2), for D fused
//     additions and the rounded |c|^2 / 2, with the largest |c| of the book.
//   bfloat16 products: with x = xh + xl and c = ch + cl the products lost are at most |xl||c| + |xh||cl|. One more pair of
//     elements, (|xl|, |xh|) for the row and (|c|, |cl|) for the code, adds exactly that to the score.
//   Both: (D + 64) 2^-54 (|x|^2 + |c|^2) for the float64 rounding of the exact distances, D 2^-125 for what underflows.
//
// Compile with -ffp-contract=off: the exact distance must not be fused.

#pragma once

#include <cmath>
#include <exception>

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
#if defined(__AVX512BF16__)
constexpr bool HAS_BFLOAT16 = true;
#else
constexpr bool HAS_BFLOAT16 = false;
#endif
constexpr int BLOCK = 64 / (R * W) * R * W;  // rows that are scanned together, 48 to 64
constexpr int64_t PART = 1 << 17;            // elements of a book that are prepared together
constexpr int64_t ROWS = 1 << 19;            // elements of the rows that pass a stage together
constexpr int64_t FEW = 4;                   // up to so many rows are not worth transposing
constexpr int64_t HALF_ROWS = 128;           // fewer rows, or narrower ones, gain nothing from bfloat16 products
constexpr int64_t HALF_DIM = 32;
constexpr float INF = __builtin_inff();

typedef float Float8 __attribute__((vector_size(32)));
typedef uint32_t Bits8 __attribute__((vector_size(32)));
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

#if defined(__AVX512BF16__)
// Squared norm of what rounding to bfloat16 loses, where its float32 elements may leave their range.
double lost_in_half(const float* x, int64_t dim, const uint16_t* half) {
  double sum = 0;
  for (int64_t j = 0; j < dim; ++j) {
    const uint32_t bits = (uint32_t)half[j] << 16;
    const double low = (double)x[j] - load<float>(&bits);
    sum += low * low;
  }
  return sum;
}

// Rounds to bfloat16; returns the squared norm of the rounding errors, or a little more. Writes up to a multiple of
// sixteen.
double round_to_half(const float* x, int64_t dim, uint16_t* half) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t j = 0; j < dim; j += 16) {
    const __m512 value = _mm512_maskz_loadu_ps(dim - j < 16 ? (1u << (dim - j)) - 1 : 0xffff, x + j);
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(value);
    store(half + j, high);
    const __m512 low = _mm512_sub_ps(value, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    squares = _mm512_fmadd_ps(low, low, squares);
  }
  const float square = _mm512_reduce_add_ps(squares);
  if (square > 0x1p-100f && square < 0x1p100f) return square * (1 + (dim + 32) * 0x1p-24);
  return lost_in_half(x, dim, half);
}
#else
double round_to_half(const float*, int64_t, uint16_t*) { return 0; }  // never called
#endif

uint16_t half_above(double value) {  // the next bfloat16 that is not less; value >= 0
  const float single = (float)value;
  return (uint16_t)((load<uint32_t>(&single) >> 16) + 1);
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

// Adds the products of a word of each row and a word of a code: a float, or two bfloat16.
template <bool HALF>
inline Vec add_products(Vec x, float c, Vec sum) {
#if defined(__AVX512BF16__)
  if constexpr (HALF) return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)_mm512_set1_ps(c));
#endif
  return multiply_add(x, c - Vec{}, sum);
}

// C code vectors that are scanned together; the last ones repeat where a book has no more.
struct Tile {
  const float* codes[C];
  float half_norms[C];
};

// Scores of V * W rows, (words, V * W), against a tile; sink(vector of rows, highest score, all C scores).
template <int V, bool HALF, class Sink>
inline void scan(const float* rows, const Tile& tile, int64_t words, Sink&& sink) {
  Vec sum[V][C];
  for (int r = 0; r < V; ++r)
    for (int i = 0; i < C; ++i) sum[r][i] = Vec{} - tile.half_norms[i];
  for (int64_t w = 0; w < words; ++w) {
    Vec x[V];
    for (int r = 0; r < V; ++r) x[r] = load<Vec>(rows + (w * V + r) * W);
    for (int i = 0; i < C; ++i)
      for (int r = 0; r < V; ++r) sum[r][i] = add_products<HALF>(x[r], tile.codes[i][w], sum[r][i]);
  }
  for (int r = 0; r < V; ++r) {
    Vec top = Vec{} - INF;  // a score that is no number is not larger than any
    for (int i = 0; i < C; ++i) top = sum[r][i] > top ? sum[r][i] : top;
    sink(r, top, sum[r]);
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
  Buffer<float> residual, next_residual, staged, transposed, half_norms, best, second, third, floor;
  Buffer<int32_t> where, where_second, history, next_history;
  Buffer<uint16_t> code_halves;
  Buffer<double> squared, slack;  // |x|^2 and error bound of each lane
  Buffer<Path> paths;
  Buffer<int64_t> length;
  Buffer<int> pending;
  const float* prepared = nullptr;
  double code_norm = 0;  // the largest of the finite ones

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
      else if (HAS_BFLOAT16 && dim >= HALF_DIM && rows * live >= HALF_ROWS)
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
    float distances[64];
    for (int64_t v = first; v < last; ++v) {
      const float* const c = book + v * dim;
      Float8 sum = {};
      for (int64_t j = 0; j < dim; j += 8) {
        const Float8 d = load8(x + j, dim - j) - load8(c + j, dim - j);
        sum += d * d;
      }
      const float distance = sum8(sum);
      distances[v - first] = distance;
      smallest = distance < smallest ? distance : smallest;
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

  template <bool HALF>
  void search() {
    pending.resize(rows * live);
    squared.resize(pending.size()), slack.assign(pending.size(), 0.0);
    for (int lane = 0; lane < pending.size(); ++lane) {
      pending[lane] = lane;
      squared[lane] = squared_norm(&residual[lane * dim], dim);
    }
    prepared = nullptr;
    code_norm = 0;
    if (p.beam == 1) seed<HALF>();
    collect<HALF>();
  }

  // First scan: the best tile of each row is settled, and the second if it may hold the nearest code; rows where a third
  // one may as well stay pending. Float32 scores say more, and there the second tile counts as the third.
  template <bool HALF>
  void seed() {
    const int64_t padded = pending.size() + W;
    best.assign(padded, -INF), third.assign(padded, -INF), where.assign(padded, 0);
    if (HALF) second.assign(padded, -INF), where_second.assign(padded, 0);
    scan_all<HALF>([&](int64_t at, int64_t tile, Vec top, const Vec(&)[C]) {
      const Vec old = load<Vec>(&best[at]);
      const VecInt better = top > old, tiles = VecInt{} + (int32_t)tile, old_tiles = load<VecInt>(&where[at]);
      store(&where[at], better ? tiles : old_tiles);
      store(&best[at], better ? top : old);
      Vec rest = better ? old : top;
      if (HALF) {
        const Vec old_second = load<Vec>(&second[at]);
        const VecInt higher = rest > old_second, rest_tiles = better ? old_tiles : tiles;
        store(&where_second[at], higher ? rest_tiles : load<VecInt>(&where_second[at]));
        store(&second[at], higher ? rest : old_second);
        rest = higher ? old_second : rest;
      }
      const Vec old_third = load<Vec>(&third[at]);
      store(&third[at], rest > old_third ? rest : old_third);
    });
    int64_t left = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const char* const ahead = (const char*)(book + where[row + 2] * dim);  // of padded rows too
      for (int64_t byte = 0; byte < C * dim * 4; byte += 64) __builtin_prefetch(ahead + byte);
      settle_tile(row, where[row]);
      slack[row] = bound<HALF>(squared[row]);
      if (HALF && !(needed(row) > second[row])) settle_tile(row, where_second[row]);
      if (!(needed(row) > third[row])) pending[left++] = row;
    }
    pending.resize(left);
  }

  // Second scan: every tile that can hold one of the best paths is settled.
  template <bool HALF>
  void collect() {
    if (pending.size() == 0) return;
    floor.assign(pending.size() + W, INF);
    const auto raise = [&](int64_t at) {
      const double score = needed(pending[at]);
      floor[at] = (float)(score - std::fabs(score) * 0x1p-22);
    };
    const float* part = nullptr;
    scan_all<HALF>([&](int64_t at, int64_t tile, Vec top, const Vec(&scores)[C]) {
      if (part != prepared) {  // the bound depends on the codes that are scanned
        part = prepared;
        for (int64_t i = 0; i < pending.size(); ++i) {
          slack[pending[i]] = bound<HALF>(squared[pending[i]]);
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
  template <bool HALF, class Sink>
  void scan_all(Sink&& sink) {
    const int64_t count = pending.size(), words = HALF ? (dim + 1) / 2 + 1 : dim;
    for (int64_t first = 0; first < p.size; first += chunk) {
      const int64_t size = least(chunk, p.size - first);
      prepare<HALF>(book + first * dim, size, words);
      const float* codes = HALF ? (const float*)code_halves.data() : prepared;
      for (int64_t at = 0; at < count; at += BLOCK) {
        const int vectors = (least(BLOCK, count - at) + W - 1) / W;
        const float* const rows = transpose<HALF>(at, vectors, words);
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
            if (rest >= R) scan<R, HALF>(part, tile, words, put);
            else if (rest == 1) scan<1, HALF>(part, tile, words, put);
            else if (rest == 2) scan<2, HALF>(part, tile, words, put);
            else scan<3, HALF>(part, tile, words, put);
          }
        }
      }
    }
  }

  template <bool HALF>
  void prepare(const float* codes, int64_t count, int64_t words) {
    if (prepared == codes) return;
    prepared = codes;
    half_norms.resize(count);
    if (HALF) code_halves.resize(2 * count * words + 16);
    for (int64_t v = 0; v < count; ++v) {
      const double square = squared_norm(codes + v * dim, dim), norm = std::sqrt(square);
      const bool finite = std::isfinite(square);
      half_norms[v] = finite ? (float)(square / 2) : INF;  // an infinite one has no score
      if (finite && norm > code_norm) code_norm = norm;
      if (HALF) {
        uint16_t* const halves = &code_halves[2 * v * words];
        const double error = std::sqrt(round_to_half(codes + v * dim, dim, halves));
        halves[2 * words - 2] = half_above(norm), halves[2 * words - 1] = half_above(error);
      }
    }
  }

  // The lanes pending[at ...) as (vectors / R, words, R * W); the last group is narrower where vectors end.
  template <bool HALF>
  const float* transpose(int64_t at, int vectors, int64_t words) {
    const int64_t stride = (words + W) / W * W;  // room for what is written in whole vectors
    staged.resize(BLOCK * stride), transposed.resize(BLOCK * stride);
    for (int lane = 0; lane < vectors * W; ++lane) {
      float* const to = &staged[lane * stride];
      if (at + lane >= pending.size()) {
        std::memset(to, 0, 4 * words);
        continue;
      }
      const int source = pending[at + lane];
      if (HALF) {
        uint16_t* const halves = (uint16_t*)to;
        const double error = std::sqrt(round_to_half(&residual[source * dim], dim, halves));
        halves[2 * words - 2] = half_above(error);
        halves[2 * words - 1] = half_above(std::sqrt(squared[source]) + error);
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
  template <bool HALF>
  double bound(double row_squared) const {
    const double wider = HALF ? 1.04 : 1;  // the norms of the rounded vectors, and the pair that was added
    const double terms = std::sqrt(row_squared) * code_norm * wider + code_norm * code_norm / 2;
    const double total = (dim + 6) * 0x1.02p-24 * terms +
                         (dim + 64) * 0x1p-54 * (row_squared + code_norm * code_norm) + dim * 0x1p-125;
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
